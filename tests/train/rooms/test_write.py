"""Sets of rooms on disk: the same from any number of processes, finished after a kill, stopped at once by signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from shared.errors import DataError, Interruption
from support.processes import killed_after
from train.rooms import EVENT_NAMES, open_shards, read_index, render, render_sequence, write_rooms

ROOT = Path(__file__).parents[3]


def test_write_and_open(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    write_rooms(
        tmp_path, range(5, 12), height=24, width=32, shard_size=3, progress=lambda *a: steps.append(a)
    )
    assert steps == [(0, 7), (3, 7), (6, 7), (7, 7)]
    assert [len(shard) for shard in open_shards(tmp_path, "image")] == [3, 3, 1]
    layers = {name: np.concatenate(open_shards(tmp_path, name)) for name in read_index(tmp_path).files}
    assert layers["seed"].tolist() == list(range(5, 12))
    for i, seed in enumerate(range(5, 12)):
        room = render(seed, 24, 32)
        np.testing.assert_array_equal(layers["image"][i], room.image)
        np.testing.assert_array_equal(layers["semantic"][i], room.semantic)
        assert layers["category"][i] == room.category
        assert np.abs(layers["normals"][i] / 127 - room.normals).max() <= 0.5 / 127 + 1e-6
        assert np.abs(layers["depth"][i].astype(np.float32) - room.depth).max() < 0.01


def test_processes_write_the_same(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    sizes: dict[str, Any] = {"height": 16, "width": 16, "shard_size": 2}
    write_rooms(tmp_path / "a", range(5), **sizes)
    write_rooms(tmp_path / "b", range(5), workers=2, progress=lambda *a: steps.append(a), **sizes)
    assert steps[0] == (0, 5)
    assert steps[-1] == (5, 5)
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


def test_a_set_of_sequences(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    how: dict[str, Any] = {
        "height": 16,
        "width": 24,
        "shard_size": 2,
        "frames": 3,
        "fps": 2,
        "motion": "moving",
    }
    write_rooms(tmp_path / "a", range(5, 10), progress=lambda *a: steps.append(a), **how)
    assert steps == [(0, 15), (6, 15), (12, 15), (15, 15)]
    index = read_index(tmp_path / "a")
    assert (index.frames, index.fps, index.motion, index.images) == (3, 2.0, "moving", 15)
    layers = {name: np.concatenate(open_shards(tmp_path / "a", name)) for name in index.files}
    assert layers["seed"].tolist() == [seed for seed in range(5, 10) for _ in range(3)]
    assert layers["frame"].tolist() == [0, 1, 2] * 5
    assert [len(shard) for shard in open_shards(tmp_path / "a", "image")] == [6, 6, 3]
    for number, seed in enumerate(range(5, 10)):
        sequence = render_sequence(seed, 3, fps=2.0, motion="moving", height=16, width=24)
        for row, sample in enumerate(sequence.samples, start=3 * number):
            np.testing.assert_array_equal(layers["image"][row], sample.image)
            np.testing.assert_array_equal(layers["semantic"][row], sample.semantic)
            assert EVENT_NAMES[layers["event"][row]] == sequence.event
    write_rooms(tmp_path / "b", range(5, 10), workers=2, **how)
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name
    for other in ({"frames": 4}, {"fps": 5}, {"motion": "dark"}, {"frames": 1}):
        with pytest.raises(ValueError, match=f"another set .*{next(iter(other))} "):
            write_rooms(tmp_path / "a", range(5, 10), **how | other)


def test_the_index_of_single_rooms_knows_no_frames(tmp_path: Path) -> None:
    """Its bytes are those of before there were sequences, and so older versions open the set."""
    write_rooms(tmp_path, range(2), height=16, width=16, layers=("image",))
    text = (tmp_path / "index.json").read_text()
    assert list(json.loads(text)) == [
        *("format", "renderer", "height", "width", "layers", "first_seed", "count", "shard_size"),
        *("categories", "semantic_classes"),
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"index.json", "00000.image.npy", "00000.seed.npy"}
    assert read_index(tmp_path).frames == 1
    (tmp_path / "index.json").write_text(json.dumps({**json.loads(text), "frames": 0}))
    with pytest.raises(ValueError, match="not an index"):
        read_index(tmp_path)


def test_a_killed_run_is_finished(tmp_path: Path) -> None:
    def write(progress: Callable[[int, int], None] | None = None) -> None:
        layers = ("image", "category")
        write_rooms(tmp_path, range(6), height=16, width=16, shard_size=2, layers=layers, progress=progress)

    write()
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    # As after a kill: one shard cut short (a full disk), one not reached, one in the middle of being written.
    (tmp_path / "00001.image.npy").write_bytes(whole["00001.image.npy"][:-100])
    (tmp_path / "00002.category.npy").unlink()
    (tmp_path / "00002.category.npy.123.partial").write_bytes(b"half")
    with pytest.raises(ValueError, match="render the set again"):
        open_shards(tmp_path, "image")
    untouched = (tmp_path / "00000.image.npy").stat().st_mtime_ns
    steps: list[tuple[int, int]] = []
    write(lambda *a: steps.append(a))
    assert steps == [(2, 6), (4, 6), (6, 6)]
    assert (tmp_path / "00000.image.npy").stat().st_mtime_ns == untouched
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == whole


def test_sets_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="make them with `isthmus rooms render`"):
        read_index(tmp_path / "nowhere")
    write_rooms(tmp_path, range(2), height=16, width=16, layers=("image",))
    with pytest.raises(ValueError, match="not 'depth'"):
        open_shards(tmp_path, "depth")
    with pytest.raises(
        ValueError, match=r"another set \(layers image, not image,category; count 2, not 3\): "
    ):
        write_rooms(tmp_path, range(3), height=16, width=16, layers=("image", "category"))
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        write_rooms(tmp_path / "file", range(3), height=16, width=16)
    index = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**index, "renderer": 0}))
    with pytest.raises(ValueError, match="made by renderer 0"):
        read_index(tmp_path)
    (tmp_path / "index.json").write_text('{"format": "isth')
    with pytest.raises(ValueError, match="not an index"):
        read_index(tmp_path)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seeds": range(0)}, "range with step 1"),
        ({"seeds": range(0, 10, 2)}, "range with step 1"),
        ({"seeds": range(-1, 3)}, "range with step 1"),
        ({"seeds": range(2**63 - 1, 2**63 + 1)}, "range with step 1"),
        ({"height": 7}, "an image side is 8 to 4096 pixels, got 7 x 256"),
        ({"layers": ("image", "smell")}, "layers are some of .* got image, smell"),
        ({"layers": ()}, "got none"),
        ({"shard_size": 0}, "at least 1"),
        ({"workers": -1}, "workers 0"),
        ({"frames": 0}, "1 to 1000 frames"),
        ({"frames": 2, "fps": 0.0}, "frames a second"),
        ({"frames": 2, "motion": "fast"}, "motion is one of"),
    ],
)
def test_bad_arguments(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    out = tmp_path / "set"
    with pytest.raises(ValueError, match=said):
        write_rooms(out, **{"seeds": range(2)} | changed)
    assert not out.exists()


# Interrupts.

RUN = """
import sys
from train.rooms import write_rooms
report = lambda done, of: print(done, flush=True)
write_rooms({out!r}, range(8000), height=64, width=64, shard_size=4, workers=2, progress=report)
"""


def others_of(group: int) -> list[int]:
    """Living processes of a process group, by number; those that are not reaped yet do not count."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            state, _, number = entry.joinpath("stat").read_text().rsplit(") ", 1)[1].split()[:3]
        except (OSError, IndexError):
            continue
        if int(number) == group and state not in "ZX":
            found.append(int(entry.name))
    return found


