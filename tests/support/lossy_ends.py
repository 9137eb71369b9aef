"""The two ends of a simulated link: cameras whose scene is a random walk, and a cloud that works in batches.

Frames are chosen, coded, found and decoded by the classes of the product. An answer names the numbers that it is about,
so that the answer of another frame is another answer. Knows no link.

Legend: N channels of z, h x w latent grid, V elements of v, B images.
"""

from __future__ import annotations

import hashlib
import weakref
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud.engine.batch_work import Job, Served, work
from cloud.engine.exact_torch import TorchBackend
from cloud.sessions.session import FrameJob, Session, SessionCodec, Settled
from edge.frames import Extract, FrameEncoder, NextFrame, round_sticky
from edge.session_stream import PENDING_MAX, RESULTS_KEPT
from shared.codec.frame_codec import FrameCodec, Latent
from shared.codec.latent_codec import LatentCodec
from shared.errors import RequestError
from shared.kinds.classification import ClassificationResult, ClassScore
from shared.session_packets import (
    Answered,
    FrameReply,
    NeedIntra,
    SameAs,
    SessionOpen,
    confirms,
)
from shared.types import TaskQuery
from support.context_tensors import context_tensors
from support.random_codec import random_tensors
from support.session_ends import GRID, open_of

N, V = 3, 4
GAINS = {20: 0.6, 50: 1.0, 90: 1.6}  # by quality
HOLD = 0.3
NOISE = 0.1  # a little more than what never changes z at the highest quality
TICK_S = 0.2
INTRA_EVERY_S = 60.0
ROOM, THINGS = TaskQuery(name="room"), TaskQuery(name="things")  # a base answers `room` alone

_ANSWERS: weakref.WeakKeyDictionary[Latent, Answered] = weakref.WeakKeyDictionary()


def processors() -> dict[str, LatentCodec]:
    """One codec on two machines. Its generator is wide enough that batches use all threads of a matrix product."""
    tensors = random_tensors(3, n=N, v_size=V, tau=128, hidden=(64,), grid=GRID, qualities=tuple(GAINS))
    tensors |= context_tensors(slices=(0, 1, 1))
    return {"numpy": LatentCodec(tensors), "torch": LatentCodec(tensors, TorchBackend())}


def named(task: str, numbers: NDArray[np.int32], quality: int) -> ClassificationResult:
    """What a task says of z, or of the v of a base, at a quality: their digest."""
    whole = f"{task} {quality} ".encode() + numbers.astype("<i4").tobytes()
    digest = hashlib.sha256(whole).digest()
    index = int.from_bytes(digest[:4], "little")
    return ClassificationResult(top=(ClassScore(label=digest.hex(), index=index, score=0.5),))


def expected(latent: Latent) -> Answered:
    """The answer to a frame that says this."""
    known = _ANSWERS.get(latent)
    if known is None:
        numbers = latent.v if latent.z is None else latent.z
        tasks = ("room",) if latent.z is None else ("room", "things")
        results = {task: named(task, numbers, latent.quality) for task in tasks}
        known = _ANSWERS[latent] = Answered(results, ("things",) if latent.z is None else ())
    return known


class NamingModel:
    """Answers with the digest of what it is given."""

    base_tasks = frozenset({"room"})

    def __init__(self, codec: LatentCodec) -> None:
        self.codec = codec

    def answer(
        self, z: NDArray[np.int32], queries: Sequence[Sequence[TaskQuery]], qualities: Sequence[int]
    ) -> list[dict[str, Any]]:
        return [
            {query.name: named(query.name, numbers, quality) for query in asked}
            for numbers, asked, quality in zip(z, queries, qualities, strict=True)
        ]

    answer_base = answer

    def warm_up(self) -> None: ...


@dataclass(eq=False)
class Stream:
    """One session from its opening to its end. machine: of its edge. sent: every frame by its number; the truth."""

    opened: SessionOpen
    machine: str
    open: bool = True
    sent: dict[int, NextFrame] = field(default_factory=dict)
    newest: int = 0  # number that has arrived

    def reference(self, number: int) -> bytes | None:
        """The digest of the latent that a frame refers to."""
        reference = self.sent[number].reference
        return None if reference is None else self.sent[reference].latent.digest


