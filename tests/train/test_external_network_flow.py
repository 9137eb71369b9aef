"""Networks that are not the reference ones, from training to serving."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cloud.engine.bundle_model import CloudModel
from shared.bundle import MANIFEST, ONNX, TAIL, Bundle
from shared.encoder import Encoder
from shared.errors import BundleDamagedError, DataError
from shared.image import to_input
from support.strangers import BRANCHED, SIDE
from train.bundle.build import build
from train.codec.codec_recipe import CodecRecipe, Part
from train.codec.split_networks import load_run
from train.codec.train_codec import train_codec
from train.tasks.task_recipe import TaskRecipe
from train.tasks.train_task import train_task
from train.tasks.trainable_head import FOLDER


class Pictures:
    """Noise of 64 x 64, without labels."""

    def __init__(self, count: int) -> None:
        self.values = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)

    size, form, names = (SIDE, SIDE), None, ()

    def __len__(self) -> int:
        return len(self.values)

    def images(self, indices: np.ndarray) -> np.ndarray:
        return self.values[indices]


PICTURES = Pictures(12)


def trained(out: Path, *parts: dict) -> Path:
    """A run folder after two steps."""
    made = tuple(Part(**{"lambda_": 100.0, "distortion": "feature", **part}) for part in parts)
    recipe = CodecRecipe(data="noise", parts=made, steps=2, batch=4, flips=False, crop=2)
    views = [PICTURES] * len(parts)
    train_codec(recipe, views, views, out, resume=False)
    return out


def assert_answers(bundle: Path, run: Path) -> None:
    """What the cloud makes of the edge's z is what front, codec and tail make in one process."""
    opened, (model, _, _) = Bundle.open(bundle), load_run(run)
    encoder, cloud = Encoder(opened), CloudModel(opened)
    x = to_input(PICTURES.values[:3], opened.manifest.preprocess)
    _, z = encoder.latents(encoder.features(x))
    names: Sequence[str] = [task.name for task in opened.tasks]
    made = cloud.outputs(z, {name: range(3) for name in names}, [50] * 3)
    with torch.no_grad():
        ys, _ = model.codec(model.features(torch.from_numpy(x)))
        for k, name in enumerate(model.names):
            wanted = model.heads[k](ys[k])
            assert torch.allclose(made[name].reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def branched_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("branched") / "run", {**BRANCHED, "split": "act"})


@pytest.fixture(scope="module")
def branched_bundle(branched_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("branched") / "bundle"
    build(branched_run, out, "branched", PICTURES)
    return out


def test_a_foreign_tail_is_a_file_of_the_bundle(branched_bundle: Path, branched_run: Path) -> None:
    assert_answers(branched_bundle, branched_run)
    (task,) = Bundle.open(branched_bundle).tasks
    assert (task.network, task.network_config, task.split) == (
        ONNX,
        {"of": "support.strangers:branched"},
        "act",
    )
    assert "tail.classification.onnx" in Bundle.open(branched_bundle).manifest.files
    for file in branched_bundle.iterdir():
        assert str(branched_run.parent).encode() not in file.read_bytes()
        assert b"/site-packages/" not in file.read_bytes()
        assert b"strangers.py" not in file.read_bytes()


@pytest.mark.parametrize("layer", ["input", "output"])
def test_the_image_and_the_output_can_be_what_is_coded(tmp_path: Path, layer: str) -> None:
    run = trained(tmp_path / "run", {**BRANCHED, "split": layer})
    build(run, tmp_path / "bundle", "ends", PICTURES)
    assert_answers(tmp_path / "bundle", run)


def test_features_of_different_strides_share_a_codec(tmp_path: Path, tiny_network: Path) -> None:
    """A reference network's, cut where it always is, and a torchvision network's."""
    names = tmp_path / "names"
    names.write_text("a\nb\n")
    vision = {
        "network": "torchvision:squeezenet1_1",
        "weights": "none",
        "size": "64x64",
        "labels": str(names),
        "split": "features.4.cat",
        "name": "squeezed",
    }
    run = trained(tmp_path / "run", {"network": str(tiny_network)}, vision)
    build(run, tmp_path / "bundle", "both", PICTURES)
    assert_answers(tmp_path / "bundle", run)
    opened = Bundle.open(tmp_path / "bundle")
    grids = [task.feature[1:] for task in opened.tasks]
    assert grids[0] != grids[1]
    assert {"tail.squeezed.onnx"} == {name for name in opened.manifest.files if name.startswith("tail.")}
    assert str(tmp_path).encode() not in (tmp_path / "bundle" / MANIFEST).read_bytes()


def test_a_segmentation_network_of_torchvision(tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.write_text("a\nb\nc\n")
    part = {
        "network": "torchvision:lraspp_mobilenet_v3_large",
        "weights": "none",
        "size": "64x64",
        "labels": str(names),
        "task": "segmentation",
        "split": "backbone.3.add",
    }
    # Its tail knows the size of its map by heart, so that no piece of a feature goes through it.
    run = trained(tmp_path / "run", part | {"distortion": "distill"})
    build(run, tmp_path / "bundle", "maps", PICTURES)
    assert_answers(tmp_path / "bundle", run)


@pytest.mark.parametrize(("name", "what"), [("first", "front"), ("last", "tail")])
def test_an_operator_that_onnx_has_not_is_named(tmp_path: Path, name: str, what: str) -> None:
    run = trained(tmp_path / "run", {**BRANCHED, "network": f"support.strangers:{name}", "split": "relu"})
    with pytest.raises(DataError, match=rf"network's {what} cannot be exported .*svd") as caught:
        build(run, tmp_path / "bundle", "x", PICTURES)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "bundle").exists()


def test_a_missing_or_damaged_tail_is_told(tmp_path: Path, branched_bundle: Path) -> None:
    import shutil

    bundle = shutil.copytree(branched_bundle, tmp_path / "copy")
    file = bundle / "tail.classification.onnx"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BundleDamagedError, match=r"tail.classification.onnx is not the file"):
        CloudModel(Bundle.open(bundle))
    file.unlink()
    with pytest.raises(BundleDamagedError, match=r"cannot read .*tail.classification.onnx"):
        CloudModel(Bundle.open(bundle))


