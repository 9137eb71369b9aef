"""A temperature for a bundle's classes, and what it is chosen by."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cloud.engine.kinds.classification import Classification
from shared.bundle import Bundle
from shared.errors import BundleDamagedError, DataError
from shared.types import TaskQuery
from train.bundle.calibrate import calibrate, temperature
from train.bundle.evaluate import evaluate_bundle
from train.bundle.manifest import write_manifest
from train.kinds.training_kind import divergence


def logits(seed: int, images: int = 200) -> torch.Tensor:
    return 3 * torch.randn(images, 12, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("wanted", [0.1, 0.7, 1.0, 3.0, 20.0])
def test_outputs_that_are_too_sure_by_a_factor_get_it_back(wanted: float) -> None:
    teacher = logits(0)
    assert temperature(wanted * teacher, teacher) == pytest.approx(wanted, rel=1e-4)


def test_no_other_temperature_has_less_divergence() -> None:
    teacher = logits(0)
    out = teacher + 0.7 * logits(1)
    best = temperature(out, teacher)
    least = divergence(out / best, teacher).mean()
    for other in np.geomspace(0.2, 8, 60):
        assert divergence(out / other, teacher).mean() >= least - 1e-6


def test_outputs_that_know_nothing_stay_within_bounds() -> None:
    flat = torch.zeros(5, 3)
    assert 0.01 < temperature(flat, logits(0, 5)[:, :3]) < 60
    assert temperature(-logits(0), logits(0)) == pytest.approx(50, rel=0.01)


@pytest.fixture
def copied(tiny_bundle: Path, tmp_path: Path) -> Path:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    return bundle


def test_a_bundle_is_calibrated_in_place(copied: Path, patches, tiny_network: Path) -> None:
    """Its streams stay valid, its order of classes too; its scores move towards the network's."""
    before = Bundle.open(copied)
    plain = evaluate_bundle(before, {"classification": patches[1]}, {"classification": tiny_network}, [50])
    found = calibrate(before, {"classification": patches[0]}, {"classification": tiny_network})
    after = Bundle.open(copied)
    one = found["classification"]
    assert one.after <= one.before
    assert one.images == len(patches[0])
    assert after.task("classification").options == {"temperature": one.temperature}
    assert after.fingerprint == before.fingerprint
    assert after.manifest.figures["calibration"]["classification"]["temperature"] == one.temperature
    again = evaluate_bundle(after, {"classification": patches[1]}, {"classification": tiny_network}, [50])
    was, now = (result.rates[50].tasks["classification"] for result in (plain, again))
    assert (was["top1"], was["agreement_top1"]) == (now["top1"], now["agreement_top1"])
    assert was["calibration_error"] != now["calibration_error"]
    assert plain.uncompressed == again.uncompressed  # the network's own scores stay


def test_answers_are_softened() -> None:
    query = [TaskQuery(name="x", top_k=2)]
    out = torch.tensor([[2.0, 0.0]])
    [answer] = Classification().results(out, ("a", "b"), query, {"temperature": 2.0, "ids": ["n1", "n2"]})
    assert answer.top[0].score == pytest.approx(1 / (1 + np.exp(-1)))


def test_without_a_network_there_is_nothing_to_compare_with(copied: Path, patches) -> None:
    with pytest.raises(DataError, match="no task of classification whose network was named"):
        calibrate(Bundle.open(copied), {"classification": patches[0]}, {})


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": float("inf")}, {"ids": 3}, {"x": 1}])
def test_options_that_make_no_sense_are_a_damaged_bundle(copied: Path, options: dict) -> None:
    manifest = Bundle.open(copied).manifest
    tasks = (manifest.tasks[0].model_copy(update={"options": options}),)
    write_manifest(copied, manifest.model_copy(update={"tasks": tasks}))
    with pytest.raises(BundleDamagedError):
        Bundle.open(copied)
