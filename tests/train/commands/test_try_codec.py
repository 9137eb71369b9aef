"""`isthmus codec try`: the commands that it runs, from a network to a plot, and that it goes on where it stopped."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from PIL import Image
from typer.testing import CliRunner

from isthmus import app
from shared.bundle import Bundle
from shared.errors import DataError
from support.processes import refused, run_here
from support.strangers import SIDE
from train.commands import try_codec

NETWORK = "support.strangers:branched"
SMALL = ["--network", NETWORK, "--split", "act", "--size", f"{SIDE}x{SIDE}", "--batch", "2", "--views", "1"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for name, count in (("learn", 5), ("look", 2)):
        (folder / name).mkdir()
        for number in range(count):
            noise = np.random.default_rng(10 * count + number).integers(0, 256, (SIDE, SIDE, 3))
            Image.fromarray(noise.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


def words(images: Path, out: Path, *more: str) -> list[str]:
    data = ["--data", f"images:{images}/learn", "--test", f"images:{images}/look"]
    return [
        "codec",
        "try",
        *SMALL,
        *data,
        "--steps",
        "3",
        "--quick",
        "--device",
        "cpu",
        "--out",
        str(out),
        *more,
    ]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands, which run in this process: each of their own would import torch anew."""
    commands: list[list[str]] = []

    def run(words: Sequence[object]) -> None:
        commands.append(list(map(str, words)))
        done = CliRunner().invoke(app, commands[-1])
        assert done.exit_code == 0, f"{commands[-1]}: {done.output[-2000:]} {done.exception!r}"

    monkeypatch.setattr(try_codec, "_run", run)
    return commands


def test_from_a_network_to_a_plot(images: Path, tmp_path: Path, ran: list[list[str]]) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(app, words(images, out), catch_exceptions=False)
    assert [one[:2] for one in ran] == [
        ["network", "import"],
        ["codec", "train"],
        ["codec", "train"],
        ["bundle", "build"],
        ["bench", "rate"],
    ]
    assert [task.kind for task in Bundle.open(out / "bundle").tasks] == ["classification"]
    measured = json.loads((out / "rate" / "results.json").read_text())
    assert measured["images"] == 2
    assert (out / "rate" / "rate.html").exists()
    assert done.output.splitlines()[-1].startswith(f"{out}/rate/rate.html: the plot")
    assert all(one[one.index("--device") + 1] == "cpu" for one in ran if one[0] in ("codec", "bench"))
    steps = [one[one.index("--steps") + 1] for one in ran if one[:2] == ["codec", "train"]]
    assert steps == ["1", "2"]

    # Again: what is there stays, but for what a killed import left, and what was asked for must be the same.
    manifest = (out / "bundle" / "manifest.json").read_bytes()
    ran.clear()
    (out / "network-1" / "network.json").unlink()
    CliRunner().invoke(app, words(images, out), catch_exceptions=False)
    assert [one[1] for one in ran] == ["import", "train", "train", "rate"]
    assert (out / "bundle" / "manifest.json").read_bytes() == manifest
    with pytest.raises(DataError, match=r"was begun with other options \(lambda\); repeat them"):
        CliRunner().invoke(app, words(images, out, "--lambda", "5"), catch_exceptions=False)


def test_a_command_that_fails_ends_it(images: Path, tmp_path: Path) -> None:
    """In processes of their own; the command says why, and its status is the whole's."""
    asked = [word.replace("branched", "nothing") for word in words(images, tmp_path / "out")]
    done = run_here(*asked)
    assert done.returncode == 2
    assert done.stdout.startswith("\n$ isthmus network import support.strangers:nothing")
    assert not (tmp_path / "out" / "start").exists()


def test_one_that_is_killed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    kill = "import os, signal, sys; os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr(try_codec, "ISTHMUS", (sys.executable, "-c", kill))
    with pytest.raises(DataError, match="isthmus codec train was killed by signal 9; start again to go on"):
        try_codec._run(["codec", "train"])


def test_values_are_given_once_or_for_each_network(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    weights = ("--network", NETWORK, "--network", NETWORK, "--weights", "none", "--weights", "none")
    line = refused(*words(images, out, *weights), status=2)
    assert line == "--weights is given 2 times, for 3 networks; give it once or 3 times"


def test_images_are_looked_at_before_anything_is_trained(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    wrong = [word.replace("/look", "/nowhere") for word in words(images, out)]
    assert refused(*wrong, status=2) == f"no such file or folder: {images}/nowhere (--test)"
    assert not out.exists()
