"""What the README tells people to type works, and is what CI types."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SET_UP = [line for line in README.splitlines() if line.startswith("pip install -c constraints.txt -e ")]


def block(marker: str) -> list[str]:
    """The lines of the shell block behind an HTML comment."""
    found = re.search(rf"<!-- {marker} -->\n```sh\n(.*?)```", README, re.DOTALL)
    assert found, f"README has no block behind {marker!r}"
    return found[1].splitlines()


def test_the_two_set_up_commands_are_those_of_ci():
    script = (ROOT / ".ci" / "run").read_text()
    assert len(SET_UP) == 2
    for command in SET_UP:
        for part in command.split(" && "):
            assert part.split(" --out ")[0] in script, f"CI does not run {part!r}"


def test_the_block_without_a_network_runs(tmp_path):
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    for line in block(r"run by tests/test_readme.py"):
        words = shlex.split(line)
        assert words[0] == "isthmus"
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
    assert (tmp_path / "kitchen.isthmus").stat().st_size < 420


COMMANDS = set(re.findall(r"(?:^|&& |`)(isthmus [a-z]+(?: [a-z][a-z-]*)?) ", README, re.MULTILINE))


@pytest.mark.parametrize("line", sorted(COMMANDS))
def test_every_command_that_is_shown_exists(line):
    done = subprocess.run(
        [sys.executable, "-m", *line.split(), "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"{line.split()[-1]} [OPTIONS]" in done.stdout


def test_the_demo_answers_as_shown(tmp_path):
    assert "isthmus demo" in COMMANDS
    done = subprocess.run(
        [sys.executable, "-m", "isthmus", "demo", "--out", "isthmus-demo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown, printed = (
        re.findall(r"^│ (\S+) +│ (\S.*?) +│", text, re.MULTILINE) for text in (README, done.stdout)
    )
    assert len(shown) == 8
    assert printed == shown
    images = json.loads((tmp_path / "isthmus-demo" / "result.json").read_text())["images"]
    maps = [name for image in images for name in image["maps"].values()]
    there = sorted(path.name for path in (tmp_path / "isthmus-demo").iterdir())
    assert there == sorted(["result.json", "sheet.png", *maps])


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", README)
    own = [link.split("#")[0] for link in links if not link.startswith(("http://", "https://", "#"))]
    assert own
    assert [link for link in own if not (ROOT / link).exists()] == []


def test_the_shipped_bundle_is_made_by_the_commands_that_are_shown():
    """With the values that README shows; the script adds sizes, folders and --resume, and keeps some in variables."""
    blocks = README.split("## Train your own")[1].split("```")
    shown, added = (block.replace("\\\n", " ") for block in (blocks[1], blocks[3]))
    script = (ROOT / "deploy" / "train-rooms.sh").read_text()
    names = re.findall(r"isthmus train ([a-z]+)", shown + added)
    assert names == ["rooms", "network", "network", "multi", "build", "network", "task"]
    assert all(f"isthmus train {name}" in script for name in names)
    values = re.findall(r"--(?:count|task|lambda|distortion) [^ /\n]+", shown + added)
    values += [f"{name}={value}" for name, value in re.findall(r"--(layers|scales) (\S+)", shown)]
    assert len(values) == 9
    assert [value for value in values if value not in script] == []


def test_the_tree_names_what_is_there():
    tree = README.split("## Where things are")[1].split("```")[1]
    folder = ROOT
    for line in tree.splitlines()[1:]:
        name = line.split()[0]
        path = (folder if line.startswith("  ") else ROOT) / name
        assert path.exists(), f"README's tree names {path.relative_to(ROOT)}"
        if not line.startswith("  "):
            folder = path
