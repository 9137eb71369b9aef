"""Emulated links: their rate, delay and loss, as modelled and as measured."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from bench.link import (
    QUEUE_BYTES,
    Direction,
    Link,
    Reached,
    Shape,
    measure,
    module,
    namespaces_work,
    open_link,
)
from shared.errors import IsthmusError
from shared.process.child_process import ROOT, server


def test_a_link_holds_its_rate_then_its_delay() -> None:
    direction = Direction(Shape(mbit=0.8, delay_ms=50), seed=0)
    assert direction.arrival(1000, 10.0) == pytest.approx(10.06)  # 10 ms on the wire, 50 ms of way
    assert direction.arrival(1000, 10.0) == pytest.approx(10.07)  # behind the first
    assert direction.arrival(1000, 11.0) == pytest.approx(11.06)  # the link was free again


def test_a_link_loses_its_share_the_same_each_time_and_what_its_queue_cannot_hold() -> None:
    def lost(seed: int) -> list[bool]:
        direction = Direction(Shape(mbit=1000, delay_ms=0, loss=0.25), seed)
        return [direction.arrival(100, float(now)) is None for now in range(4000)]

    assert sum(lost(1)) == pytest.approx(1000, abs=100)
    assert lost(1) == lost(1)
    assert lost(1) != lost(2)
    full = Direction(Shape(mbit=1, delay_ms=0), seed=0)
    arrivals = [full.arrival(1000, 0.0) for _ in range(200)]
    assert arrivals.index(None) == pytest.approx(QUEUE_BYTES / 1000, abs=2)
    assert full.lost == arrivals.count(None)


@pytest.fixture(params=["proxy", "namespaces"])
def link(request: pytest.FixtureRequest) -> Iterator[Link]:
    if request.param == "namespaces" and not namespaces_work():
        pytest.skip("network namespaces and TUN devices need root")
    with open_link(proxy=request.param == "proxy") as opened:
        yield opened


def test_a_link_reaches_its_shape(link: Link) -> None:
    shape = Shape(mbit=2, delay_ms=30)
    code = (
        "import sys; from bench.link import *\n"
        "print(measure(sys.argv[1], Shape.model_validate_json(sys.argv[2])).model_dump_json())"
    )
    with server("echo", [*link.cloud, *module("bench.link", "echo", link.host)], ROOT) as echo:
        address = link.reach(echo.wait_for("listening")["address"])
        link.shape(shape)
        command = [*link.edge, sys.executable, "-c", code, address]
        done = subprocess.run([*command, shape.model_dump_json()], capture_output=True, text=True, cwd=ROOT)
        reached = Reached.model_validate_json(done.stdout)
        packets, lost = link.shape(shape)
    # Busy machines only ever make it slower.
    assert 0.5 < reached.mbit < 2.1
    assert 60 <= reached.round_trip_ms < 200
    assert packets > 20
    assert lost == 0


def test_without_namespaces_an_echo_is_measured_at_once() -> None:
    with server("echo", module("bench.link", "echo", "127.0.0.1"), ROOT) as echo:
        reached = measure(echo.wait_for("listening")["address"], Shape(mbit=10, delay_ms=0))
    assert reached.mbit > 1


def test_a_process_that_ends_is_reported_by_its_last_line() -> None:
    with (
        server("link", [sys.executable, "-c", "raise SystemExit('no such device')"]) as process,
        pytest.raises(IsthmusError, match="the link did not start: no such device"),
    ):
        process.send({"shape": {}}, "shaped")
