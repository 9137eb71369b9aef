"""Codec trainings as the commands start them: recipe files, several processes, sets without labels, changed inputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cloud.networks.networks import (
    REFERENCE_CLASSIFIER,
    REFERENCE_DENSE,
    ClassifierConfig,
    DenseConfig,
    ReferenceClassifier,
    ReferenceDense,
)
from shared.bundle import Preprocess
from shared.errors import DataError
from support.torchrun import start
from train.networks.network_folder import NetworkCard, save_network
from train.rooms import write_rooms


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Two untrained networks, rooms without any label, and a recipe of both networks with two levels."""
    out = tmp_path_factory.mktemp("codec")
    write_rooms(out / "rooms", range(12), height=32, width=32, layers=("image",), shard_size=6)
    torch.manual_seed(0)
    sizes = ClassifierConfig(classes=3, stride=8, widths=(4, 8, 8), head_widths=(8,))
    dense = DenseConfig(outputs=3, stride=8, widths=(4, 8, 8), tail_widths=(8, 8), dilations=(1,))
    for name, network, kind, labels in [
        (REFERENCE_CLASSIFIER, ReferenceClassifier(sizes), "classification", ("a", "b", "c")),
        (REFERENCE_DENSE, ReferenceDense(dense), "normals", ("x", "y", "z")),
    ]:
        card = NetworkCard(
            network=name,
            task=kind,
            config=network.config.model_dump(mode="json"),
            split=network.split_layer,
            labels=labels,
            preprocess=Preprocess(height=32, width=32),
            recipe={},
            figures={},
        )
        (out / kind).mkdir()
        save_network(network, card, out / kind)
    (out / "codec.toml").write_text(
        f'data = "{out / "rooms"}"\nholdout = 4\nsteps = 3\nbatch = 4\nscales = [0.5, 1]\nqualities = [10, 20]\n'
        f'distortion_first = 0.0\nrate_ramp = 0.0\ncrop = 0\n[[parts]]\nnetwork = "{out / "classification"}"\n'
        f'lambda = 300.0\ndistortion = "feature"\n[[parts]]\nnetwork = "{out / "normals"}"\nlambda = 200.0\n'
    )
    return out


def run(place: Path, noun: str, *flags: str):
    from isthmus import app

    return CliRunner().invoke(
        app, [noun, "train", "--recipe", str(place / "codec.toml"), "--device", "cpu", *flags]
    )


def test_two_processes_train_a_codec_as_one_does(place, tmp_path):
    """Two networks, levels drawn for each picture, noise, a variance over the batch, a shared validation."""
    curves, figures = [], []
    for processes in (0, 2):
        out = tmp_path / f"run{processes}"
        flags = ("--recipe", str(place / "codec.toml"), "--out", str(out), "--device", "cpu")
        done = start(processes, "tests/support/log_every_step.py", "codec", "train", *flags)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("on 4 held-out images") == 1
        curves.append([json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()])
        figures.append(json.loads((out / "figures.json").read_text()))
    assert [line["step"] for line in curves[0]] == [1, 2, 3]
    for one, two in zip(*curves, strict=True):
        assert two == pytest.approx(one, rel=1e-4)
    assert figures[1] == pytest.approx(figures[0], rel=1e-3)
    assert {"classification/agreement_top1@10", "normals/agreement_mean_deg@20"} <= figures[0].keys()
    assert not any("uncompressed" in name for name in figures[0])


def test_a_file_says_the_parts_and_a_flag_overrides_one_key(place, tmp_path):
    out = tmp_path / "run"
    done = run(place, "codec", "--out", str(out), "--lambda", "5", "--lambda", "6", "--steps", "1")
    assert done.exit_code == 0, done.output
    recipe = json.loads((out / "recipe.json").read_text())["recipe"]
    assert [part["lambda_"] for part in recipe["parts"]] == [5, 6]
    assert [part["distortion"] for part in recipe["parts"]] == ["feature", "distill"]
    assert (recipe["scales"], recipe["qualities"], recipe["crop"]) == ([0.5, 1], [10, 20], None)
    assert recipe["steps"] == 1
    events = b"".join(path.read_bytes() for path in (out / "tensorboard").iterdir())
    assert b"validation/normals" in events
    assert b"PNG" in events
    weights = place / "normals" / "network.safetensors"
    before = weights.read_bytes()
    changed = bytearray(before)
    changed[-1] ^= 1
    try:
        weights.write_bytes(changed)
        again = run(
            place, "codec", "--out", str(out), "--lambda", "5", "--lambda", "6", "--steps", "1", "--resume"
        )
    finally:
        weights.write_bytes(before)
    assert isinstance(again.exception, DataError)
    assert f"the network {place / 'normals'} has changed since" in str(again.exception)


@pytest.mark.parametrize(
    ("command", "old", "new", "said"),
    [
        (
            "codec",
            "lambda = 200.0",
            "lambda = -1.0",
            "codec.toml:16: parts.1.lambda: Input should be greater",
        ),
        (
            "codec",
            "lambda = 200.0",
            "lamda = 2.0",
            "codec.toml:16: parts.1.lamda: there is no such key; did you",
        ),
        ("codec", "[0.5, 1]", "[1, 0.5]", "scales must ascend"),
        ("codec", 'distortion = "feature"', 'distortion = "task"', "has no category; render a set that has"),
        ("task", "", "", "BUNDLE is missing"),
    ],
)
def test_a_mistake_names_its_key(place, tmp_path, command, old, new, said):
    text = (place / "codec.toml").read_text()
    (tmp_path / "codec.toml").write_text(text.replace(old, new, 1))
    done = run(tmp_path, command, "--out", str(tmp_path / "run"))
    assert isinstance(done.exception, DataError), done.output
    assert said in str(done.exception)
    assert not (tmp_path / "run").exists()


def test_the_rate_stays_whole_in_mixed_precision():
    from cloud.networks.sizes import PRESETS
    from train.codec.feature_codec import JointCodec

    torch.manual_seed(0)
    codec = JointCodec([(8, 4, 4)], PRESETS["small"]).eval()
    y = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 8, 4, 4)).astype(np.float32))
    with torch.no_grad():
        plain = codec.core.rounded_bits(y), codec([y])[1].bits_z
        with torch.autocast("cpu", torch.bfloat16):
            mixed = codec.core.rounded_bits(y), codec([y])[1].bits_z
    assert all(torch.equal(a, b) for a, b in zip(plain, mixed, strict=True))
