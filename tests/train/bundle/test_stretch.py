"""A stretched feature has the asked contrast about its own mean; nothing else of the bundle changes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cloud.networks.sizes import PRESETS
from cloud.networks.transforms import FeatureReconstruction
from shared.bundle import CLOUD, WEIGHTS, Bundle
from shared.errors import DataError
from support.untrained import random_network, random_run
from train.bundle.build import build
from train.bundle.stretch import stretch, stretch_last
from train.codec.split_networks import SplitNetworks, as_map, load_networks, load_run
from train.data.dataset import network_input
from train.tasks.task_recipe import TaskRecipe
from train.tasks.train_task import train_task

FACTOR = 1.25


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stretch")
    networks = [random_network(path / kind, kind) for kind in ("classification", "normals")]
    return random_run(path / "run", networks)


def _model(run: Path, scaled: bool):
    model, recipe, cards = load_run(run)
    if scaled:
        torch.manual_seed(0)
        model = SplitNetworks(load_networks(recipe.parts), recipe.model_copy(update={"scaled": True}))
    return model, cards[0].preprocess


@pytest.mark.parametrize("scaled", [False, True])
@torch.no_grad()
def test_one_feature_is_stretched_about_its_mean(run, patches, scaled):
    model, preprocess = _model(run, scaled)
    x = network_input(patches[1].images(np.arange(len(patches[1]))), preprocess)
    mean = as_map(model.fronts[1](x)).mean((0, 2, 3), keepdim=True)
    if scaled:
        for scaling in (*model.codec.fusion.scalings, *model.codec.separation.scalings):
            scaling.mean.copy_(mean[0])
    torch.manual_seed(2)
    y_hat = torch.randn(3, 8, 4, 4)
    before = [model.codec.separation(y_hat, which) for which in range(2)]
    stretch(model, {"normals": FACTOR}, patches[1], preprocess)
    after = [model.codec.separation(y_hat, which) for which in range(2)]
    assert after[0].equal(before[0])
    assert not torch.allclose(after[1], before[1], atol=1e-2)
    assert torch.allclose(after[1] - mean, FACTOR * (before[1] - mean), atol=1e-5)


@pytest.mark.parametrize(
    ("factors", "says"),
    [
        ({"depth": 1.1}, "no task 'depth'; it has classification, normals"),
        ({"normals": 0.0}, "not above 0"),
        ({"normals": 2.5}, "at most 2"),
        ({"normals": math.nan}, "nan is not above 0"),
    ],
)
def test_what_cannot_be_stretched(run, patches, factors, says):
    model, preprocess = _model(run, False)
    with pytest.raises(DataError, match=says):
        stretch(model, factors, patches[1], preprocess)


def test_a_codec_of_one_feature_ends_in_none_of_its_own(tiny_run, patches):
    model, preprocess = _model(tiny_run, False)
    with pytest.raises(DataError, match="one feature"):
        stretch(model, {"classification": 1.1}, patches[1], preprocess)


def test_a_bundle_is_built_of_the_stretched_codec(run, patches, tmp_path):
    build(run, tmp_path / "bundle", "b", patches[1], factors={"normals": FACTOR})
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.manifest.training["stretch"] == {"normals": FACTOR}
    linear = load_file(bundle.path / CLOUD)["separation.subnets.1.linear.weight"]
    model, _ = _model(run, False)
    assert torch.allclose(linear, FACTOR * model.codec.separation.subnets[1].linear.weight)


@pytest.mark.parametrize("shortcut", [False, True])
@torch.no_grad()
def test_a_reconstruction_is_stretched_as_well(shortcut):
    torch.manual_seed(3)
    config = PRESETS["small"].model_copy(update={"shortcut": shortcut})
    reconstruction = FeatureReconstruction(4, config)
    z, mean = torch.randn(2, config.latent_channels, 4, 4), torch.randn(4)
    size = (4 * config.stride, 4 * config.stride)
    before = reconstruction(z, size)
    stretch_last(reconstruction.layers, FACTOR, mean)
    about = mean[:, None, None]
    assert torch.allclose(reconstruction(z, size) - about, FACTOR * (before - about), atol=1e-5)


def test_an_added_task_is_stretched_once_it_has_learnt(tiny_bundle, tiny_network, patches, tmp_path):
    values = {"data": "patches", "bundle": str(tiny_bundle), "network": str(tiny_network), "name": "more"}
    last = {}
    for factor in (1.0, FACTOR):
        recipe = TaskRecipe(**values, steps=1, batch=24, stretch=factor)
        train_task(recipe, *patches, tmp_path / f"{factor}", resume=False)
        tensors = load_file(tmp_path / f"{factor}" / "task" / WEIGHTS)
        last[factor] = tensors["reconstruction.layers.linear.weight"]
    assert torch.allclose(last[FACTOR], FACTOR * last[1.0])
