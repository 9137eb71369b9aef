"""The link against a cloud that misbehaves: no frame is lost, none is taken for sent, and poison does not block it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import edge.link
from edge.lanes import InSession, UnansweredError
from edge.link import Link, Sent
from edge.spool.records import NewFrame, Spooled
from edge.spool.spool import Spool
from shared.errors import (
    CloudUnreachableError,
    DeadlineError,
    IsthmusError,
    OverloadedError,
    RemoteError,
    RemoteRejectedError,
)
from shared.process.logs import JsonLines
from shared.types import Analysis, BundleInfo, ByteCount, Times, Wanted
from support.service import until
from support.slow_disk import SlowDisk

OURS = "01234567"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge.link, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(edge.link, "WAIT_MAX_S", 0.01)
    monkeypatch.setattr(edge.link, "LOOK_S", 0.01)


class FakeCloud:
    """Answers after the failures that stand in `failures`, by the bytes of a frame; `gate` holds answers back."""

    def __init__(self, fingerprint: str = OURS) -> None:
        self.fingerprint = fingerprint
        self.away: IsthmusError | None = None
        self.failures: dict[bytes, list[IsthmusError]] = {}
        self.got: list[tuple[str, bytes, str]] = []
        self.wanted: list[Wanted] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.in_work = self.most = 0
        self.sessions: FakeSessions | None = None

    async def analyze(
        self, request_id: str, bitstream: bytes, wanted: Wanted, camera: str = "", captured_at: Any = None
    ) -> Analysis:
        self.in_work += 1
        self.most = max(self.most, self.in_work)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
            if self.away is not None:
                raise self.away
            if self.failures.get(bitstream):
                raise self.failures[bitstream].pop(0)
        finally:
            self.in_work -= 1
        self.got.append((request_id, bitstream, camera))
        self.wanted.append(wanted)
        sizes = ByteCount(b_v=0, b_z=0, total=len(bitstream), bits_per_pixel=0)
        return Analysis(
            request_id=request_id,
            bundle="b",
            fingerprint=OURS,
            quality=0,
            results={},
            bytes=sizes,
            times=Times(),
            captured_at=captured_at,
        )

    async def describe(self) -> list[BundleInfo]:
        if self.away is not None:
            raise self.away
        return [
            BundleInfo(
                name="theirs", fingerprint=self.fingerprint, qualities=(0,), default_quality=0, tasks=()
            )
        ]


class FakeSessions:
    """Takes frames that were not sent before. failures: what comes instead of an answer, by the bytes of a frame.

    gate: while it is closed, no answer comes; then such a frame is `light`.
    """

    def __init__(self, cloud: FakeCloud) -> None:
        self.cloud = cloud
        self.failures: dict[bytes, IsthmusError] = {}
        self.tried: list[str] = []
        self.light = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.starts = asyncio.Event()
        self.starts.set()

    async def analyze(self, one: Spooled) -> InSession | None:
        if one.again:
            return None
        await self.starts.wait()
        self.tried.append(one.id)
        if one.frame.data in self.failures:
            raise UnansweredError(self.failures[one.frame.data])
        self.light += 1
        await self.gate.wait()
        self.light -= 1
        return InSession(await self.cloud.analyze(one.id, b"S", Wanted()), 3, "S")


class Bench:
    """A spool, a link, and what was answered."""

    def __init__(self, spool: Spool, cloud: FakeCloud, in_flight_max: int) -> None:
        self.spool, self.cloud = spool, cloud
        self.answered: list[str] = []
        self.disk = ThreadPoolExecutor(1)
        self.sizes: list[tuple[str, int]] = []
        own = "ours", OURS
        self.link = Link(spool, cloud, in_flight_max, own, self._answered, self.disk, sessions=cloud.sessions)

    async def _answered(self, one: Spooled, sent: Sent) -> None:
        assert one.id == sent.answer.request_id
        self.answered.append(one.id)
        self.sizes.append((sent.type, sent.size))

    async def empty(self) -> None:
        await until(lambda: self.spool.depth == 0)


def frames(count: int, bundle: str = OURS) -> list[NewFrame]:
    return [NewFrame("door", bundle, bytes([i]), Wanted(top_k=3).model_dump_json()) for i in range(count)]


@asynccontextmanager
async def sending(
    path: Path, cloud: FakeCloud, in_flight_max: int = 4, clock: SlowDisk | None = None
) -> AsyncIterator[Bench]:
    with Spool(path, clock=clock) as spool:
        bench = Bench(spool, cloud, in_flight_max)
        task = asyncio.create_task(bench.link.run())
        try:
            yield bench
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            bench.disk.shutdown()


async def test_frames_are_sent_in_order_with_a_bound(tmp_path: Path) -> None:
    cloud = FakeCloud()
    moment = datetime(2026, 11, 29, tzinfo=UTC)
    async with sending(tmp_path, cloud) as bench:
        cloud.gate.clear()
        ids = bench.spool.put([*frames(20), NewFrame("yard", OURS, b"last", captured_at=moment)])
        bench.link.wake()
        await until(lambda: bench.link.in_flight == 4)
        cloud.gate.set()
        await bench.empty()
    assert [one[0] for one in cloud.got] == ids == bench.answered
    assert cloud.most == 4
    assert cloud.got[-1][2] == "yard"
    assert cloud.wanted[0] == Wanted(top_k=3)
    assert (bench.link.sent, bench.link.bytes) == (21, 24)


@pytest.mark.parametrize("error", [
    CloudUnreachableError("away"), DeadlineError("late"), OverloadedError("full"), RemoteError("odd"),
    RemoteRejectedError("UNAUTHENTICATED", "no token"), RemoteRejectedError("FAILED_PRECONDITION", "other bundle"),
    RemoteRejectedError("INTERNAL", "failed"),
])  # fmt: skip
async def test_what_passes(tmp_path: Path, error: IsthmusError) -> None:
    cloud = FakeCloud()
    for data in (b"\0", b"\5", b"\6"):
        cloud.failures[data] = [error] * 3
    async with sending(tmp_path, cloud) as bench:
        ids = bench.spool.put(frames(10))
        await bench.empty()
        assert bench.link.trouble == ""
    assert Counter(one[0] for one in cloud.got) == Counter(ids)
    assert bench.spool.state().drops == {}


@pytest.mark.parametrize("in_session", [False, True])
async def test_a_slow_disk_holds_up_nothing_else(tmp_path: Path, in_session: bool) -> None:
    cloud, disk = FakeCloud(), SlowDisk()
    if in_session:
        cloud.sessions = FakeSessions(cloud)
        cloud.sessions.failures[b"\0"] = CloudUnreachableError("gone")
        cloud.sessions.starts.clear()
    cloud.gate.clear()
    async with sending(tmp_path, cloud, clock=disk) as bench:
        bench.spool.put(frames(1))
        bench.link.wake()
        await until(lambda: bench.link.in_flight == 1)
        disk.stand_still()
        at_the_disk = asyncio.create_task(asyncio.to_thread(bench.spool.state))
        await until(disk.waited.is_set)
        cloud.away = CloudUnreachableError("gone")
        cloud.gate.set()
        if cloud.sessions is not None:
            cloud.sessions.starts.set()
        await until(lambda: bench.link.trouble)
        assert not disk.gave_up
        cloud.away = None
        disk.go_on()
        await at_the_disk
        await bench.empty()


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """The link's lines, as a box writes them with format = "json"."""
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(JsonLines())
    edge.link.log.addHandler(handler)
    yield handler.stream
    edge.link.log.removeHandler(handler)


