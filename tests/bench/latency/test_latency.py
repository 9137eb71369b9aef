"""`isthmus bench latency` on small networks from end to end, and the server that it is compared with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from bench.latency.results import LOOPBACK, MIDDLE, SLOW
from bench.link import module
from shared.process.child_process import ROOT, server
from support.processes import refused, run
from support.service import png
from train.rooms import write_rooms

STAGES = ("decode image", "fronts", "transform", "extractor", "exact path", "range coder", "container")


def test_the_whole_network_server_answers_what_the_network_says(tiny_network: Path) -> None:
    with server(
        "whole", module("bench.latency.whole_network_server", "127.0.0.1", "1", str(tiny_network)), ROOT
    ) as whole:
        address = whole.wait_for("listening")["http"]
        answer = httpx.post(f"http://{address}/analyze", content=png(), timeout=60)
        (result,) = answer.json().values()
        assert result["kind"] == "classification"
        assert sum(one["score"] for one in result["top"]) == pytest.approx(1, abs=1e-3)


def test_the_edges_processes_load_no_torch() -> None:
    code = "import sys, bench.latency.edge_process, bench.link; print('torch' in sys.modules)"
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
    results = json.loads((out / "results.json").read_text())
    assert results["about"]["images"] == 2
    assert [link["name"] for link in results["links"]] == [LOOPBACK, str(SLOW), str(MIDDLE)]
    approaches = {approach["name"] for approach in results["approaches"]}
    for link in results["links"]:
        assert set(link["answers"]) == approaches
        assert all(times["ms"]["count"] == 2 for times in link["answers"].values())
    slow = results["links"][1]["answers"]
    assert slow["Isthmus"]["ms"]["median"] > 40  # 20 ms there and 20 back
    assert slow["local"]["ms"]["median"] < 40 or results["stages"]["fronts"]["median"] > 10
    assert slow["Isthmus"]["bytes"] < slow["JPEG 75"]["bytes"]
    assert results["edge"]["start_memory_mb"] < 300
    assert all(spread["median"] <= spread["p95"] for spread in results["stages"].values())
    assert {"wire, in the service", *STAGES} <= set(results["stages"])
    assert (out / "latency.png").read_bytes().startswith(b"\x89PNG")
    assert "### Time to answer" in (out / "results.md").read_text()


def test_a_task_without_its_network_is_refused(tmp_path: Path, tiny_bundle: Path) -> None:
    write_rooms(tmp_path / "rooms", range(1), height=64, width=64, layers=("image",))
    names = ("--network", tmp_path / "none", "--data", tmp_path / "rooms", "--out", tmp_path / "run")
    assert "no trained network in" in refused("bench", "latency", tiny_bundle, *names, status=2)
