"""The README's commands run, its values are those of the bundle, and its training is that of the script."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from itertools import pairwise, takewhile
from pathlib import Path

import pytest

from support.processes import run_here

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SET_UP = [line for line in README.splitlines() if line.startswith("pip install -c constraints.txt -e ")]


def block(marker: str) -> list[str]:
    """The lines of the shell block after an HTML comment."""
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
    done = run_here(*line.split()[1:], "--help")
    assert done.returncode == 0, done.stderr
    assert f"{line.split()[-1]} [OPTIONS]" in done.stdout


def test_the_demo_recognises_its_samples(tmp_path):
    """Each sample is named after its room; the table gives the class, and bytes far below JPEG's."""
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
    rows = re.findall(r"^│ (\S+)\.png +│ (\S.*?) +│", done.stdout, re.MULTILINE)
    assert len(rows) == 8
    assert [answer.replace(" ", "-") for _, answer in rows] == [sample for sample, _ in rows]
    for bundle, times in (("rooms", 10), ("photos", 3)):
        out = tmp_path / "isthmus-demo" / bundle
        result = json.loads((out / "result.json").read_text())
        images, session = result["images"], result.get("session", {}).get("images", [])
        assert all(times * image["analysis"]["bytes"]["total"] < image["jpeg_bytes"] for image in images)
        maps = [name for image in [*images, *session] for name in image["maps"].values()]
        assert sorted(path.name for path in out.iterdir()) == sorted(["result.json", "sheet.png", *maps])
    objects = {Path(one["image"]).stem: one["analysis"]["results"]["objects"]["areas"] for one in images}
    found = {
        name: [area["label"] for area in areas if area["share"] > 0.01][1:] for name, areas in objects.items()
    }
    assert found == {"aeroplane": ["aeroplane"], "boats": ["boat"], "lighthouse": [], "macaws": ["bird"]}
    # A fixed camera: the second image shows what the first does, in the last a person has come.
    first, still, _, person = (one["analysis"] for one in session)
    assert still["bytes"]["total"] < 20 < person["bytes"]["total"] < first["bytes"]["total"]
    labels = [one["results"]["classification"]["top"][0]["label"] for one in (first, still)]
    assert labels[0] == labels[1]
    assert "person" in [area["label"] for area in person["results"]["segmentation"]["areas"]]
    classes = dict(re.findall(r"^│ (\S+)\.jpg +│ (\S.*?) +│", done.stdout, re.MULTILINE))
    assert (classes["aeroplane"], classes["lighthouse"], classes["macaws"]) == ("warplane", "beacon", "macaw")


def test_the_readme_fits_on_two_pages():
    assert len(README.splitlines()) <= 130


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", README)
    own = [link.split("#")[0] for link in links if not link.startswith(("http://", "https://", "#"))]
    assert own
    assert [link for link in own if not (ROOT / link).exists()] == []


RECORDER = """#!{python}
import json, sys
with open({log!r}, "a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
"""
TRAINING = r"isthmus (?:rooms|network|codec|task|bundle) "


def settings(command: list[str]) -> Counter[tuple[str, ...]]:
    """A command's name, and its options with their values; without paths, which differ, and without flags."""
    words = list(takewhile(lambda word: re.fullmatch("[a-z]+", word), command[:2]))
    options = [
        (option, value)
        for option, value in pairwise(command)
        if option.startswith("--") and option != "--out" and not value.startswith("--") and "/" not in value
    ]
    return Counter([("command", *words), *options])


def test_the_training_that_is_shown_is_that_of_the_shipped_bundle(tmp_path):
    """deploy/train-rooms.sh runs with a recorder in the place of isthmus: its commands as they are typed in the end."""
    log = tmp_path / "log"
    (tmp_path / "bin").mkdir()
    for name, text in (
        ("isthmus", RECORDER.format(python=sys.executable, log=str(log))),
        ("python", "#!/bin/sh\nexit 1\n"),  # asked whether there is a GPU
    ):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    subprocess.run(
        ["bash", str(ROOT / "deploy" / "train-rooms.sh"), str(tmp_path / "work")],
        env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "COMPARE": "1"},
        check=True,
        capture_output=True,
    )
    typed = [settings(json.loads(line)) for line in log.read_text().splitlines()]
    assert len(typed) > 20
    section = README.split("## Train your own")[1].split("\n## ")[0]
    blocks = "".join(re.findall(r"```sh\n(.*?)```", section, re.DOTALL)).replace("\\\n", " ")
    shown = [line for line in blocks.splitlines() if re.match(TRAINING, line)]
    assert len(shown) >= 5
    for line in shown:
        command = settings(shlex.split(line, comments=True)[1:])
        assert any(command <= one for one in typed), (
            f"deploy/train-rooms.sh has no command with all of: {line}"
        )


def test_the_table_of_results_is_that_of_the_manifest():
    manifest = json.loads((ROOT / "deploy" / "bundles" / "rooms" / "manifest.json").read_text())
    rates = manifest["figures"]["evaluation"]["rates"]
    columns = {
        "bytes": lambda rate: rate["bytes_mean"],
        "top-1": lambda rate: 100 * rate["tasks"]["classification"]["top1"],
        "normals": lambda rate: rate["tasks"]["normals"]["mean_deg"],
        "mIoU": lambda rate: rate["tasks"]["segmentation"]["miou"],
    }
    lines = README.splitlines()
    rows = [i for i, line in enumerate(lines) if re.match(r"\| (?:quality )?\d+", line) and "degrees" in line]
    assert rows, "README has no table of results by quality"
    header = next(lines[i] for i in range(rows[0], 0, -1) if lines[i].startswith("|---"))
    heads = [head.strip() for head in lines[lines.index(header) - 1].split("|")]
    for row in rows:
        cells = [cell.strip() for cell in lines[row].split("|")]
        rate = rates[re.search(r"\d+", cells[1])[0]]
        checked = 0
        for head, cell in zip(heads[2:], cells[2:], strict=True):
            name = next((name for name in columns if name in head), None)
            if name is None or "JPEG" in head:
                continue
            number = re.search(r"\d+(?:\.(\d+))?", cell)
            half_a_digit = 0.5 * 10.0 ** -len(number[1] or "")
            assert float(number[0]) == pytest.approx(columns[name](rate), abs=half_a_digit + 1e-9), lines[row]
            checked += 1
        assert checked == len(columns), lines[row]


def test_the_table_of_photos_is_that_of_the_manifest():
    manifest = json.loads((ROOT / "deploy" / "bundles" / "photos" / "manifest.json").read_text())
    rates = manifest["figures"]["imagenet-val"]["rates"]
    rows = re.findall(r"^\| quality (\d+).*?\| ([\d,]+) \| (\d+)% \| (\d+)% \|$", README, re.MULTILINE)
    assert len(rows) == 3
    for quality, size, same_class, same_pixels in rows:
        tasks = rates[quality]["tasks"]
        assert int(size.replace(",", "")) == pytest.approx(rates[quality]["bytes_mean"], abs=0.5)
        share = tasks["classification"]["agreement_top1"], tasks["segmentation"]["agreement_pixel_accuracy"]
        assert (int(same_class), int(same_pixels)) == (round(100 * share[0]), round(100 * share[1]))


def test_the_tree_names_what_is_there():
    tree = README.split("## Where things are")[1].split("```")[1]
    folder = ROOT
    for line in tree.splitlines()[1:]:
        name = line.split()[0]
        path = (folder if line.startswith("  ") else ROOT) / name
        assert path.exists(), f"README's tree names {path.relative_to(ROOT)}"
        if not line.startswith("  "):
            folder = path
