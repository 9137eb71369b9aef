"""A stretched feature has the asked contrast about its own mean; nothing else of the bundle changes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from shared.bundle import CLOUD, Bundle
from shared.errors import DataError
from support.untrained import random_network, random_run
from train.bundle.build import build
from train.bundle.stretch import stretch
from train.codec.split_networks import SplitNetworks, as_map, load_networks, load_run
from train.data.dataset import network_input

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


def test_a_bundle_of_it_differs_in_the_cloud_alone(run, patches, tmp_path):
    build(run, tmp_path / "plain", "b", patches[1])
    build(run, tmp_path / "wide", "b", patches[1], factors={"normals": FACTOR})
    plain, wide = Bundle.open(tmp_path / "plain").manifest, Bundle.open(tmp_path / "wide").manifest
    differing = {name for name, entry in plain.files.items() if entry != wide.files[name]}
    assert differing == {CLOUD}
    assert wide.fingerprint == plain.fingerprint
    assert wide.training["stretch"] == {"normals": FACTOR}
