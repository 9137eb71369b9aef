"""The commands of docs/your-network.md, in their order, on a few photographs and for a few steps."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from support.processes import run_here

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "your-network.md").read_text()
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]
NETWORKS = ROOT.parent / "shared" / "data" / "networks"
VALUES = {"--steps": "3", "--batch": "2", "--images": "2", "--count": "2"}
SETTINGS = {"views=24": "views=1"}


def test_every_option_that_is_shown_exists():
    for words in COMMANDS:
        help_text = run_here(*words[1:3], "--help").stdout
        for option in {word for word in words if re.match(r"--[a-z]|-o$", word)}:
            assert f" {option}" in help_text or f"{option} " in help_text, (
                f"{' '.join(words[:3])} has no {option}"
            )


@pytest.mark.slow
@pytest.mark.skipif(not NETWORKS.is_dir(), reason="the published DeepLab weights are not here")
def test_the_walk_ends_with_an_answer_of_the_later_task(tmp_path: Path):
    sample = ROOT / "deploy" / "samples" / "photos" / "boats.jpg"
    for name in ("train", "val"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for turned in range(4):
            Image.open(sample).rotate(7 * turned).save(tmp_path / "photos" / name / f"{turned}.jpg")
    (tmp_path / "networks").symlink_to(NETWORKS)
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    done = None
    for words in COMMANDS:
        assert words[0] == "isthmus"
        small = [VALUES.get(before, SETTINGS.get(word, word)) for before, word in pairwise(words)]
        command = [sys.executable, str(ROOT / "isthmus.py"), *small]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"}
        )
        assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr}"
    assert done is not None
    assert "objects" in done.stdout
