"""Where jobs are answered: a job in, its result and its wait out. Knows neither batcher nor cluster.

    pipeline, sessions -> Engine.submit(job) -> Done, and how long the job waited for its batch

`local_engine` works in a thread of this process. `cloud.engine.ray_engine` works in replicas of a Ray cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

from cloud.engine.batch_work import CrewedModel, Done, Job, work
from cloud.engine.batcher import Batcher, Pace
from cloud.engine.fair_queue import Share
from shared.bundle import Bundle
from shared.errors import IsthmusError

BatchSeen = Callable[[Sequence[Job], Sequence[Done | Exception]], None]


class Limits(Protocol):
    """What an engine needs of `cloud.settings.PipelineSettings`."""

    @property
    def batch_max(self) -> int:
        """Images in one batch."""

    @property
    def batch_wait_ms(self) -> float:
        """How long the first image of a batch waits for more."""

    @property
    def batch_shared_ms(self) -> float:
        """How long a batch takes, about, while several tokens send."""

    @property
    def queue_max(self) -> int:
        """Images of one bundle that wait; more are refused."""

    def pace(self, bundle: Bundle) -> Pace:
        """How that bundle's batches are formed, by its own settings where it has some."""


class Engine(Protocol):
    """Answers jobs. Must be made and used in one event loop."""

    @property
    def waiting(self) -> int:
        """Jobs that wait for a batch."""

    def refusal(self, lane: Hashable, share: Share) -> IsthmusError | None:
        """What `submit` would raise at once now for a job of that lane and share; None if it would take it."""

    async def submit(self, job: Job) -> tuple[Done, float]:
        """The job's result, and how long it waited for its batch, in ms. A caller that is cancelled gives its job up.

        Raises OverloadedError when too many wait, NotReadyError when the engine is ending or has lost the job and it
        may be sent again, or what is wrong with this job alone.
        """

    async def close(self) -> None:
        """Finishes what waits. Submitting is refused from here on."""


MakeEngine = Callable[[Limits, BatchSeen], Engine]


def local_engine(limits: Limits, seen: BatchSeen) -> Engine:
    """Batches in a thread of this process. seen: gets each batch and its outcomes, in that thread."""

    def answer(jobs: Sequence[Job]) -> list[Done | Exception]:
        outcomes = work(jobs)
        seen(jobs, outcomes)
        return outcomes

    return Batcher(
        answer,
        key=lambda job: job.batch_key,
        batch_max=limits.batch_max,
        wait_ms=limits.batch_wait_ms,
        queue_max=limits.queue_max,
        lane=lambda job: job.lane,
        share=lambda job: job.share,
        shared_ms=limits.batch_shared_ms,
        abreast=_abreast,
        pace=lambda job: limits.pace(job.served.bundle),
    )


def _abreast(job: Job) -> int:
    """Images that share a batch without one waiting for another: a thread each."""
    model = job.served.model
    return model.crew.threads if isinstance(model, CrewedModel) else 1