@pytest.mark.parametrize(("error", "reason"), [
    (RemoteRejectedError("INVALID_ARGUMENT", "bad bytes"), "refused"),
    (RemoteRejectedError("NOT_FOUND", "no such task"), "refused"),
    (RemoteRejectedError("INTERNAL", "failed"), "failed"),
    (RemoteError("unreadable"), "failed"),
])  # fmt: skip
async def test_poison_is_dropped_and_blocks_nothing(
    tmp_path: Path, error: IsthmusError, reason: str, logged: io.StringIO
) -> None:
    cloud = FakeCloud()
    cloud.failures[b"\1"] = [error] * 100
    async with sending(tmp_path, cloud) as bench:
        ids = bench.spool.put(frames(10))
        await bench.empty()
        assert bench.spool.state().drops == {reason: 1}
    [dropped] = [
        line for line in map(json.loads, logged.getvalue().splitlines()) if "is dropped" in line["message"]
    ]
    assert dropped["request_id"] == ids[1]
    assert sorted(one[0] for one in cloud.got) == sorted(str(one) for one in ids if one != ids[1])


async def test_what_a_session_does_not_answer_is_sent_by_itself(tmp_path: Path) -> None:
    """Once, under the same id; a refusal of the session's does not count, one of the cloud's own does."""
    cloud = FakeCloud()
    cloud.sessions = FakeSessions(cloud)
    cloud.sessions.failures = {
        b"\1": CloudUnreachableError("gone"),
        b"\2": RemoteRejectedError("INVALID_ARGUMENT", "damaged on its way"),
        b"\3": RemoteError("odd"),
        b"\4": RemoteRejectedError("INVALID_ARGUMENT", "bad bytes"),
    }
    cloud.failures[b"\4"] = [RemoteRejectedError("INVALID_ARGUMENT", "bad bytes")]
    async with sending(tmp_path, cloud) as bench:
        ids = bench.spool.put(frames(6))
        await bench.empty()
        assert bench.spool.state().drops == {"refused": 1}
        assert (bench.link.sent, bench.link.in_session, bench.link.bytes) == (5, 2, 9)
    assert sorted(cloud.sessions.tried) == sorted(str(one) for one in ids)
    alone = [one[0] for one in cloud.got if one[1] != b"S"]
    assert sorted(alone) == sorted(str(one) for one in ids[1:4])
    assert sorted(bench.sizes) == [("", 1)] * 3 + [("S", 3)] * 2


