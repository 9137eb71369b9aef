"""A cloud's side of AnalyzeSession in this process: decodes every frame, and answers as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from shared.codec.frame import Sent
from shared.encoder import Encoder
from shared.kinds.classification import ClassificationResult, ClassScore
from shared.session_packets import (
    Answered,
    FrameReply,
    NeedIntra,
    Outcome,
    SentFrame,
    SessionOpen,
    SessionReady,
)
from shared.types import TaskInfo
from shared.wire import analyzer_pb2 as pb
from shared.wire.sessions import FrameReader, ReplyWriter, open_of, ready_message
from support.receiver import Receiver

TASK = TaskInfo(name="classification", kind="classification", labels=("red", "green", "blue"))


def result(index: int) -> dict[str, ClassificationResult]:
    top = (ClassScore(label=TASK.labels[index], index=index, score=0.5),)
    return {TASK.name: ClassificationResult(top=top)}


class Cloud:
    """Opens streams and answers their frames as `act` says. base_tasks: see SessionReady."""

    def __init__(self, encoder: Encoder, base_tasks: tuple[str, ...] = ()) -> None:
        self.encoder, self.base_tasks = encoder, base_tasks
        self.streams: list[Stream] = []
        self.act: Callable[[Stream, SentFrame], Outcome | None] = lambda stream, frame: Answered(result(0))
        self.refuses: list[Exception] = []

    def open_session(self) -> Stream:
        self.streams.append(Stream(self))
        return self.streams[-1]

    async def close(self) -> None:
        pass


class Stream:
    """One call. frames: what came, by name; a frame that cannot be decoded is answered with NEED_INTRA."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.answers: asyncio.Queue[pb.SessionResponse | Exception | None] = asyncio.Queue()
        self.frames: list[tuple[int, str]] = []
        self.sent: list[SentFrame] = []
        self.declined: list[int] = []
        self.opened: SessionOpen | None = None
        self.cancelled = False
        self.reader = FrameReader()

    async def send(self, message: pb.SessionRequest) -> None:
        if message.HasField("open"):
            self.opened = open_of(message.open)
            if self.cloud.refuses:
                self.answers.put_nowait(self.cloud.refuses.pop(0))
                return
            self.receiver = Receiver(self.cloud.encoder.frames, self.opened.key, self.opened.grid)
            ready = SessionReady(
                bundle="levels",
                tasks=(TASK,),
                base_tasks=self.cloud.base_tasks,
                references_max=8,
                frames_max=8,
                idle_ms=60_000,
            )
            self.writer = ReplyWriter((TASK,))
            self.answers.put_nowait(ready_message(ready))
        elif message.HasField("declined"):
            self.declined.append(message.declined.number)
        else:
            frame = self.reader.frame(message.frame)
            self.sent.append(frame)
            self.frames.append((frame.number, Sent.unpack(frame.data).frame.name))
            if self.receiver.receive(frame.number, frame.data) is None:
                self.reply(frame.number, NeedIntra())
            elif (outcome := self.cloud.act(self, frame)) is not None:
                self.reply(frame.number, outcome)

    def reply(self, number: int, outcome: Outcome) -> None:
        self.answers.put_nowait(self.writer.message(FrameReply(number, outcome)))

    async def receive(self) -> pb.SessionResponse | None:
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def cancel(self) -> None:
        self.cancelled = True
