"""`isthmus bench privacy`: its attackers learn what can be learnt, and the command measures a small bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from PIL import Image

from bench.privacy.attackers import ConvolutionalAttacker, LinearAttacker, MeanAttacker
from bench.privacy.similarity import psnr, ssim
from support.processes import refused, run_here
from support.untrained import SIZE, random_network, random_run
from train.bundle.build import build
from train.data.room_set import RoomSet
from train.rooms import write_rooms

TASKS = ("classification", "normals")


def pairs(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents (M, 6, 4, 4), and images (M, 3, 8, 8) that are linear in a cell and its left neighbour."""
    generator = torch.Generator().manual_seed(count)
    latents = torch.randn(count, 6, 4, 4, generator=generator)
    left = torch.nn.functional.pad(latents, (1, 0))[..., :-1]
    known = torch.Generator().manual_seed(0)
    here, there = torch.randn(2, 12, 6, generator=known) / 60
    blocks = torch.einsum("kn,mnhw->mkhw", here, latents) + torch.einsum("kn,mnhw->mkhw", there, left)
    return latents, torch.nn.functional.pixel_shuffle(blocks, 2) + 0.5


def error(attacker: object, latents: torch.Tensor, images: torch.Tensor) -> float:
    return float((attacker.draw(latents) - images).square().mean())


def test_attackers_learn_what_the_latents_say() -> None:
    known, unseen = pairs(300), pairs(40)
    mean, linear, convolutional = MeanAttacker(), LinearAttacker(), ConvolutionalAttacker(steps=60)
    for attacker in (mean, linear, convolutional):
        attacker.fit(*known)
    without = error(mean, *unseen)
    assert error(linear, *unseen) < 1e-3 * without
    assert error(convolutional, *unseen) < 0.5 * without
    nothing = torch.zeros_like(unseen[0])
    assert error(linear, nothing, unseen[1]) == pytest.approx(without, rel=0.2)


def test_similarity() -> None:
    image = np.random.default_rng(0).random((3, 32, 32)).astype(np.float32)
    assert ssim(image, image) == pytest.approx(1)
    assert psnr(image, image) == 100
    assert psnr(image * 0, image * 0 + 0.1) == pytest.approx(20, abs=1e-4)
    brighter, noisy = image * 0.9 + 0.1, np.random.default_rng(1).random((3, 32, 32)).astype(np.float32)
    assert ssim(image, noisy) < 0.1 < 0.9 < ssim(image, brighter) < 1


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("privacy")
    for name, seeds in (("known", range(24)), ("unseen", range(10**9, 10**9 + 4))):
        write_rooms(work / name, seeds, height=SIZE, width=SIZE, layers=("image", "category", "normals"))
    networks = [random_network(work / task, task) for task in TASKS]
    random_run(work / "codec", networks)
    build(work / "codec", work / "bundle", "rooms", RoomSet(work / "unseen"))
    return work


def command(work: Path, *more: str) -> list[str]:
    sets = ["--data", str(work / "known"), "--test", str(work / "unseen")]
    return ["bench", "privacy", str(work / "bundle"), *sets, "--out", str(work / "out"), *more]


def test_a_small_bundle(work: Path) -> None:
    networks = [flag for task in TASKS for flag in ("--network", str(work / task))]
    done = run_here(*command(work, *networks, "--side", "16", "--steps", "2"))
    assert done.returncode == 0, done.stderr
    results = json.loads((work / "out" / "results.json").read_text())
    found = {(one["source"], one["attacker"]): one for one in results["drawings"]}
    sources = sorted({source for source, _ in found} - {""})
    assert sources[-1] == "u"
    assert all(source.startswith("quality ") for source in sources[:-1])
    assert {attacker for _, attacker in found} == {"original, smaller", "mean", "linear", "convolutional"}
    assert found["", "original, smaller"]["psnr_db"] == 100
    assert all(set(one["recognised"]) == set(TASKS) for one in found.values())
    assert found["u", "linear"]["bytes"] is None
    assert all(found[source, "linear"]["bytes"] > 0 for source in sources[:-1])
    with Image.open(work / "out" / "sheet.png") as sheet:
        assert sheet.size == (4 * 16, (1 + len(found)) * 16)


def test_a_side_that_does_not_suit_the_latent_is_refused(work: Path) -> None:
    message = refused(*command(work, "--side", "18", "--force"), status=2)
    assert "a drawing of 18 pixels does not suit a latent of" in message
    assert "--side" in message
