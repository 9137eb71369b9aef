"""A camera and a cloud, both as they are, on a link that drops, repeats, reorders and cuts, with restarts of both.

    FrameEncoder -> frames in flight -> Session -> jobs, decoded in batches -> answers in flight -> FrameEncoder

What the cloud decodes and answers is compared with what the camera meant, frame by frame. One thread, no clock.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloud.sessions.sameness import essence
from cloud.sessions.session import FrameJob, Session, SessionCodec, Settled
from edge.frames import Extract, FrameEncoder, NextFrame, round_sticky
from shared.codec.context import Ints
from shared.codec.frame_codec import Coded, FrameCodec, Latent
from shared.session_packets import NeedIntra, Outcome, Refused, SameAs, confirms
from support.session_ends import GRID, QUALITY, N, V, answer_of, check_quality, open_of

DROPPED, REPEATED, CUT, CLOUD_RESTARTS, EDGE_RESTARTS = 0.03, 0.05, 0.004, 0.006, 0.004
REORDERED = 4  # how far a message may be overtaken


@dataclass(frozen=True)
class Up:
    session: bytes
    number: int
    data: bytes


@dataclass(frozen=True)
class Down:
    session: bytes
    number: int
    outcome: Outcome


class LossyLink:
    """camera, cloud: the codec of each, equal in what they decode. batch: frames that are decoded at once."""

    def __init__(self, camera: FrameCodec, cloud: FrameCodec, batch: int, seed: int) -> None:
        self._camera, self._cloud, self._batch = camera, cloud, batch
        self._rng = np.random.default_rng(seed)
        self._scene: NDArray[np.float64] = self._rng.laplace(0, 3, (N, *GRID))
        self._up: list[Up] = []
        self._down: list[Down] = []
        self._jobs: list[tuple[bytes, FrameJob]] = []
        self._meant: dict[int, Latent] = {}  # by number, of the camera's session
        self.counts: Counter[str] = Counter()
        self._sessions = 0
        self._open()

    def run(self, frames: int) -> Counter[str]:
        """Sends so many. Returns how often what happened. Raises AssertionError for the first difference."""
        for _ in range(frames):
            self._maybe_break()
            self._send(self._frame())
            for _ in range(int(self._rng.integers(0, 4))):
                self._arrive()
            if len(self._jobs) >= self._batch or self._rng.random() < 0.1:
                self._work()
            for _ in range(int(self._rng.integers(0, 4))):
                self._return()
        return self.counts

    def _open(self) -> None:
        """Another session: what is in flight belongs to the one before, and may still arrive."""
        self._sessions += 1
        self._opened = open_of("changes", session=self._sessions.to_bytes(16, "little"))
        self._frames = FrameEncoder(self._camera, self._opened.key, intra_every_s=200)
        self._meant.clear()
        self._start_cloud()

    def _start_cloud(self) -> None:
        knows = SessionCodec(check_quality, GRID, self._cloud.predicts)
        self._session = Session(self._opened, knows)
        self._jobs.clear()

    def _maybe_break(self) -> None:
        event = self._rng.random()
        if event < CUT:
            self.counts["cut"] += 1
            self._up.clear()
            self._down.clear()
            self._open()
        elif event < CUT + CLOUD_RESTARTS:
            self.counts["cloud restarts"] += 1
            self._start_cloud()
        elif event < CUT + CLOUD_RESTARTS + EDGE_RESTARTS:
            self.counts["edge restarts"] += 1
            self._open()

    def _frame(self) -> NextFrame:
        """Of a scene that stands still, changes a little, or is another one."""
        rng, kind = self._rng, self._rng.random()
        if kind < 0.01:
            self._scene = rng.laplace(0, 3, (N, *GRID))
        elif kind < 0.08:
            at = rng.integers(0, self._scene.size, 3)
            self._scene.reshape(-1)[at] += rng.normal(0, 2, 3)
        seen = self._scene + rng.normal(0, 0.08, self._scene.shape)
        sent = self._frames.next(_extract(seen), QUALITY, float(self.counts["sent"]))
        self.counts["sent"] += 1
        self.counts[sent.frame.name] += 1
        self._meant[sent.number] = sent.latent
        self._meant.pop(sent.number - 500, None)
        return sent

    def _send(self, sent: NextFrame) -> None:
        if self._rng.random() >= DROPPED:
            self._up.append(Up(self._opened.session, sent.number, sent.data))

    def _taken(self, queue: list[Up] | list[Down]) -> int:
        """Which message comes next."""
        return int(self._rng.integers(min(REORDERED, len(queue))))

    def _arrive(self) -> None:
        if not self._up:
            return
        at = self._taken(self._up)
        one = self._up[at] if self._rng.random() < REPEATED else self._up.pop(at)
        given = self._session.receive(one.number, one.data)
        if isinstance(given, FrameJob):
            self._jobs.append((self._opened.session, given))
        elif given is not None:
            self._answer(one.session, one.number, given)

    def _work(self) -> None:
        """A batch: the frames that can be decoded together, as the engine groups them."""
        batch, self._jobs = self._jobs[: self._batch], self._jobs[self._batch :]
        groups: dict[object, list[FrameJob]] = {}
        for _, job in batch:
            assert isinstance(job.source, Coded)
            groups.setdefault(job.source.group, []).append(job)
        for jobs in groups.values():
            decoded = self._cloud.decode([job.source for job in jobs if isinstance(job.source, Coded)])
            self.counts["batches"] += 1
            for job, latent in zip(jobs, decoded, strict=True):
                assert isinstance(latent, Latent), latent
                assert latent.digest == self._meant[job.number].digest, (
                    f"frame {job.number} was decoded wrongly"
                )
                settled = self._session.settle(job, latent, answer_of(latent))
                self._answer(self._opened.session, job.number, settled)

    def _answer(self, session: bytes, number: int, settled: Settled) -> None:
        """Compares, and sends."""
        outcome = settled.outcome
        self.counts[type(outcome).__name__] += 1
        if session == self._opened.session:
            assert not isinstance(outcome, Refused), outcome.error
            if confirms(outcome):
                meant = answer_of(self._meant[number])
                if isinstance(outcome, SameAs):
                    assert essence(answer_of(self._meant[outcome.number])) == essence(meant)
                else:
                    assert outcome == meant, f"frame {number} got the answer of another one"
        else:  # of the session before: it must not be taken
            assert isinstance(outcome, Refused | NeedIntra), outcome
        if self._rng.random() >= DROPPED:
            self._down.append(Down(session, number, outcome))

    def _return(self) -> None:
        if not self._down:
            return
        at = self._taken(self._down)
        one = self._down[at] if self._rng.random() < REPEATED else self._down.pop(at)
        if one.session != self._opened.session:
            return
        if confirms(one.outcome):
            self._frames.confirm(one.number)
        elif isinstance(one.outcome, NeedIntra):
            self._frames.need_intra(one.number)


def _extract(s: NDArray[np.float64]) -> Extract:
    """v follows from z."""

    def run(quality: int, reference: Latent | None) -> Latent:
        z: Ints = round_sticky(s, None if reference is None else reference.z, 0.3)
        v = np.clip(z.reshape(N, -1).sum(1) // 8, -9, 9)
        return Latent(np.resize(v, V).astype(np.int32), z, GRID, quality)

    return run
