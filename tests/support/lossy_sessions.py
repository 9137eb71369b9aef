"""Sessions over a link that drops, repeats, reorders and cuts, against the truth; the ends are `support.lossy_ends`.

    python -m support.lossy_sessions --count 50000 [--seed 0] [--torch-threads 1]      in a process of its own

Time goes in ticks; everything follows from the seed. In each tick every camera sends a frame, the cloud receives what
has come and works on a batch or more, and answers go back. At random
    a frame, an answer or a wish for a refinement is lost, comes twice, late or never
    a stream is cut: what is under way is lost, or strays into the session that the edge opens next
    an edge starts anew, on another machine, with another session
    the cloud starts anew, on another machine and with another size of batches: it has forgotten every session, and the
    edges go on with theirs
    the cloud stands still for a while, so that its queue fills

Judged are the integers that the cloud decodes, the reference that each accepted frame is filed with, the answers that
the cloud gives, and those that the edge takes from them. A frame whose reference the cloud no longer has passes its
check for another one once in 65,536 times for each; `chance` adds these up, the number of such faults to expect.
Prints a JSON object; exit status 1 and what was wrong on failure.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from random import Random
from typing import Generic, TypeVar

import numpy as np

from cloud.sessions.session import FrameJob, Session, Settled
from shared.codec.frame import NAMED_BYTES, Packet
from shared.codec.frame_codec import Coded, Latent
from shared.session_packets import (
    Answered,
    FrameReply,
    NeedIntra,
    Received,
    RefineAsked,
    Refused,
    confirms,
)
from support.lossy_ends import Cloud, Edge, Stream, Waiting, expected, processors

CAMERAS = 12
BATCHES = (1, 7, 32)
LATE = 5  # ticks
WRONG_MAX = 5

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Up:
    """A frame on its way. stream: of its edge."""

    camera: int
    stream: Stream
    number: int
    data: bytes


@dataclass(frozen=True, eq=False)
class Down:
    """An answer on its way."""

    camera: int
    stream: Stream
    message: FrameReply | RefineAsked


class Link(Generic[T]):
    """One direction. name: of its events."""

    def __init__(self, name: str, random: Random, events: Counter[str]) -> None:
        self._name, self._random, self._events = name, random, events
        self._due: defaultdict[int, list[T]] = defaultdict(list)

    def send(self, tick: int, item: T, lost: float = 0.01) -> None:
        chance = self._random.random()
        if chance < lost:
            self._events[f"{self._name} lost"] += 1
            return
        copies = 1 + (chance > 0.98)
        self._events[f"{self._name} twice"] += copies - 1
        for _ in range(copies):
            self._due[tick + self._delay()].append(item)

    def receive(self, tick: int) -> list[T]:
        return self._due.pop(tick, [])

    @property
    def is_empty(self) -> bool:
        return not self._due

    def _delay(self) -> int:
        """In ticks: mostly none."""
        chance = self._random.random()
        if chance < 0.8:
            return 0
        if chance < 0.98:
            return self._random.randrange(1, 4)
        self._events[f"{self._name} late"] += 1
        return self._random.randrange(LATE, 80)


class Simulation:
    """wrong: what must not happen, and did."""

    def __init__(self, seed: int) -> None:
        self._random, self.events = Random(seed), Counter[str]()
        self.wrong: list[str] = []
        self.chance = 0.0
        self._codecs = processors()
        self._up: Link[Up] = Link("frame", self._random, self.events)
        self._down: Link[Down] = Link("answer", self._random, self.events)
        self._edges = [Edge(i, self._codecs, self._random, self.events) for i in range(CAMERAS)]
        self._offline_until = [0] * CAMERAS
        self._still_until = 0
        self._cloud = self._started()

    def run(self, count: int) -> None:
        """Sends `count` frames, and receives what is under way."""
        tick = 0
        while self.sent < count or not (self._up.is_empty and self._down.is_empty and not self._cloud.queue):
            tick += 1
            if self.sent < count:
                self._break_something(tick)
                for camera, edge in enumerate(self._edges):
                    if tick >= self._offline_until[camera]:
                        self._send(tick, camera, edge.capture(tick).number)
                self._ask_for_refinements(tick)
            for frame in self._up.receive(tick):
                self._arrived(tick, frame)
            self._work(tick)
            for answer in self._down.receive(tick):
                self._answered(tick, answer)
            if len(self.wrong) >= WRONG_MAX:
                return

    @property
    def sent(self) -> int:
        return sum(number for event, number in self.events.items() if event.startswith("sent "))

    def _started(self) -> Cloud:
        machine = self._random.choice(sorted(self._codecs))
        batch = BATCHES[self.events["the cloud starts anew"] % len(BATCHES)]
        return Cloud(machine, self._codecs[machine], batch, self._random)

    def _break_something(self, tick: int) -> None:
        random = self._random
        if random.random() < 1 / 100:
            self.events["the cloud starts anew"] += 1
            self._cloud = self._started()
        if random.random() < 1 / 150:
            self.events["the cloud stands still"] += 1
            self._still_until = tick + random.randrange(2, 30)
        for camera, edge in enumerate(self._edges):
            chance = random.random()
            if chance < 1 / 800:
                self.events["cut"] += 1
                self._cut(camera)
                edge.open()
                self._offline_until[camera] = tick + random.randrange(10)
            elif chance < 1 / 500:
                self.events["an edge starts anew"] += 1
                self._cut(camera)
                edge.start()
            elif edge.is_full:
                self.events["given up: too many answers are missing"] += 1
                self._cut(camera)
                edge.open()

    def _cut(self, camera: int) -> None:
        stream = self._edges[camera].stream
        stream.open = False
        self._cloud.close(stream)

    def _send(self, tick: int, camera: int, number: int) -> None:
        stream = self._edges[camera].stream
        self._up.send(tick, Up(camera, stream, number, stream.sent[number].data))

    def _arrived(self, tick: int, frame: Up) -> None:
        stream = self._edges[frame.camera].stream
        if frame.stream is not stream:
            self._strayed(tick, frame, stream)
            return
        self.events["overtaken"] += frame.number < stream.newest
        stream.newest = max(stream.newest, frame.number)
        session, named = self._cloud.session(stream), stream.reference(frame.number)
        is_here = named is None or session.references.get(named) is not None
        if not is_here:
            self.chance += len(session.references) / 65_536
        given = session.receive(frame.number, frame.data)
        if given is None:
            self.events["again, while in work"] += 1
        elif isinstance(given, FrameJob):
            found = given.reference.digest if given.reference else None
            if found != named:
                self._is_wrong(f"frame {frame.number} was taken to refer to another latent")
            self._cloud.queue.append(Waiting(stream, given, tick))
        else:
            self._settled(tick, stream, frame.number, given)
            if isinstance(given.outcome, NeedIntra):
                self.events["two references fit" if is_here else "reference gone"] += 1

    def _strayed(self, tick: int, frame: Up, stream: Stream) -> None:
        """A frame of a stream that was cut: mostly lost; some come into the next one."""
        if self._random.random() < 0.7:
            self.events["lost by a cut"] += 1
            return
        session = self._cloud.session(stream)
        before = _state(session)
        self.chance += max(1, len(session.references)) / 65_536
        given = session.receive(frame.number, frame.data)
        if not isinstance(given, Settled) or confirms(given.outcome) or _state(session) != before:
            self._is_wrong(f"frame {frame.number} of another session was accepted")
            return
        self.events["strayed"] += 1
        self._reply(tick, stream, FrameReply(frame.number, given.outcome))

    def _work(self, tick: int) -> None:
        """Batches that are full, and those that have waited."""
        cloud = self._cloud
        while tick >= self._still_until and cloud.queue:
            if len(cloud.queue) < cloud.batch and tick - min(one.since for one in cloud.queue) < 2:
                return
            batch = cloud.take_batch()
            self._count_batch(batch)
            for done in cloud.work(batch):
                stream, number = done.waiting.stream, done.waiting.job.number
                if done.latent is not None and not _same(done.latent, stream.sent[number].latent):
                    self._is_wrong(f"frame {number} {stream.sent[number].frame.name} was decoded as another")
                if done.latent is not None and done.waiting.job.refines is not None:
                    self.events["refined"] += 1
                self._settled(tick, stream, number, done.settled)

    def _count_batch(self, batch: list[Waiting]) -> None:
        coded = [one.job.source for one in batch if isinstance(one.job.source, Coded)]
        self.events[f"batch of {len(batch)}"] += 1
        for size in Counter(source.group for source in coded).values():
            self.events[f"decoded {size} at once"] += 1
        for one in batch:
            self.events[f"{one.stream.machine} to {self._cloud.machine}"] += isinstance(one.job.source, Coded)

    def _settled(self, tick: int, stream: Stream, number: int, settled: Settled) -> None:
        """Judges what a frame is answered with, and answers."""
        sent, outcome = stream.sent[number], settled.outcome
        told = f"frame {number} {sent.frame.name}"
        if isinstance(outcome, Refused):
            self._is_wrong(f"{told} was refused: {outcome.error!r}")
        elif isinstance(outcome, NeedIntra):
            if not sent.frame.needs_reference:
                self._is_wrong(f"{told} needs no reference")
        elif isinstance(outcome, Received):
            if stream.opened.replies != "none":
                self._is_wrong(f"{told} was not answered")
        else:
            meant = outcome if isinstance(outcome, Answered) else expected(stream.sent[outcome.number].latent)
            if meant != expected(sent.latent):
                self._is_wrong(f"{told} was answered as another")
        if settled.accepted is not None:
            self.events[f"accepted {sent.frame.name}"] += 1
            named = stream.reference(number)
            filed = Packet.unpack(settled.accepted.packet).reference
            if filed != (named and named[:NAMED_BYTES]):
                self._is_wrong(f"{told} was filed with another reference")
        elif confirms(outcome):
            self.events["again, answered"] += 1
        self._reply(tick, stream, FrameReply(number, outcome))

    def _reply(self, tick: int, stream: Stream, message: FrameReply | RefineAsked) -> None:
        camera = int(stream.opened.camera.removeprefix("camera-"))
        needs = isinstance(message, FrameReply) and isinstance(message.outcome, NeedIntra)
        before = self.events["answer lost"]
        self._down.send(tick, Down(camera, stream, message), 0.1 if needs else 0.01)
        self.events["NEED_INTRA lost"] += needs and self.events["answer lost"] > before

    def _ask_for_refinements(self, tick: int) -> None:
        for edge in self._edges:
            if edge.in_base_phase and self._random.random() < 0.05:
                last = self._cloud.session(edge.stream).last_base()
                if last is not None:
                    self._reply(tick, edge.stream, RefineAsked(last[0]))

    def _answered(self, tick: int, answer: Down) -> None:
        edge, message = self._edges[answer.camera], answer.message
        if answer.stream is not edge.stream:
            self.events["answer lost by a cut"] += 1
        elif isinstance(message, FrameReply):
            wrong = edge.take(message)
            if wrong:
                self._is_wrong(wrong)
        else:
            sent = edge.refine(message.number)
            if sent is None:
                self.events["refinement declined"] += 1
            else:
                self._send(tick + 1, answer.camera, sent.number)

    def _is_wrong(self, text: str) -> None:
        self.wrong.append(text)


def _same(one: Latent, other: Latent) -> bool:
    """Whether every integer is the same."""
    if (one.z is None) != (other.z is None) or (one.quality, one.grid) != (other.quality, other.grid):
        return False
    same_z = one.z is None or other.z is None or np.array_equal(one.z, other.z)
    return same_z and np.array_equal(one.v, other.v)


def _state(session: Session) -> list[bytes]:
    """What a frame of another session must not change: the references in the order of their use."""
    return [held.digest for held in session.references]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--torch-threads", type=int, default=1)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.torch_threads)
    started, cpu = time.perf_counter(), time.process_time()
    simulation = Simulation(options.seed)
    simulation.run(options.count)
    report = {
        "frames": simulation.sent,
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "chance": round(simulation.chance, 4),
        "events": dict(sorted(simulation.events.items())),
        "wrong": simulation.wrong,
    }
    print(json.dumps(report, indent=1))
    return 1 if simulation.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