class Scene:
    """What a camera sees: still most of the time, sometimes moving, sometimes another scene, or the one before it."""

    def __init__(self, seed: int, events: Counter[str]) -> None:
        self._rng, self._events = np.random.default_rng(seed), events
        self._u, self._before = self._drawn(), self._drawn()
        self._moving = 0

    def look(self) -> NDArray[np.float64]:
        """u (N, h, w) of the next image."""
        rng, chance = self._rng, self._rng.random()
        if chance < 1 / 600:
            self._before, self._u = self._u, self._drawn()
            self._events["another scene"] += 1
        elif chance < 1 / 300:
            self._before, self._u = self._u, self._before.copy()
            self._events["the scene before"] += 1
        elif chance < 1 / 80:
            self._moving = int(rng.integers(1, 6))
        if self._moving:
            self._moving -= 1
            self._u.reshape(-1)[rng.integers(0, self._u.size, 4)] += rng.normal(0, 3, 4)
            self._events["moved"] += 1
        return self._u + rng.uniform(-NOISE, NOISE, self._u.shape)

    def _drawn(self) -> NDArray[np.float64]:
        return self._rng.laplace(0, 3, (N, *GRID))


def extractor(u: NDArray[np.float64]) -> Extract:
    """As a bundle's extractor: z of u, rounded towards the reference, and v of that z."""

    def run(quality: int, reference: Latent | None) -> Latent:
        z = round_sticky(u * GAINS[quality], None if reference is None else reference.z, HOLD)
        sums = z.reshape(N, -1).sum(1) // 8
        v = np.append(sums, sums[0] - sums[1]).astype(np.int32)
        return Latent(v, z, GRID, quality)

    return run


class Edge:
    """One camera's end, which treats answers as `edge.session_stream` does. codecs: of the machines that it may run on.

    An answer "as frame n", whose own answer was lost, says nothing and is passed over.
    """

    def __init__(
        self, camera: int, codecs: dict[str, LatentCodec], random: Random, events: Counter[str]
    ) -> None:
        self._opens = open_of(("all", "changes", "none")[camera % 3], camera=f"camera-{camera}")
        self._codecs, self._random, self._events = codecs, random, events
        self._scene = Scene(random.getrandbits(32), events)
        self._quality, self._base_left = 50, 0
        self.start()

    def start(self) -> None:
        """Starts the process, on some machine."""
        self.machine = self._random.choice(sorted(self._codecs))
        self._codec = FrameCodec(self._codecs[self.machine])
        self.open()

    def open(self) -> None:
        """Opens another session: nothing of the last one counts."""
        opened = self._opens.model_copy(update={"session": self._random.randbytes(16)})
        self.stream = Stream(opened, self.machine)
        self.frames = FrameEncoder(self._codec, opened.key, intra_every_s=INTRA_EVERY_S)
        self._pending: dict[int, NextFrame] = {}
        self._results: OrderedDict[int, Answered] = OrderedDict()
        self._intra = False

    @property
    def is_full(self) -> bool:
        """Whether so many frames have no answer that the session is given up."""
        return len(self._pending) >= PENDING_MAX

    @property
    def in_base_phase(self) -> bool:
        return self._base_left > 0

    def capture(self, tick: int) -> NextFrame:
        """The frame of the next image."""
        random = self._random
        if random.random() < 1 / 300:
            self._quality = random.choice(sorted(GAINS))
            self._events["another quality"] += 1
        if self._base_left:
            self._base_left -= 1
        elif random.random() < 1 / 500:
            self._base_left = random.randrange(1, 60)
            self._events["base only"] += 1
        self.frames.base_only = self._base_left > 0
        intra, self._intra = self._intra, False
        sent = self.frames.next(extractor(self._scene.look()), self._quality, tick * TICK_S, intra)
        return self._put(sent)

    def refine(self, number: int) -> NextFrame | None:
        """The refinement of a frame, if it is kept."""
        sent = self.frames.refinement(number)
        return None if sent is None else self._put(sent)

    def take(self, reply: FrameReply) -> str:
        """Takes an answer; what is wrong with it, or empty."""
        outcome, sent = reply.outcome, self._pending.get(reply.number)
        if sent is None:
            self._events["answer again"] += 1
            return ""
        answered: Answered | None = None
        if isinstance(outcome, Answered):
            answered = self._results[reply.number] = outcome
            while len(self._results) > RESULTS_KEPT:
                self._results.popitem(last=False)
        elif isinstance(outcome, SameAs):
            if outcome.number not in self._results:
                self._events["as before, unknown"] += 1
                return ""
            self._results.move_to_end(outcome.number)
            answered = self._results[outcome.number]
        del self._pending[reply.number]
        if confirms(outcome):
            self.frames.confirm(reply.number)
        elif isinstance(outcome, NeedIntra):
            self.frames.need_intra(reply.number)
            self._intra = True
        self._events[f"took {type(outcome).__name__}"] += 1
        if answered is None or answered == expected(sent.latent):
            return ""
        return f"the edge took another frame's answer for frame {reply.number} {sent.frame.name}"

    def _put(self, sent: NextFrame) -> NextFrame:
        self._pending[sent.number] = self.stream.sent[sent.number] = sent
        self._events[f"sent {sent.frame.name}"] += 1
        return sent


