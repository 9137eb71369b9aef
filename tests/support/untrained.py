"""Networks and codec runs with random weights, as trainings leave them, without the training; for pictures of SIZE."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from cloud.networks.networks import ClassifierConfig, DenseConfig, build_network
from shared.bundle import Preprocess
from shared.types import TaskKind
from train.codec.codec_recipe import CodecRecipe, Part
from train.codec.prior_choice import Prior
from train.codec.split_networks import CARDS, SplitNetworks, load_networks
from train.networks.network_folder import NetworkCard, save_network
from train.rooms import CATEGORIES, SEMANTIC_CLASSES

SIZE = 64  # pixels, high and wide
SCALES = (0.25, 1.0, 16.0)


def random_network(folder: Path, task: TaskKind) -> Path:
    """A reference network's folder."""
    folder.mkdir()
    small = {"stride": 16, "feature_channels": 4, "widths": (4, 4, 4, 4)}
    if task == "classification":
        name, config = (
            "reference-classifier",
            ClassifierConfig(classes=len(CATEGORIES), head_widths=(4,), **small),
        )
    else:
        outputs = 3 if task == "normals" else len(SEMANTIC_CLASSES)
        name, config = "reference-dense", DenseConfig(outputs=outputs, tail_widths=(4,), **small)
    torch.manual_seed(0)
    network = build_network(name, config.model_dump())
    card = NetworkCard(
        network=name,
        task=task,
        config=config.model_dump(mode="json"),
        split=network.split_layer,
        labels=CATEGORIES if task == "classification" else SEMANTIC_CLASSES if task == "segmentation" else (),
        preprocess=Preprocess(height=SIZE, width=SIZE),
        recipe={},
        figures={},
    )
    save_network(network, card, folder)
    return folder


def random_run(
    folder: Path,
    networks: Sequence[Path],
    scales: tuple[float, ...] = SCALES,
    lambda_: float = 100.0,
    prior: Prior = "codebook",
    context: bool = False,
    base: str = "",
) -> Path:
    """A codec's run folder as a training leaves it, without the training.

    context: z is predicted from what is decoded, and frames from other frames. base: the task answered from v.
    """
    folder.mkdir()
    parts = tuple(Part(network=str(network), lambda_=lambda_) for network in networks)
    qualities = tuple(round(100 * i / max(1, len(scales) - 1)) for i in range(len(scales)))
    recipe = CodecRecipe(
        data="rooms",
        parts=parts,
        scales=scales,
        qualities=qualities,
        prior=prior,
        context="slices" if context else "none",
        context_hidden=(8,),
        base=base,
        steps=1,
        crop=2,
    )
    loaded = load_networks(parts)
    torch.manual_seed(1)
    model = SplitNetworks(loaded, recipe)
    if model.codec.core.gains is not None:
        model.codec.core.gains.start(scales)
    if model.codec.core.context is not None:
        for network in model.codec.core.context.of_kind("inter"):
            network.deviation.fill_(0.5)  # as measured ones, which make a network count as trained
            torch.nn.init.normal_(network.mean.weight, 0, 0.02)
    (folder / "recipe.json").write_text(json.dumps({"recipe": recipe.model_dump(mode="json")}))
    cards = [network.card.model_dump(mode="json") for network in loaded]
    (folder / CARDS).write_text(json.dumps(cards))
    torch.save({"model": model.state_dict()}, folder / "checkpoint.pt")
    (folder / "figures.json").write_text("{}")
    return folder
