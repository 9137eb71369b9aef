"""Commands that fill a folder write neither among other files nor, unless forced, into one they did not begin."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.shipped import default_bundle
from support.processes import refused, run_here


def command(name: str, out: Path) -> list[str | Path]:
    data: list[str | Path] = ["--data", "nowhere", "--out", out]
    return {
        "rooms render": ["rooms", "render", out, "--count", "2", "--size", "32"],
        "network train": ["network", "train", *data],
        "network import": ["network", "import", "torchvision:alexnet", "--weights", "none", "--out", out],
        "network recover": ["network", "recover", default_bundle(), "--out", out],
        "codec train": ["codec", "train", *data, "--network", "nowhere"],
        "task train": ["task", "train", default_bundle(), *data, "--network", "nowhere"],
        "bench rate": ["bench", "rate", default_bundle(), *data, "--network", "nowhere"],
        "bench latency": ["bench", "latency", default_bundle(), *data, "--network", "nowhere"],
        "bench cloud": ["bench", "cloud", "--out", out],
        "bench rooms": ["bench", "rooms", "nowhere", "--out", out],
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        *("rooms render", "network train", "network import", "network recover", "codec train", "task train"),
        *("bench rate", "bench latency", "bench cloud", "bench rooms"),
    ],
)
def test_a_folder_of_other_files_is_refused_before_any_work(name: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    said = refused(*command(name, tmp_path), status=2)
    assert said == (
        f"{tmp_path} holds files of something else (thesis.tex); choose another folder, or force it (--force)"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_bundle_is_never_built_over_anything(tmp_path: Path) -> None:
    said = refused("bundle", "build", "nowhere", "--data", "nowhere", "--out", tmp_path, status=2)
    assert said == f"{tmp_path} exists already; delete it, or choose another (--out)"


def test_rooms_are_rendered_among_other_files_when_forced_and_into_their_own_folder(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    render = ("rooms", "render", tmp_path, "--count", "2", "--size", "32", "--workers", "1")
    assert run_here(*render, "--force").returncode == 0
    assert (tmp_path / "index.json").is_file()
    assert run_here(*render).returncode == 0
