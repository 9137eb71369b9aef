"""Depth, embedding and multilabel in the three flows: one network, several together, a task added later."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cloud.engine.bundle_model import CloudModel  # noqa: E402 - brings torch
from cloud.networks.networks import ClassifierConfig, DenseConfig  # noqa: E402
from cloud.task_folders import add_task  # noqa: E402
from shared.bundle import Bundle  # noqa: E402
from shared.encoder import Encoder  # noqa: E402
from shared.types import TaskQuery  # noqa: E402
from train.bundle.build import build  # noqa: E402
from train.bundle.evaluate import evaluate_bundle  # noqa: E402
from train.codec.codec_recipe import CodecRecipe, Part  # noqa: E402
from train.codec.evaluate_codec import format_metrics  # noqa: E402
from train.codec.train_codec import train_codec  # noqa: E402
from train.data.dataset import Unlabelled  # noqa: E402
from train.data.room_set import RoomSet  # noqa: E402
from train.networks.load import NetworkSpec, load_network_spec  # noqa: E402
from train.networks.network_folder import save_network  # noqa: E402
from train.networks.network_recipe import DenseRecipe, NetworkRecipe  # noqa: E402
from train.networks.train_maps import train_dense  # noqa: E402
from train.networks.train_network import train_network  # noqa: E402
from train.rooms import SEMANTIC_CLASSES, write_rooms  # noqa: E402
from train.tasks.task_recipe import TaskRecipe  # noqa: E402
from train.tasks.train_task import FOLDER, train_task  # noqa: E402

SIZE = 32
SMALL = {"stride": 16, "feature_channels": 4, "widths": (4, 4, 8, 8)}
LAYERS = ("image", "semantic", "depth", "category")


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kinds") / "rooms"
    write_rooms(out, range(12), height=SIZE, width=SIZE, layers=LAYERS)
    return out


@pytest.fixture(scope="module")
def networks(rooms: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A network for depth and one for several labels, each trained for a few steps, and a vector of the latter."""
    root = tmp_path_factory.mktemp("networks")
    common = {"data": "rooms", "steps": 4, "batch": 4, "height": SIZE, "width": SIZE}
    maps = DenseConfig(outputs=1, tail_widths=(8,), **SMALL)
    depth = RoomSet(rooms, "depth")
    train_dense(DenseRecipe(task="depth", network=maps, **common), depth, depth, root / "depth", False)
    tags = RoomSet(rooms, "multilabel")
    sizes = ClassifierConfig(classes=len(SEMANTIC_CLASSES), head_widths=(8,), **SMALL)
    recipe = NetworkRecipe(task="multilabel", network=sizes, **common)
    train_network(recipe, tags, tags, root / "multilabel", False)
    spec = NetworkSpec(network=str(root / "multilabel"), task="embedding", options={"normalised": True})
    (root / "embedding").mkdir()
    save_network(*load_network_spec(spec), root / "embedding")
    return {kind: root / kind for kind in ("depth", "multilabel", "embedding")}


def view(rooms: Path, kind: str) -> object:
    return Unlabelled(RoomSet(rooms)) if kind == "embedding" else RoomSet(rooms, kind)


@pytest.mark.parametrize("kinds", [("depth",), ("depth", "multilabel", "embedding")])
def test_codecs(kinds: tuple[str, ...], rooms: Path, networks: dict[str, Path], tmp_path: Path) -> None:
    parts = tuple(Part(network=str(networks[kind]), lambda_=100.0) for kind in kinds)
    views = [view(rooms, kind) for kind in kinds]
    recipe = CodecRecipe(data="rooms", parts=parts, steps=3, batch=4)
    scores = train_codec(recipe, views, views, tmp_path / "codec", resume=False)
    text = format_metrics(scores, recipe.default_quality)
    assert "depth: abs-rel 0." in text or "depth: abs-rel 1." in text
    build(tmp_path / "codec", tmp_path / "bundle", "kinds", views[0])
    bundle = Bundle.open(tmp_path / "bundle")
    assert [task.kind for task in bundle.tasks] == list(kinds)
    measured = evaluate_bundle(bundle, dict(zip(kinds, views, strict=True)), {k: networks[k] for k in kinds})
    tasks = next(iter(measured.rates.values())).tasks
    assert 0 <= tasks["depth"]["delta_1.25"] <= 1
    if "embedding" in kinds:
        assert -1 <= tasks["embedding"]["agreement_cosine"] <= 1
        assert 0 < tasks["multilabel"]["map"] <= 1
        assert bundle.task("embedding").options == {"normalised": True}
        assert "cosine" in text
        assert "mAP" in text


@pytest.mark.parametrize("kind", ["depth", "multilabel", "embedding"])
def test_a_task_added_later(kind: str, rooms: Path, networks: dict[str, Path], tmp_path: Path) -> None:
    other = "depth" if kind != "depth" else "multilabel"
    first = view(rooms, other)
    part = Part(network=str(networks[other]), lambda_=100.0)
    train_codec(
        CodecRecipe(data="rooms", parts=(part,), steps=2, batch=4), [first], [first], tmp_path / "c", False
    )
    build(tmp_path / "c", tmp_path / "bundle", "kinds", first)
    images = view(rooms, kind)
    bundle_path = str(tmp_path / "bundle")
    recipe = TaskRecipe(data="rooms", bundle=bundle_path, network=str(networks[kind]), steps=2, batch=4)
    train_task(recipe, images, images, tmp_path / "task", resume=False)
    add_task(tmp_path / "bundle", tmp_path / "task" / FOLDER)
    bundle = Bundle.open(tmp_path / "bundle")
    encoded = Encoder(bundle).encode(_png(RoomSet(rooms).images(np.array([0]))[0]))
    model = CloudModel(bundle)
    assert encoded.latent.z is not None
    [answers] = model.answer(encoded.latent.z[None], [[TaskQuery(name=kind)]], [encoded.quality])
    assert answers[kind].kind == kind


def _png(pixels: np.ndarray) -> bytes:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def test_bench_rate(rooms: Path, networks: dict[str, Path], tmp_path: Path) -> None:
    """Every contender is measured for the new kinds, and the page names their metrics."""
    from support.processes import run_here

    kinds = ("depth", "multilabel", "embedding")
    parts = tuple(Part(network=str(networks[kind]), lambda_=100.0) for kind in kinds)
    views = [view(rooms, kind) for kind in kinds]
    recipe = CodecRecipe(data="rooms", parts=parts, steps=3, batch=4)
    train_codec(recipe, views, views, tmp_path / "codec", resume=False)
    build(tmp_path / "codec", tmp_path / "bundle", "kinds", views[0])
    flags = [f"--network={networks[kind]}" for kind in kinds]
    done = run_here(
        "bench", "rate", tmp_path / "bundle", *flags, "--data", rooms, "--out", tmp_path / "run", "--quick"
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    by_name = {one["name"]: one for one in results["contenders"]}
    assert {"JPEG", "AVIF", "HEVC intra"} < set(by_name)
    page = (tmp_path / "run" / "results.md").read_text()
    for metric in ("abs-rel", "mAP", "cosine"):
        assert metric in page
