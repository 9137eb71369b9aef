"""The load of `isthmus bench cloud`, in a process of its own: many clients of one gRPC server, each with one request
at a time. Knows no model.

    python -m bench.throughput.load ADDRESS FOLDER     a `Load` a line on stdin -> a "loaded" event with what it took

The pictures' bitstreams are the files of FOLDER, sent in turn.
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
from shared.wire import convert
from shared.wire.analyzer_pb2_grpc import AnalyzerStub

MESSAGE_BYTES_MAX = 64 << 20


class Load(Frozen):
    """concurrency: requests that are under way at any time, for `seconds`. tasks: none for every task."""

    concurrency: int
    seconds: float
    tasks: tuple[str, ...] = ()
    maps: Maps = "none"


class Reply(Frozen):
    """One answer. sent_s, done_s: since the load began. The others: the server's own times of its batch."""

    sent_s: float
    done_s: float
    queue_ms: float
    decode_ms: float
    tails_ms: float


class Loaded(Frozen):
    """cpu_s: of this process, meanwhile, over `seconds`, the last answer included."""

    replies: tuple[Reply, ...]
    seconds: float
    cpu_s: float


async def send(stub: AnalyzerStub, streams: list[bytes], load: Load) -> Loaded:
    """Raises grpc.aio.AioRpcError for the first request that fails."""
    wanted = Wanted.same(load.tasks, top_k=5, maps=load.maps)
    turn, replies = itertools.cycle(streams), []
    cpu, began = time.process_time(), time.perf_counter()

    async def client() -> None:
        while (sent := time.perf_counter() - began) < load.seconds:
            message = convert.request_message(new_request_id(), next(turn), wanted)
            answer = await stub.Analyze(message, timeout=60)
            done, times = time.perf_counter() - began, answer.times
            told = {"queue_ms": times.queue_ms, "decode_ms": times.decode_ms, "tails_ms": times.tails_ms}
            replies.append(Reply(sent_s=sent, done_s=done, **told))

    async with asyncio.TaskGroup() as group:
        for _ in range(load.concurrency):
            group.create_task(client())
    return Loaded(
        replies=tuple(replies), seconds=time.perf_counter() - began, cpu_s=time.process_time() - cpu
    )


async def main(address: str, folder: Path) -> None:
    streams = [path.read_bytes() for path in sorted(folder.iterdir())]
    options = [("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        stub: AnalyzerStub = AnalyzerStub(channel)
        announce("ready")
        while line := await asyncio.to_thread(sys.stdin.readline):
            loaded = await send(stub, streams, Load.model_validate(json.loads(line)))
            announce("loaded", **loaded.model_dump())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
