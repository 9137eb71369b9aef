"""The bundle `photos`: its size and credits, and that a picture goes through it, byte by byte, to its answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cloud.engine.bundle_model import CloudModel
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.image import fit, to_input
from train.bundle.evaluate import bitstreams, decoded

FOLDER = Path(__file__).parents[1] / "deploy" / "bundles" / "photos"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(FOLDER)


def test_it_is_small_and_says_what_it_was_made_of(bundle: Bundle) -> None:
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < 30 << 20
    manifest = bundle.manifest
    assert [task.name for task in bundle.tasks][:2] == ["classification", "segmentation"]
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
    assert sizes[0] < sizes[1] < 10_000
