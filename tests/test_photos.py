"""The bundle `photos`: its size and credits, and that a picture goes through it, byte by byte, to its answers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cloud.engine.bundle_model import CloudModel
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.image import fit, to_input
from shared.wire import convert
from train.bundle.evaluate import bitstreams, decoded

FOLDER = Path(__file__).parents[1] / "deploy" / "bundles" / "photos"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(FOLDER)


def test_it_is_small_and_says_what_it_was_made_of(bundle: Bundle) -> None:
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < 30 << 20
    manifest = bundle.manifest
    assert [task.name for task in bundle.tasks] == ["classification", "segmentation", "objects"]
    assert [task.name for task in manifest.tasks] == ["classification", "segmentation"]
    assert len(manifest.qualities) >= 5
    assert manifest.preprocess.fit == "letterbox"
    files, notice = manifest.training["files"], " ".join((FOLDER / "NOTICE").read_text().split())
    assert len(files) == 219
    assert {file.split("-")[0] for file in files} == {"cid22", "clic"}
    assert not {*files} & {*(FOLDER.parents[1] / "photos" / "not-photographs.txt").read_text().splitlines()}
    for credit in (
        "CID22",
        "CLIC",
        "Unsplash",
        "ADE20K",
        "Pascal VOC",
        "EfficientNet-Lite0",
        "Apache License",
    ):
        assert credit in notice
    assert "weights" in manifest.licences


def test_a_picture_of_any_shape_goes_through_it_to_its_answers(bundle: Bundle) -> None:
    rows, columns = np.mgrid[0:90, 0:200]
    picture = Image.fromarray(np.stack([rows * 2, columns, 255 - columns], -1).astype(np.uint8))
    encoder, model = Encoder(bundle), CloudModel(bundle)
    u = encoder.features(
        to_input(np.asarray(fit(picture, bundle.manifest.preprocess)), bundle.manifest.preprocess)[None]
    )
    sizes = []
    for quality in (0, 100):
        (packet,), (latent,) = bitstreams(encoder, u, quality)
        sizes.append(len(packet.pack()))
        (back,) = decoded(model.codec, [packet], latent.grid)
        assert back.digest == latent.digest
        assert back.z is not None
        outputs = model.outputs(back.z[None], {task.name: range(1) for task in bundle.tasks}, [quality])
        shapes = {name: tuple(out.shape) for name, out in outputs.items()}
        assert shapes.pop("classification") == (1, 1000)
        assert shapes.pop("segmentation") == (1, 32, 256, 256)
        assert shapes.pop("objects") == (1, 21, 256, 256)
    assert sizes[0] < sizes[1] < 10_000


RECORDER = """#!/bin/bash
printf '%s\\n' "$*" >> "$LOG"
while [ $# -gt 0 ]; do if [ "$1" = --out ]; then mkdir -p "$2"; fi; shift; done
"""


@pytest.mark.parametrize("quick", ["1", ""])
def test_its_script_runs_to_the_end(tmp_path: Path, quick: str) -> None:
    """deploy/train-photos.sh with a recorder in the place of isthmus: charts are left out, and each step follows."""
    for folder in ("photos/train", "photos/val", "networks", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("cid22-1.jpg", "cid22-Boxplot.jpg"):
        (tmp_path / "photos" / "train" / name).touch()
    (tmp_path / "bin" / "isthmus").write_text(RECORDER)
    (tmp_path / "bin" / "isthmus").chmod(0o755)
    given = {"QUICK": quick, "LOG": str(tmp_path / "log")}
    subprocess.run(
        ["bash", str(FOLDER.parents[1] / "train-photos.sh"), "photos", "networks", "work"],
        env={**os.environ, **given, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    assert [file.name for file in (tmp_path / "work" / "photos").iterdir()] == ["cid22-1.jpg"]
    assert (tmp_path / "work" / "bundle" / "NOTICE").is_file()
    typed = (tmp_path / "log").read_text().splitlines()
    steps = [" ".join(line.split()[:2]) for line in typed]
    ends = ["task train", "task add", "bundle calibrate", "bundle evaluate"]
    assert steps == ["network import"] * 3 + ["codec train"] * 2 + [
        "codec frames",
        "bundle build",
        *ends,
    ]


def test_ids_of_imagenets_classes_cross_the_link(bundle: Bundle) -> None:
    described = convert.bundles_of(convert.describe_message([bundle.info()]))[0].tasks
    classes = next(task for task in described if task.kind == "classification")
    assert len(classes.ids) == len(classes.labels) == 1000
    assert dict(zip(classes.ids, classes.labels, strict=True))["n01440764"].startswith("tench")
