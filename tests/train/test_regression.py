"""An added task that begins with the regression of its feature from z, and features that reach beyond z's grid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from cloud.engine.bundle_model import load_branch
from cloud.networks.sizes import PRESETS, CodecConfig
from cloud.networks.transforms import FeatureReconstruction
from shared.bundle import Bundle
from shared.errors import DataError
from train.codec.split_networks import Head
from train.tasks.regression import start_by_regression
from train.tasks.task_recipe import TaskRecipe
from train.tasks.train_task import train_task
from train.tasks.trainable_head import TrainableHead

LOG_INVERSE = torch.tensor([[0.5] * 5, [-0.25] * 5])


def config(**changed: object) -> CodecConfig:
    sizes = {
        "latent_channels": 5,
        "reconstruction": (6, 6, 6),
        "shortcut_cells": 3,
        "overhang": True,
        "scaled": True,
    }
    return PRESETS["blocks"].model_copy(update=sizes | changed)


def head_of(side: int, made: CodecConfig) -> TrainableHead:
    return TrainableHead(Head(nn.Identity(), "segmentation", (3, side, side)), made, LOG_INVERSE)


def latents(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randint(-3, 4, (count, 5, 8, 8)).float(), torch.arange(count) % 2 * 1.0


@torch.no_grad()
def test_a_feature_that_depends_linearly_on_the_cells_around_is_found():
    torch.manual_seed(0)
    truth, model = head_of(16, config()), head_of(16, config())
    truth.reconstruction.layers.weaken_chain(0.0)
    pairs = [(z, at, truth.feature(z, at)) for z, at in (latents(24) for _ in range(8))]
    model.scaling.measure(torch.cat([y for _, _, y in pairs]))
    start_by_regression(model, iter(pairs))
    z, at = latents(4)
    wanted = truth.feature(z, at)
    assert float((model.feature(z, at) - wanted).std() / wanted.std()) < 0.01


@torch.no_grad()
@pytest.mark.parametrize(("overhang", "least", "most"), [(True, 0.0, 0.15), (False, 0.3, 1.0)])
def test_a_map_of_an_odd_side_is_rebuilt_at_its_own_places(overhang, least, most):
    torch.manual_seed(0)
    truth = head_of(18, config(scaled=False))
    truth.reconstruction.layers.weaken_chain(0.0)
    made = config(scaled=False, overhang=overhang)
    model = head_of(17, made)

    def feature(z: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return truth.feature(z, at)[..., :17, :17]

    start_by_regression(model, ((z, at, feature(z, at)) for z, at in (latents(24) for _ in range(8))))
    z, at = latents(4)
    wanted = feature(z, at)
    assert model.feature(z, at).shape == wanted.shape
    error = float((model.feature(z, at) - wanted)[..., :16, :16].std() / wanted.std())
    assert least <= error <= most


@torch.no_grad()
@pytest.mark.parametrize("side", [15, 16, 18, 32])
def test_an_overhang_changes_no_other_size(side):
    torch.manual_seed(1)
    first = FeatureReconstruction(3, config(overhang=False))
    second = FeatureReconstruction(3, config(overhang=True))
    second.load_state_dict(first.state_dict())
    z = torch.randn(2, 5, 8, 8)
    same = torch.equal(first(z, (side, side)), second(z, (side, side)))
    assert same == (side != 18)


def test_a_task_that_began_so_answers_alike_in_training_and_in_a_server(
    tiny_bundle, tiny_network, patches, tmp_path
):
    def learnt(start: str, steps: int) -> tuple[Path, float]:
        values = {"data": "patches", "bundle": str(tiny_bundle), "network": str(tiny_network), "name": "more"}
        recipe = TaskRecipe(
            **values, steps=steps, batch=24, learning_rate=1e-5, distortion="feature", start=start
        )
        out = tmp_path / f"{start}-{steps}"
        scores = train_task(recipe, *patches, out, resume=False)
        assert train_task(recipe, *patches, out, resume=True) == scores
        first = (out / "curve.jsonl").read_text().splitlines()[0]
        return out / "task", float(first.split('"distortion": ')[1].split(",")[0].rstrip("}"))

    folder, regressed = learnt("regression", 2)
    _, random = learnt("random", 2)
    assert regressed < 0.5 * random
    bundle = Bundle.open(tiny_bundle)
    added = bundle.read_task(folder)
    assert added.codec["shortcut_cells"] == 3
    branch = load_branch(bundle, added, folder)
    kernel = branch.reconstruction.layers.linear.weight
    assert kernel.shape[2:] == (3 * branch.reconstruction.stride,) * 2
    z = torch.randn(2, bundle.manifest.codec["latent_channels"], *bundle.manifest.codec["grid"])
    with torch.no_grad():
        assert branch(z).shape[0] == 2


def test_a_codec_without_linear_paths_is_refused_before_anything_is_computed(
    tiny_bundle, tiny_network, patches, tmp_path, monkeypatch
):
    bundle = Bundle.open(tiny_bundle)
    codec = bundle.manifest.codec | {"shortcut": False}
    without = replace(bundle, manifest=bundle.manifest.model_copy(update={"codec": codec}))
    monkeypatch.setattr(Bundle, "open", lambda _: without)
    values = {"data": "patches", "bundle": str(tiny_bundle), "network": str(tiny_network), "name": "more"}
    recipe = TaskRecipe(**values, steps=2, batch=24, learning_rate=1e-5, start="regression")
    with pytest.raises(DataError, match="start random"):
        train_task(recipe, *patches, tmp_path / "out", resume=False)
    assert not (tmp_path / "out").exists()
