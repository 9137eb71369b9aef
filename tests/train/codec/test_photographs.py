"""A codec for few photographs, from an analytic start to its bundle: views, the metric of answers, credits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from isthmus import app
from shared.errors import DataError
from support.untrained import random_network
from train.codec.split_networks import load_run


def run(command: str) -> str:
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 0, f"{command}: {done.output[-2000:]} {done.exception}"
    return done.output


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs, two networks whose answers are classes, and a codec for both, begun without any training."""
    out = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    (out / "photos").mkdir()
    for number in range(8):
        coarse = random.integers(0, 255, (6, 8, 3), np.uint8)
        Image.fromarray(coarse).resize((90, 70)).save(out / "photos" / f"photo-{number}.png")
    for task in ("classification", "segmentation"):
        random_network(out / task, task)
    run(f"{train(out)} --out {out}/start --steps 4 --set trains=entropy --set start=answers")
    return out


def train(place: Path) -> str:
    networks = "".join(
        f" --network {place}/{task} --lambda {bits}"
        for task, bits in (("classification", 300), ("segmentation", 900))
    )
    return (
        f"codec train --data images:{place}/photos --device cpu --batch 6 --set holdout=2 --set views=3 "
        f"--set flips=false --set scales=[0.3,1]{networks} --set context_hidden=[8] --set preset=blocks "
        f"--distortion distill --features {place}/features"
    )


def test_the_codec_begins_as_the_transform_of_what_its_tails_read(place: Path) -> None:
    core = load_run(place / "start")[0].codec.core
    chain = core.transform.layers.chain
    assert not chain[-1].weight.any()  # type: ignore[union-attr]
    linear = (
        core.transform.layers.linear.weight.flatten(1),
        core.reconstruction.layers.linear.weight.flatten(1),
    )
    used = linear[0].abs().sum(1) > 0
    assert used.sum() == 2 * 4 * 4  # two features of four channels, in blocks of 2 x 2
    product = linear[0][used] @ linear[1][used].T
    torch.testing.assert_close(product, torch.eye(len(product)), atol=2e-2, rtol=0)


def test_a_run_that_goes_on_keeps_its_start(place: Path) -> None:
    before = (place / "start" / "best.pt").read_bytes()
    run(f"{train(place)} --out {place}/start --steps 4 --set trains=entropy --set start=answers --resume")
    assert (place / "start" / "best.pt").read_bytes() == before


def test_training_goes_on_to_a_bundle_that_names_its_photographs(place: Path) -> None:
    run(f"{train(place)} --out {place}/all --steps 4 --set init={place}/start")
    old, new = (load_run(place / name)[0].codec.core.transform.state_dict() for name in ("start", "all"))
    assert any(not torch.equal(old[name], new[name]) for name in old)
    command = f"bundle build {place}/all --data images:{place}/photos --images 4 --half --out {place}/bundle"
    licences = ("--licence", "free", "--licence", "photographs=CC BY-SA 4.0")
    done = CliRunner().invoke(app, [*command.split(), *licences])
    assert done.exit_code == 0, done.output
    manifest = json.loads((place / "bundle" / "manifest.json").read_text())
    assert manifest["licences"] == {"weights": "free", "photographs": "CC BY-SA 4.0"}
    files = manifest["training"]["files"]
    assert len(files) == 6
    assert set(files) < {f"photo-{number}.png" for number in range(8)}
    networks = f"--network {place}/classification --network {place}/segmentation"
    output = run(f"bundle evaluate {place}/bundle --data images:{place}/photos {networks} --quality 100")
    assert "agreement" in output


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("trains=synthesis", "needs the run of a codec as init"),
        ("train_all=true", "frozen networks"),
        ("anew=true", "anew needs the run of a codec as init"),
        ("views=0", "views"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(place: Path, setting: str, said: str) -> None:
    command = f"{train(place)} --out {place}/refused --steps 1 --set start=answers --set {setting}"
    done = CliRunner().invoke(
        app, command.replace("--set views=3 ", "" if "views" in setting else "--set views=3 ")
    )
    assert isinstance(done.exception, DataError), done.output
    assert said in str(done.exception)
    assert not (place / "refused").exists()
