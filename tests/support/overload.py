"""Clients that send more than a server can answer, on clocks of their own, and what became of it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc.aio
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shared.wire import analyzer_pb2 as pb
from shared.wire.analyzer_pb2_grpc import AnalyzerStub

OK, REFUSED = "OK", "RESOURCE_EXHAUSTED"


@dataclass(frozen=True)
class Load:
    """Of one token. rate: requests a second of all its clients together; None: each sends when it is answered."""

    token: str
    clients: int
    rate: float | None = None


@dataclass
class Outcome:
    """ms: of each call, by its status. hints: of refusals, those that say when to come again."""

    ms: dict[str, list[float]] = field(default_factory=dict)
    hints: int = 0
    seconds: float = 0.0

    @property
    def codes(self) -> Counter[str]:
        return Counter({code: len(ms) for code, ms in self.ms.items()})

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.codes[OK] / self.seconds

    def p99(self, code: str = OK) -> float:
        return float(np.percentile(self.ms[code], 99))


async def send(
    address: str, streams: Sequence[bytes], loads: Sequence[Load], seconds: float
) -> list[Outcome]:
    """All loads at the same time; every call that was begun is waited for."""
    turn, until = itertools.cycle(streams), time.perf_counter() + seconds
    outcomes = [Outcome(seconds=seconds) for _ in loads]

    async def call(stub: AnalyzerStub, load: Load, outcome: Outcome) -> None:
        began = time.perf_counter()
        metadata = grpc.aio.Metadata(("authorization", f"Bearer {load.token}"))
        running = stub.Analyze(pb.AnalyzeRequest(bitstream=next(turn)), timeout=60, metadata=metadata)
        code = (await running.code()).name
        outcome.ms.setdefault(code, []).append(1e3 * (time.perf_counter() - began))
        if code == REFUSED:
            outcome.hints += "grpc-retry-pushback-ms" in dict(await running.trailing_metadata() or ())

    async def client(load: Load, outcome: Outcome, number: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with (
            grpc.aio.insecure_channel(address, options=options) as channel,
            asyncio.TaskGroup() as calls,
        ):
            stub = AnalyzerStub(channel)
            due = time.perf_counter() + (number / load.rate if load.rate else 0)
            while time.perf_counter() < until:
                if load.rate is None:
                    await call(stub, load, outcome)
                    continue
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                due += load.clients / load.rate
                calls.create_task(call(stub, load, outcome))

    async with asyncio.TaskGroup() as group:
        for load, outcome in zip(loads, outcomes, strict=True):
            for number in range(load.clients):
                group.create_task(client(load, outcome, number))
    return outcomes


async def health(address: str) -> tuple[str, float]:
    """What a new connection is told, and how long that took, in ms."""
    began = time.perf_counter()
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
        status = health_pb2.HealthCheckResponse.ServingStatus.Name((await check).status)
    return status, 1e3 * (time.perf_counter() - began)
