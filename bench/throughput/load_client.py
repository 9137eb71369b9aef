"""The load of `isthmus bench cloud`, in its own process: many clients of one gRPC server, each with one request at a
time, or a few streams with several each. Knows no model.

    python -m bench.throughput.load_client ADDRESS FOLDER

reads a `LoadRequest` a line from stdin, and prints a "loaded" event for each. The files of FOLDER are bitstreams, sent
in turn.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from pathlib import Path

import grpc.aio

from shared.process.process import announce
from shared.types import Frozen, Maps, Wanted, new_request_id
from shared.wire import analyzer_pb2 as pb
from shared.wire import convert
from shared.wire.analyzer_pb2_grpc import AnalyzerStub

MESSAGE_BYTES_MAX = 64 << 20


class LoadRequest(Frozen):
    """concurrency: requests under way at any time, for `seconds`. tasks: by name; empty: every task.

    streams: that share the requests; 0: each is a call of its own.
    """

    concurrency: int
    seconds: float
    tasks: tuple[str, ...] = ()
    maps: Maps = "none"
    streams: int = 0


class Reply(Frozen):
    """One answer. sent_s, done_s: since the load began. The others: the server's own times of its batch."""

    sent_s: float
    done_s: float
    queue_ms: float
    decode_ms: float
    tails_ms: float


class LoadResult(Frozen):
    """cpu_s: processor time of this process over `seconds`, which last until the last answer."""

    replies: tuple[Reply, ...]
    seconds: float
    cpu_s: float


async def send(stub: AnalyzerStub, streams: list[bytes], load: LoadRequest) -> LoadResult:
    """Sends the load. Raises grpc.aio.AioRpcError for the first request that fails."""
    wanted, turn = Wanted.same(load.tasks, top_k=5, maps=load.maps), itertools.cycle(streams)
    replies: list[Reply] = []
    cpu, began = time.process_time(), time.perf_counter()

    def now_s() -> float:
        return time.perf_counter() - began

    def message() -> pb.AnalyzeRequest:
        return convert.request_message(new_request_id(), next(turn), wanted)

    def replied(sent_s: float, times: pb.Times) -> None:
        server_ms = {"queue_ms": times.queue_ms, "decode_ms": times.decode_ms, "tails_ms": times.tails_ms}
        replies.append(Reply(sent_s=sent_s, done_s=now_s(), **server_ms))

    async def client() -> None:
        while (sent_s := now_s()) < load.seconds:
            replied(sent_s, (await stub.Analyze(message(), timeout=60)).times)

    async def stream(requests: int) -> None:
        """The next request is sent when one is answered."""
        call, sent_s = stub.AnalyzeStream(timeout=load.seconds + 60), {}
        for _ in range(requests):
            sent_s[(one := message()).request_id] = now_s()
            await call.write(one)
        while sent_s:
            got = await call.read()
            assert isinstance(got, pb.AnalyzeStreamResponse), "the server has ended the stream"
            assert not got.HasField("error"), got.error
            replied(sent_s.pop(got.request_id), got.answer.times)
            if now_s() < load.seconds:
                sent_s[(one := message()).request_id] = now_s()
                await call.write(one)
        await call.done_writing()

    async with asyncio.TaskGroup() as group:
        for number in range(load.streams or load.concurrency):
            part = len(range(number, load.concurrency, load.streams or load.concurrency))
            group.create_task(stream(part) if load.streams else client())
    return LoadResult(replies=tuple(replies), seconds=now_s(), cpu_s=time.process_time() - cpu)


async def main(address: str, folder: Path) -> None:
    streams = [path.read_bytes() for path in sorted(folder.iterdir())]
    options = [("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        stub: AnalyzerStub = AnalyzerStub(channel)
        announce("ready")
        while line := await asyncio.to_thread(sys.stdin.readline):
            result = await send(stub, streams, LoadRequest.model_validate(json.loads(line)))
            announce("loaded", **result.model_dump())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
