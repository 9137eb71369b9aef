"""What tests of more than one folder need: small pictures, and a bundle that is built from them in seconds."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray

if TYPE_CHECKING:
    from train.kinds.label_form import LabelForm

# Before torch is imported. Where two processes test on two cores, two threads in each would wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = ["support.serving_fixtures"]

# A busy machine takes longer over some examples than over others, and over making them.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives slow tests two hours instead of the usual limit."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(7200))


@pytest.fixture(scope="session")
def torch_threads() -> int | None:
    """torch's own choice, before any test changes it; None if no collected test needs torch."""
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch else None


@pytest.fixture(autouse=True)
def same_threads_for_every_test(torch_threads: int | None) -> Iterator[None]:
    """Undoes `--threads` of a command that ran in this process: with another number sums differ in the last digits,
    and what one test trained would depend on the tests before it."""
    yield
    if torch_threads is not None:
        sys.modules["torch"].set_num_threads(torch_threads)


@dataclass(frozen=True)
class Patches:
    """Labelled noise of 64 x 64: pictures of class k have a bright channel k. Learnt in a few steps."""

    values: NDArray[np.uint8]
    classes: NDArray[np.int64]
    names: tuple[str, ...] = ("red", "green", "blue")
    size: tuple[int, int] = (64, 64)

    @property
    def form(self) -> LabelForm:
        from train.kinds.label_form import CLASS

        return CLASS

    @classmethod
    def of(cls, count: int, seed: int) -> Patches:
        classes = np.arange(count, dtype=np.int64) % 3
        values = np.random.default_rng(seed).integers(0, 160, (count, 64, 64, 3), dtype=np.uint8)
        values[np.arange(count), :, :, classes] += 90
        return cls(values, classes)

    def __len__(self) -> int:
        return len(self.classes)

    def images(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.values[indices]

    def labels(self, indices: NDArray[np.int64], flip: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        return self.classes[indices]


@pytest.fixture(scope="session")
def patches() -> tuple[Patches, Patches]:
    """For training and for validation."""
    return Patches.of(192, 0), Patches.of(48, 1)


@pytest.fixture(scope="session")
def tiny_network(tmp_path_factory: pytest.TempPathFactory, patches: tuple[Patches, Patches]) -> Path:
    """A trained network folder: three classes, a feature of 8 x 4 x 4."""
    from cloud.networks.networks import ClassifierConfig
    from train.networks.network_recipe import NetworkRecipe
    from train.networks.train_network import train_network

    out = tmp_path_factory.mktemp("tiny") / "network"
    sizes = ClassifierConfig(classes=3, widths=(8, 8, 16, 16), head_widths=(16,))
    recipe = NetworkRecipe(data="patches", steps=40, batch=24, height=64, width=64, network=sizes)
    train_network(recipe, *patches, out, resume=False)
    return out


@pytest.fixture(scope="session")
def tiny_run(
    tmp_path_factory: pytest.TempPathFactory, patches: tuple[Patches, Patches], tiny_network: Path
) -> Path:
    """A codec's run folder, trained for a few steps."""
    from train.codec.codec_recipe import CodecRecipe, Part
    from train.codec.train_codec import train_codec

    out = tmp_path_factory.mktemp("tiny") / "codec"
    part = Part(network=str(tiny_network), lambda_=300.0)
    recipe = CodecRecipe(data="patches", parts=(part,), steps=60, batch=24)
    train_codec(recipe, patches[:1], patches[1:], out, resume=False)
    return out


@pytest.fixture(scope="session")
def tiny_bundle(
    tmp_path_factory: pytest.TempPathFactory, patches: tuple[Patches, Patches], tiny_run: Path
) -> Path:
    """A whole bundle: one task "classification" of three labels, pictures of 64 x 64, latent grid 2 x 2."""
    from train.bundle.build import build

    out = tmp_path_factory.mktemp("tiny") / "bundle"
    build(tiny_run, out, "tiny", patches[1])
    return out
