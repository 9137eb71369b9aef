"""One batch, from payloads to results, in the batch thread. Knows no container, no request and no session.

    Bitstream (version 1)  -> LatentCodec.decode_batch --> z
    Coded     (version 2)  -> FrameCodec.decode ---------> v, z; or v alone, which is a base
    Latent                 ------------------------------> v, z
                              whole latents -> Model.answer;  bases -> Model.answer_base

Payloads of a batch are decoded in groups that the codec takes together, and then share the reconstruction and tails,
whichever sessions or requests they came from.

Legend: B images, N channels of z, h x w latent grid, V elements of v.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cloud.engine.fair_queue import NOBODYS, Share
from shared.bundle import Bundle
from shared.codec.bitstream import Bitstream
from shared.codec.frame_codec import Coded, FrameCodec, Latent
from shared.codec.latent_codec import LatentCodec
from shared.errors import CorruptPayloadError
from shared.types import TaskQuery, TaskResult

if TYPE_CHECKING:
    from cloud.engine.crew import Crew
    from shared.encoder import Encoder

Results = dict[str, TaskResult]
T = TypeVar("T")


class Model(Protocol):
    """What the pipeline needs of `cloud.engine.bundle_model.CloudModel`."""

    codec: LatentCodec

    def answer(
        self, z: NDArray[np.int32], queries: Sequence[Sequence[TaskQuery]], qualities: Sequence[int]
    ) -> list[Results]:
        """z (B, N, h, w) int32, queries and a quality per image -> one dict of results per image."""

    def warm_up(self) -> None: ...


@runtime_checkable
class BaseModel(Model, Protocol):
    """A model that also answers bases. base_tasks: names of the tasks that a base alone answers."""

    @property
    def base_tasks(self) -> frozenset[str]: ...

    def answer_base(
        self, v: NDArray[np.int32], queries: Sequence[Sequence[TaskQuery]], qualities: Sequence[int]
    ) -> list[Results]:
        """v (B, V) int32, queries of `base_tasks` and a quality per image -> one dict of results per image."""


@runtime_checkable
class TimedModel(Protocol):
    """A model that knows how long the calling thread has spent, in all, on turning outputs into results, in seconds."""

    @property
    def postprocess_s(self) -> float: ...


@runtime_checkable
class CrewedModel(Model, Protocol):
    """A model that several threads may use at once, and the threads that share a batch of it."""

    crew: Crew


def base_tasks_of(model: Model) -> frozenset[str]:
    """Names of the tasks that a base alone answers."""
    return model.base_tasks if isinstance(model, BaseModel) else frozenset()


@dataclass(frozen=True, eq=False)
class Served:
    """A bundle with the tasks that it has at one time, and the model that answers them.

    A request takes it once, when it comes, and ends with it, whatever is swapped meanwhile. encoder: for images that
    come as they are; None where none do.
    """

    bundle: Bundle
    model: Model
    encoder: Encoder | None = None


@dataclass(frozen=True, eq=False)
class Job:
    """One image to decode and answer.

    queries: of a base, those that it answers; none: it is decoded and no more. share: who it is from.
    """

    source: Bitstream | Coded | Latent
    queries: tuple[TaskQuery, ...]
    served: Served
    share: Share = NOBODYS

    @property
    def grid(self) -> tuple[int, int]:
        """h, w."""
        source = self.source
        return (source.h, source.w) if isinstance(source, Bitstream) else source.grid

    @property
    def lane(self) -> Hashable:
        """Jobs of one bundle have a queue to themselves, whatever tasks it has at the moment."""
        return self.served.bundle.fingerprint

    @property
    def batch_key(self) -> Hashable:
        """Jobs with equal keys may share a batch."""
        return self.grid, self.served


@dataclass(frozen=True, eq=False)
class Done:
    """latent: None if the job came as version 1, whose v nobody needs again.

    Times are the whole batch's. postprocess_ms: the part of tails_ms that made results of outputs; 0 if unknown.
    ended_s: when the batch was done, by time.perf_counter.
    """

    latent: Latent | None
    results: Results
    decode_ms: float
    tails_ms: float
    postprocess_ms: float = 0.0
    ended_s: float = 0.0


# The parts of a batch run side by side: each of these is the longest, or the last.
_TIMES = ("decode_ms", "tails_ms", "postprocess_ms", "ended_s")

# z alone is of version 1.
_Decoded = NDArray[np.int32] | Latent | CorruptPayloadError


def work(jobs: Sequence[Job]) -> list[Done | Exception]:
    """The result of each job of a batch, or the error that only this job gets."""
    model = jobs[0].served.model  # a batch has one key, and this is a part of it
    if not isinstance(model, CrewedModel):
        return _piece(jobs)
    outcomes = model.crew.run(_piece, jobs)
    done = [one for one in outcomes if isinstance(one, Done)]
    if not done:
        return outcomes
    times = {name: max(getattr(one, name) for one in done) for name in _TIMES}
    return [replace(one, **times) if isinstance(one, Done) else one for one in outcomes]


def _piece(jobs: Sequence[Job]) -> list[Done | Exception]:
    """See `work`. What raises for all jobs together raises again for the one at fault alone."""
    try:
        return _work_together(jobs)
    except Exception as error:  # handed to the job whose error it is; the others are answered
        if len(jobs) == 1:
            return [error]
    return [outcome for job in jobs for outcome in _piece([job])]


def _work_together(jobs: Sequence[Job]) -> list[Done | Exception]:
    started = time.perf_counter()
    model = jobs[0].served.model
    decoded = _decode(model.codec, jobs)
    between = time.perf_counter()
    before_s = _postprocess_s(model)
    results = _answer(model, jobs, decoded)
    ended = time.perf_counter()
    postprocess_ms = (_postprocess_s(model) - before_s) * 1e3
    decode_ms, tails_ms = (between - started) * 1e3, (ended - between) * 1e3
    return [
        one
        if isinstance(one, CorruptPayloadError)
        else Done(one if isinstance(one, Latent) else None, given, decode_ms, tails_ms, postprocess_ms, ended)
        for one, given in zip(decoded, results, strict=True)
    ]


def _postprocess_s(model: Model) -> float:
    return model.postprocess_s if isinstance(model, TimedModel) else 0.0


def _decode(codec: LatentCodec, jobs: Sequence[Job]) -> list[_Decoded]:
    """What each job says, or why it says nothing."""
    out: list[_Decoded | None] = [None] * len(jobs)
    for rows in _groups(jobs, lambda job: _decode_key(job.source)).values():
        sources = [jobs[i].source for i in rows]
        streams = [source for source in sources if isinstance(source, Bitstream)]
        coded = [source for source in sources if isinstance(source, Coded)]
        given: Sequence[_Decoded] = [source for source in sources if isinstance(source, Latent)]
        if streams:
            given = _decode_streams(codec, streams)
        elif coded:
            given = FrameCodec(codec).decode(coded)
        for i, one in zip(rows, given, strict=True):
            out[i] = one
    return [one for one in out if one is not None]


def _decode_key(source: Bitstream | Coded | Latent) -> Hashable:
    return type(source), source.group if isinstance(source, Coded) else None


def _decode_streams(
    codec: LatentCodec, streams: Sequence[Bitstream]
) -> list[NDArray[np.int32] | CorruptPayloadError]:
    """z (N, h, w) of each stream of version 1, or why it has none."""
    h, w = streams[0].h, streams[0].w
    payloads, qualities = [(s.b_v, s.b_z) for s in streams], [s.quality for s in streams]
    try:
        return list(codec.decode_batch(payloads, h, w, qualities))
    except CorruptPayloadError as error:
        if len(streams) == 1:
            return [error]
    # One of them is damaged: each alone, so that the others keep their answer.
    return [outcome for stream in streams for outcome in _decode_streams(codec, [stream])]


def _answer(model: Model, jobs: Sequence[Job], decoded: Sequence[_Decoded]) -> list[Results]:
    """The results of each job; none where it asks nothing or could not be decoded."""
    out: list[Results] = [{} for _ in jobs]
    whole: list[tuple[int, NDArray[np.int32]]] = []
    bases: list[tuple[int, NDArray[np.int32]]] = []
    for i, (job, one) in enumerate(zip(jobs, decoded, strict=True)):
        if not job.queries or isinstance(one, CorruptPayloadError):
            continue
        if not isinstance(one, Latent):
            whole.append((i, one))
        elif one.z is not None:
            whole.append((i, one.z))
        else:
            bases.append((i, one.v))
    _ask(model.answer, whole, jobs, out)
    if isinstance(model, BaseModel):  # otherwise no base is asked anything
        _ask(model.answer_base, bases, jobs, out)
    return out


def _ask(
    answer: Callable[..., list[Results]],
    rows: Sequence[tuple[int, NDArray[np.int32]]],
    jobs: Sequence[Job],
    out: list[Results],
) -> None:
    """Fills in the results of those jobs. rows: the jobs' positions, and what the model gets of each."""
    if not rows:
        return
    asked = [jobs[i] for i, _ in rows]
    numbers = np.stack([numbers for _, numbers in rows])
    answers = answer(numbers, [job.queries for job in asked], [job.source.quality for job in asked])
    for (i, _), results in zip(rows, answers, strict=True):
        out[i] = results


def _groups(items: Sequence[T], key: Callable[[T], Hashable]) -> dict[Hashable, list[int]]:
    """The positions of the items by their key, in order."""
    groups: dict[Hashable, list[int]] = {}
    for i, item in enumerate(items):
        groups.setdefault(key(item), []).append(i)
    return groups