def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("did not come about within 10 s")


def start(out: Path) -> subprocess.Popen[str]:
    """A run with two processes, in a process group of its own; it has written a shard."""
    running = subprocess.Popen(
        [sys.executable, "-c", RUN.format(out=str(out))],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert running.stdout is not None
    with killed_after(running):
        for line in running.stdout:
            if int(line) > 0:
                return running
        raise AssertionError(running.communicate()[1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("to_all", [True, False], ids=["to the group", "to one"])
def test_a_signal_ends_it_at_once(tmp_path: Path, number: signal.Signals, to_all: bool) -> None:
    out = tmp_path / "set"
    running = start(out)
    (os.killpg if to_all else os.kill)(running.pid, number)
    sent = time.monotonic()
    _, errors = running.communicate(timeout=30)
    assert time.monotonic() - sent < 2
    kept = len(list(out.glob("*.seed.npy"))) * 4
    # A library call ends with Interruption; the one traceback is that of this script, which does not catch it.
    assert errors.count("Traceback") == 1
    last = errors.strip().splitlines()[-1]
    assert last == (
        f"shared.errors.Interruption: interrupted: {kept} of 8000 rooms are kept in {out}; "
        "run the same command again to go on"
    )
    until(lambda: not others_of(running.pid))
    assert not list(out.glob("*.partial"))


def test_processes_leave_signals_to_the_one_that_waits(tmp_path: Path) -> None:
    """A terminal's Ctrl-C reaches all of them: each would print a traceback of its own."""
    running = start(tmp_path / "set")
    for number in others_of(running.pid):
        if number != running.pid:
            os.kill(number, signal.SIGINT)
    assert running.stdout is not None
    with killed_after(running):
        assert [int(running.stdout.readline()) > 0 for _ in range(4)] == [True] * 4
    running.terminate()
    assert running.communicate(timeout=30)[1].count("Traceback") == 1


def test_no_process_outlives_a_killed_run(tmp_path: Path) -> None:
    running = start(tmp_path / "set")
    assert len(others_of(running.pid)) >= 3
    running.kill()
    running.communicate(timeout=30)
    until(lambda: not others_of(running.pid))


def test_a_process_that_is_killed(tmp_path: Path) -> None:
    def kill_one(done: int, _: int) -> None:
        if done:
            import multiprocessing

            os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)

    with pytest.raises(DataError, match=r"ended unexpectedly \(status -9\).* run the same command again"):
        write_rooms(tmp_path, range(5000), height=16, width=16, shard_size=50, workers=1, progress=kill_one)


def test_an_error_of_a_process_is_raised_here(tmp_path: Path) -> None:
    (tmp_path / "00001.image.npy").mkdir()
    with pytest.raises(OSError, match=r"00001\.image"):
        write_rooms(tmp_path, range(4), height=16, width=16, shard_size=2, workers=1)


def test_handlers_are_put_back(tmp_path: Path) -> None:
    def interrupt(done: int, _: int) -> None:
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(Interruption, match="0 of 2 rooms are kept") as caught:
        write_rooms(tmp_path, range(2), height=16, width=16, progress=interrupt)
    assert caught.value.status == 143
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
