"""The networks of a bundle, from its own files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cloud.task_folders import add_task
from shared.bundle import EDGE, Bundle
from shared.errors import DataError
from shared.shipped import default_bundle
from train.bundle.build import build
from train.codec.codec_recipe import CodecRecipe, Part
from train.codec.train_codec import train_codec
from train.commands.network import app
from train.data.dataset import network_input
from train.networks.from_bundle import NotRecovered, Recovered, recovered_networks, same_front
from train.networks.load import cut
from train.networks.network_folder import load_network
from train.tasks.task_recipe import TaskRecipe
from train.tasks.train_task import train_task
from train.tasks.trainable_head import FOLDER

SAMPLES = Path(__file__).parents[3] / "deploy" / "samples"


def test_a_recovered_network_is_the_one_that_was_built_in(tiny_bundle, tiny_network, patches):
    (one,) = recovered_networks(Bundle.open(tiny_bundle))
    assert isinstance(one, Recovered)
    network, card = load_network(tiny_network)
    x = network_input(patches[1].values[:8], card.preprocess)
    with torch.no_grad():
        assert torch.allclose(one.network(x), network(x), atol=1e-4)
    assert one.card == card.model_copy(update={"figures": {}})


def test_what_two_fronts_begin_with_is_computed_once_and_told_apart(tmp_path, tiny_network, patches):
    parts = tuple(Part(network=str(tiny_network), name=f"at-{n}", split=n, lambda_=300.0) for n in (4, 6))
    recipe = CodecRecipe(data="patches", parts=parts, steps=2, batch=24)
    train_codec(recipe, patches[:1] * 2, patches[1:] * 2, tmp_path / "run", resume=False)
    build(tmp_path / "run", tmp_path / "bundle", "two", patches[1])
    network, card = load_network(tiny_network)
    x = network_input(patches[1].values[:8], card.preprocess)
    nodes = onnx.load(tmp_path / "bundle" / EDGE).graph.node
    assert sum(node.op_type == "Conv" and node.input[1].startswith("layers.") for node in nodes) == 6
    found = list(recovered_networks(Bundle.open(tmp_path / "bundle")))
    assert [one.name for one in found] == ["at-4", "at-6"]
    for one, split in zip(found, (4, 6), strict=True):
        assert one.card.split == split
        with torch.no_grad():
            assert torch.allclose(one.network(x), network(x), atol=1e-4)


def test_an_added_task_has_no_front_in_the_bundle_unless_another_has_it_too(
    tmp_path, tiny_bundle, tiny_network, patches
):
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    recipe = TaskRecipe(
        data="patches", bundle=str(bundle), network=str(tiny_network), name="later", steps=2, batch=24
    )
    train_task(recipe, *patches, tmp_path / "run", resume=False)
    add_task(bundle, tmp_path / "run" / FOLDER)
    # Both networks are the same one here, but no recipe says so.
    first, told = recovered_networks(Bundle.open(bundle))
    assert isinstance(first, Recovered)
    assert told == NotRecovered("later", "it was added later, and no file of the bundle holds its front")


@pytest.mark.parametrize(
    ("added", "other", "same"),
    [
        ({"init": "front", "freeze": 8}, {"init": "front", "freeze": 9}, True),
        ({"init": "front", "freeze": 8}, {"init": "things", "freeze": 8}, False),
        ({"init": "front", "freeze": 7}, {"init": "front", "freeze": 8}, False),
        ({"init": "front", "freeze": 8}, {"init": "front", "freeze": 7}, False),
        ({}, {}, False),
    ],
)
def test_fronts_are_the_same_where_both_were_kept_as_one_network_gave_them(added, other, same):
    bundle = Bundle.open(default_bundle())
    assert same_front(bundle.task("segmentation"), added, bundle.task("normals"), other) == same


def test_the_shipped_networks_answer(tmp_path):
    runner = CliRunner()
    made = runner.invoke(app, ["recover", str(default_bundle()), "--out", str(tmp_path / "networks")])
    assert made.exit_code == 0, made.output
    networks = {
        name: load_network(tmp_path / "networks" / name)
        for name in ("classification", "normals", "segmentation")
    }
    paths = sorted(SAMPLES.glob("*.png"))
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    classifier, card = networks["classification"]
    x = network_input(pixels, card.preprocess)
    with torch.no_grad():
        named = [card.labels[k].replace(" ", "-") for k in classifier(x).argmax(1).tolist()]
        fronts = [cut(*networks[name])[0](x) for name in ("normals", "segmentation")]
    assert named == [path.stem for path in paths]
    assert torch.equal(*fronts)
    with pytest.raises(DataError, match=r"networks/classification exists already; .* \(--out\)"):
        runner.invoke(
            app,
            ["recover", str(default_bundle()), "--out", str(tmp_path / "networks")],
            catch_exceptions=False,
        )
