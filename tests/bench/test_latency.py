"""`isthmus bench latency`: its links, the server that it races against, a whole run on small networks, its words."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bench.latency.edge_site import Answered
from bench.latency.latency import equal_quality
from bench.latency.latency_report import (
    LOOPBACK,
    MIDDLE,
    SLOW,
    Asked,
    EdgeProcess,
    Latency,
    OnLink,
    Spread,
    Way,
    sections,
    targets,
    write_latency,
)
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
from bench.report.report import About
from shared.errors import DataError, IsthmusError
from shared.process.child_process import ROOT, server
from support.processes import refused, run
from support.service import png
from train.rooms import write_rooms

STAGES = ("decode image", "fronts", "transform", "extractor", "exact path", "range coder", "container")


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


def test_a_link_reaches_what_it_is_told_to_be(link: Link) -> None:
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


def test_the_whole_network_server_answers_what_the_network_says(tiny_network: Path) -> None:
    with server(
        "whole", module("bench.latency.whole_network_server", "127.0.0.1", "1", str(tiny_network)), ROOT
    ) as whole:
        address = whole.wait_for("listening")["http"]
        answer = httpx.post(f"http://{address}/analyze", content=png(), timeout=60)
        (result,) = answer.json().values()
        assert result["kind"] == "classification"
        assert sum(one["score"] for one in result["top"]) == pytest.approx(1, abs=1e-3)


def test_the_edges_side_loads_no_torch() -> None:
    code = "import sys, bench.latency.edge_site, bench.link; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "False", done.stderr


def test_quick_runs_to_its_end_on_small_networks(
    tmp_path: Path, tiny_bundle: Path, tiny_network: Path
) -> None:
    write_rooms(tmp_path / "rooms", range(3), height=64, width=64, layers=("image",))
    out = tmp_path / "run"
    names = ("--network", tiny_network, "--data", tmp_path / "rooms", "--out", out)
    done = run("bench", "latency", tiny_bundle, *names, "--quick", "--proxy")
    assert done.returncode == 0, done.stderr
    told = json.loads((out / "results.json").read_text())
    assert told["about"]["pictures"] == 2
    assert [link["name"] for link in told["links"]] == [LOOPBACK, str(SLOW), str(MIDDLE)]
    ways = {way["name"] for way in told["ways"]}
    for link in told["links"]:
        assert set(link["answers"]) == ways
        assert all(asked["ms"]["count"] == 2 for asked in link["answers"].values())
    slow = told["links"][1]["answers"]
    assert slow["Isthmus"]["ms"]["median"] > 40  # two ways of 20 ms
    assert slow["local"]["ms"]["median"] < 40 or told["stages"]["fronts"]["median"] > 10
    assert slow["Isthmus"]["bytes"] < slow["JPEG 75"]["bytes"]
    assert told["edge"]["start_memory_mb"] < 300
    assert all(0 <= spread["median"] <= spread["p95"] for spread in told["stages"].values())
    assert {"wire, in the service", *STAGES} <= set(told["stages"])
    assert (out / "latency.png").read_bytes().startswith(b"\x89PNG")
    assert "### Time to answer" in (out / "results.md").read_text()


def test_a_task_without_its_network_is_told(tmp_path: Path, tiny_bundle: Path) -> None:
    write_rooms(tmp_path / "rooms", range(1), height=64, width=64, layers=("image",))
    names = ("--network", tmp_path / "none", "--data", tmp_path / "rooms", "--out", tmp_path / "run")
    assert "no trained network in" in refused("bench", "latency", tiny_bundle, *names, status=2)


def spread(ms: float) -> Spread:
    return Spread(median=ms, p95=2 * ms, count=3)


def latency(ways: dict[str, tuple[float, float]], edge_ms: float = 7.0) -> Latency:
    """Made up. ways: ms of each on SLOW and on MIDDLE. Every stage of the edge takes a seventh of edge_ms."""
    forms = {"Isthmus": "isthmus", "local": "local"}
    made = tuple(
        Way(name=name, form=forms.get(name, name.split()[0]), equal=name.endswith("50")) for name in ways
    )

    def on(which: int, shape: Shape | None) -> OnLink:
        answers = {name: Asked(ms=spread(ms[which]), bytes=100.0, stages={}) for name, ms in ways.items()}
        reached = shape and Reached(mbit=shape.mbit, round_trip_ms=2 * shape.delay_ms)
        return OnLink(name=str(shape or LOOPBACK), shape=shape, reached=reached, answers=answers)

    rest = ("exact path + coding, decoding", "reconstruction", "tails", "results")
    return Latency(
        about=About(
            command="isthmus bench latency", date="2026-01-02T03:04:05+00:00", pictures=3, machine={}
        ),
        link="made up",
        ways=made,
        stages={**{name: spread(edge_ms / 7) for name in STAGES}, **{name: spread(1.0) for name in rest}},
        links=(on(0, None), on(0, SLOW), on(1, MIDDLE)),
        cold={name: spread(10.0) for name in ways if name != "local"},
        edge=EdgeProcess(start_s=spread(1.0), start_memory_mb=100, served_memory_mb=200),
    )


def told_targets(made: Latency) -> dict[str, tuple[str, bool | None]]:
    return {target.what: (target.reached, target.met) for target in targets(sections(made))}


def test_targets_are_ratios_of_medians() -> None:
    ways = {
        "Isthmus": (100.0, 80.0),
        "JPEG 75": (310.0, 100.0),
        "AVIF 50": (140.0, 90.0),
        "local": (27.0, 27.0),
    }
    told = told_targets(latency(ways))
    assert told[f"{SLOW}: against JPEG 75"] == ("3.10x", True)
    assert told[f"{SLOW}: against best image codec at equal task quality"] == ("1.40x", False)
    assert told[f"{MIDDLE}: against JPEG 75"] == ("1.25x", False)
    assert told["edge: all after the fronts"] == ("5.00", False)
    assert told["edge: resident memory"] == ("200 MB", True)


def test_the_map_says_who_wins_where_and_until_when_local_does() -> None:
    ways = {"Isthmus": (107.0, 80.0), "JPEG 75": (310.0, 60.0), "local": (27.0, 27.0)}
    choice = next(section for section in sections(latency(ways)) if section.title == "When to use what")
    assert [row[1:3] for row in choice.rows] == [("local", "Isthmus"), ("local", "JPEG 75")]
    # k * 7 + 100 on Isthmus's side, k * 27 on the other: equal at k = 5.
    assert choice.rows[0][3] == "5.0x"
    text = " ".join(choice.notes)
    assert "shorter than sending on all 2 links" in text
    assert f"Isthmus is the shortest on 1 of 2 links ({SLOW})" in text
    slower = sections(latency({**ways, "local": (200.0, 200.0)}))[2]
    assert [row[1] for row in slower.rows] == ["Isthmus", "JPEG 75"]
    assert slower.rows[0][3] == "never"
    assert "longer than sending on every link" in " ".join(slower.notes)


def test_an_answers_wire_is_what_the_cloud_did_not_take() -> None:
    times = {"send_ms": 50.0, "queue_ms": 2.0, "decode_ms": 3.0, "tails_ms": 20.0}
    asked = Asked.of([Answered(ms=60, bytes=300, times=times)] * 2)
    assert asked.stages["wire"].median == 25.0
    assert asked.ms.count == 2


def test_the_report_is_written_whole(tmp_path: Path) -> None:
    write_latency(tmp_path, latency({"Isthmus": (100.0, 80.0), "JPEG 75": (310.0, 100.0)}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latency.png", "results.json", "results.md"]
    assert "| 0.25 Mbit/s, 20 ms | 100 / 200 | 310 / 620 (3.10x) |" in (tmp_path / "results.md").read_text()


def rate_results(path: Path, top1: list[float], own: float) -> Path:
    def way(name: str, points: dict[str, float]) -> dict[str, object]:
        return {
            "name": name,
            "family": "image",
            "settings": "",
            "together": True,
            "pictures": 9,
            "points": [
                {
                    "setting": setting,
                    "bytes": {"classification": 1.0},
                    "tasks": {"classification": {"top1": top}},
                }
                for setting, top in points.items()
            ],
        }

    ladder = dict(zip(("quality 10", "quality 50", "quality 90"), top1, strict=True))
    ways = [way("Isthmus", {"quality 90": own}), way("JPEG", ladder)]
    path.write_text(json.dumps({"default": "quality 90", "ways": ways}))
    return path


@pytest.mark.parametrize(
    ("top1", "own", "quality"),
    [
        ([0.5, 0.7, 0.9], 0.8, 70),  # half way between two settings
        ([0.5, 0.7, 0.9], 0.4, 10),
        ([0.5, 0.7, 0.9], 0.95, 90),  # none is as good
        ([0.5, 0.9, 0.8], 0.85, 45),  # noise above counts nothing
    ],
)
def test_equal_quality_is_read_from_a_rate_bench(
    tmp_path: Path, top1: list[float], own: float, quality: int
) -> None:
    assert equal_quality(rate_results(tmp_path / "results.json", top1, own), "JPEG") == pytest.approx(
        quality, abs=1
    )


def test_what_is_no_rate_bench_is_told(tmp_path: Path) -> None:
    path = rate_results(tmp_path / "results.json", [0.5, 0.7, 0.9], 0.8)
    with pytest.raises(DataError, match="with AVIF"):
        equal_quality(path, "AVIF")
    path.write_text("[]")
    with pytest.raises(DataError, match="is no results"):
        equal_quality(path, "JPEG")


def test_a_process_that_ends_is_told_by_its_last_line() -> None:
    with (
        server("link", [sys.executable, "-c", "raise SystemExit('no such device')"]) as process,
        pytest.raises(IsthmusError, match="the link did not start: no such device"),
    ):
        process.tell({"shape": {}}, "shaped")
