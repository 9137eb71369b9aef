"""The demo as a user runs it, and that it leaves no process behind, however it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from PIL import Image

from shared.types import Analysis
from support.processes import ISTHMUS, refused, run
from support.service import png


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "küche [red].png"
    path.write_bytes(png(0, 100))
    return path


def children(pid: int) -> set[int]:
    try:
        return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except FileNotFoundError:
        return set()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_the_demo(tmp_path: Path, picture: Path, tiny_bundle: Path) -> None:
    out = tmp_path / "some" / "out"
    done = run("demo", picture, "--out", out, "--bundle", tiny_bundle)
    assert done.returncode == 0, done.stderr
    assert "küche [red].png" in done.stdout
    result = json.loads((out / "result.json").read_text())
    ours = result["images"][-1]
    analysis = Analysis.model_validate(ours["analysis"])
    assert ours["image"] == str(picture)
    assert ours["label"] == analysis.results["classification"].top[0].label
    assert ours["jpeg_ratio"] == ours["jpeg_bytes"] / analysis.bytes.total
    assert ours["edge_ms"] > 0
    assert ours["cloud_ms"] > 0
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.width >= 256
        assert sheet.convert("RGB").getextrema() != ((255, 255),) * 3
    assert sorted(path.name for path in out.iterdir()) == ["result.json", "sheet.png"]


def test_a_wrong_image_is_told_before_any_server_starts(
    tmp_path: Path, picture: Path, tiny_bundle: Path
) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    told = refused("demo", picture, text, "--out", tmp_path / "out", "--bundle", tiny_bundle, status=2)
    assert "notes.txt is not an image" in told
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_told_before_any_server_starts(
    tmp_path: Path, picture: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.demo._two_processes", lambda _: pytest.fail("servers were started"))
    (tmp_path / "result.json").mkdir()
    told = refused("demo", picture, "--out", tmp_path, "--bundle", tiny_bundle, status=2)
    assert told == f"cannot write {tmp_path / 'result.json'}: it is a folder"
    told = refused("demo", picture, "--out", "/proc/self", "--bundle", tiny_bundle, status=2)
    assert told.startswith("cannot write into /proc/self: ")


def test_a_bundle_whose_cloud_half_is_damaged(tmp_path: Path, picture: Path, tiny_bundle: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_bundle, damaged)
    (damaged / "cloud.safetensors").write_bytes(b"")
    told = refused("demo", picture, "--out", tmp_path / "out", "--bundle", damaged, status=1)
    assert "the cloud did not start" in told
    assert "cloud.safetensors" in told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_ends_both_processes(
    number: int, tmp_path: Path, picture: Path, tiny_bundle: Path
) -> None:
    command = [*ISTHMUS, "demo", str(picture), "--out", str(tmp_path), "--bundle", str(tiny_bundle)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        started: set[int] = set()
        deadline = time.monotonic() + 60
        while len(started) < 2 and demo.poll() is None and time.monotonic() < deadline:
            started |= children(demo.pid)
            time.sleep(0.02)  # a condition is waited for; the pause only leaves the core to those who start
        demo.send_signal(number)
        _, told = demo.communicate(timeout=60)
    assert len(started) == 2, told
    assert demo.returncode not in (0, None)
    assert "Traceback" not in told
    assert all(gone(pid) for pid in started)