def test_a_foreign_task_is_added_to_a_bundle(tmp_path: Path, tiny_bundle: Path) -> None:
    import shutil

    from cloud.task_folders import add_task

    own = shutil.copytree(tiny_bundle, tmp_path / "own")
    before = {path.name: path.read_bytes() for path in own.iterdir() if path.is_file()}
    recipe = TaskRecipe(
        data="noise",
        bundle=str(own),
        name="mood",
        steps=2,
        batch=4,
        flips=False,
        split="act",
        distortion="feature",
        **BRANCHED,
    )
    train_task(recipe, PICTURES, PICTURES, tmp_path / "run", resume=False)
    assert (tmp_path / "run" / FOLDER / TAIL).exists()
    add_task(own, tmp_path / "run" / FOLDER)
    assert {name: (own / name).read_bytes() for name in before} == before
    opened = Bundle.open(own)
    z = np.zeros((2, *_latent(opened)), np.int32)
    out = CloudModel(opened).outputs(z, {"mood": [0, 1], "classification": [1]}, [50, 50])
    assert out["mood"].shape == (2, 3)


def _latent(bundle: Bundle) -> tuple[int, ...]:
    codec = bundle.manifest.codec
    return codec["latent_channels"], *codec["grid"]


def isthmus(*arguments: object) -> None:
    from isthmus import app

    app([str(argument) for argument in arguments], standalone_mode=False)


def test_layers_shows_every_layer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    isthmus("network", "layers", "support.strangers:branched", "--size", "64x64", "--all")
    told = capsys.readouterr().out
    assert "3 b: 2 tensors cross there: act, b" in told
    assert max(map(len, told.splitlines())) <= 100
    assert "clean" in told
    isthmus("network", "layers", "support.strangers:branched", "--size", "64x64")
    assert "--all names what crosses there" in capsys.readouterr().out


def test_commands_from_pictures_to_an_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, value in enumerate(PICTURES.values):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.fromarray(value).save(tmp_path / "pictures" / f"{i:02}.png")
    data, folder = f"images:{tmp_path / 'pictures'}", tmp_path / "network"
    isthmus(
        "network",
        "import",
        "support.strangers:branched",
        "--size",
        "64x64",
        "--split",
        "act",
        "--out",
        folder,
    )
    steps = ("--steps", 2, "--batch", 4, "--set", "flips=false")
    isthmus("codec", "train", "--data", data, "--network", folder, *steps, "--out", tmp_path / "run")
    assert "the last 1 of 12 images are held out for validation" in capsys.readouterr().out
    isthmus("bundle", "build", tmp_path / "run", "--data", data, "--out", tmp_path / "bundle")
    isthmus("inspect", tmp_path / "bundle")
    assert "tail.classification.onnx" in capsys.readouterr().out
    picture, stream = tmp_path / "pictures" / "00.png", tmp_path / "a.isthmus"
    isthmus("edge", "encode", picture, "--bundle", tmp_path / "bundle", "-o", stream)
    isthmus("cloud", "decode", stream, "--bundle", tmp_path / "bundle")
    assert "class 0" in capsys.readouterr().out