@dataclass(frozen=True, eq=False)
class Waiting:
    """A job in the queue."""

    stream: Stream
    job: FrameJob
    since: int


@dataclass(frozen=True, eq=False)
class Worked:
    """A job that is done. latent: None if it could not be decoded."""

    waiting: Waiting
    settled: Settled
    latent: Latent | None


class Cloud:
    """The cloud's end from one start to the next, on one machine, in batches of `batch`.

    A session that it does not know is one that a start has forgotten: it begins anew, and its edge does not notice.
    """

    def __init__(self, machine: str, codec: LatentCodec, batch: int, random: Random) -> None:
        self.machine, self.batch, self._random = machine, batch, random
        self._served = Served(None, NamingModel(codec))  # type: ignore[arg-type] # work() needs no bundle
        self._knows = SessionCodec(_check_quality, GRID, FrameCodec(codec).predicts)
        self.sessions: dict[bytes, Session] = {}
        self.queue: list[Waiting] = []

    def session(self, stream: Stream) -> Session:
        name = stream.opened.session
        if name not in self.sessions:
            self.sessions[name] = Session(stream.opened, self._knows)
        return self.sessions[name]

    def close(self, stream: Stream) -> None:
        self.sessions.pop(stream.opened.session, None)
        self.queue = [one for one in self.queue if one.stream is not stream]

    def take_batch(self) -> list[Waiting]:
        """The next jobs, from anywhere in the queue."""
        self._random.shuffle(self.queue)
        batch, self.queue = self.queue[: self.batch], self.queue[self.batch :]
        return batch

    def work(self, batch: Sequence[Waiting]) -> list[Worked]:
        """Decodes and answers a batch, as the engine's thread and `cloud.sessions.live` do."""
        done = work([Job(one.job.source, _queries(one), self._served) for one in batch])
        out = []
        for one, result in zip(batch, done, strict=True):
            session = self.session(one.stream)
            if isinstance(result, Exception):
                out.append(Worked(one, session.fail(one.job, result), None))
                continue
            assert result.latent is not None
            missing = ("things",) if one.job.is_base else ()
            answer = Answered(result.results, missing) if _queries(one) else None
            out.append(Worked(one, session.settle(one.job, result.latent, answer), result.latent))
        return out


def _queries(one: Waiting) -> tuple[TaskQuery, ...]:
    if one.stream.opened.replies == "none":
        return ()
    return (ROOM,) if one.job.is_base else (ROOM, THINGS)


def _check_quality(quality: int) -> None:
    if quality not in GAINS:
        raise RequestError(f"quality {quality} is not one of this bundle's")