async def test_frames_that_cost_the_cloud_nothing_hold_up_no_others(tmp_path: Path) -> None:
    """Although one frame at once is allowed, all are on their way."""
    cloud = FakeCloud()
    cloud.sessions = FakeSessions(cloud)
    cloud.sessions.gate.clear()
    async with sending(tmp_path, cloud, 1) as bench:
        bench.spool.put(frames(6))
        bench.link.wake()
        await until(lambda: cloud.sessions is not None and cloud.sessions.light == 6)
        cloud.sessions.gate.set()
        await bench.empty()
        assert bench.link.in_session == 6


async def test_a_cloud_that_is_away_at_the_start_and_in_between(tmp_path: Path) -> None:
    cloud = FakeCloud()
    cloud.away = CloudUnreachableError("nobody there")
    async with sending(tmp_path, cloud, 8) as bench:
        ids = bench.spool.put(frames(30))
        await until(lambda: bench.link.trouble == "nobody there")
        assert bench.link.sent == 0
        cloud.away = None
        await until(lambda: bench.link.sent >= 5)
        cloud.away = CloudUnreachableError("gone again")
        await until(lambda: bench.link.trouble == "gone again" or bench.spool.depth == 0)
        cloud.most = 0
        cloud.away = None
        await bench.empty()
    assert Counter(one[0] for one in cloud.got) == Counter(ids)


async def test_another_bundle_is_named_and_its_frames_wait(tmp_path: Path) -> None:
    cloud = FakeCloud("89abcdef")
    async with sending(tmp_path, cloud) as bench:
        bench.spool.put([*frames(3), *frames(2, "89abcdef")])
        await until(lambda: len(cloud.got) == 2)  # those of the bundle that the cloud has go through
        await until(lambda: bool(bench.link.trouble))
        for words in ("theirs (89abcdef)", "ours (01234567)"):
            assert words in bench.link.trouble
        assert bench.spool.depth == 3
        cloud.fingerprint = OURS
        await bench.empty()
    assert len(cloud.got) == 5


async def test_what_is_in_flight_at_the_end_stays(tmp_path: Path) -> None:
    cloud = FakeCloud()
    async with sending(tmp_path, cloud) as bench:
        cloud.gate.clear()
        ids = bench.spool.put(frames(6))
        await until(lambda: cloud.in_work == 4)
    with Spool(tmp_path) as spool:
        assert [one.id for one in spool.lease(9)] == ids
