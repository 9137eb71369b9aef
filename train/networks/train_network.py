"""Trains the reference classifier, uncompressed; `train_maps` trains the networks for maps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cloud.networks.networks import REFERENCE_CLASSIFIER, ReferenceClassifier
from shared.bundle import Preprocess
from train.data.dataset import Dataset, in_order, network_input
from train.loop.distributed import Precision, Team
from train.loop.metrics import Top1
from train.loop.run import Schedule, fit, training_device
from train.networks.learner import finish, open_run, steps_of
from train.networks.network_folder import NetworkCard
from train.networks.network_recipe import NetworkRecipe


def train_network(
    recipe: NetworkRecipe,
    training: Dataset,
    validation: Dataset,
    out: Path,
    resume: bool,
    device: str = "cpu",
    precision: Precision = "auto",
) -> NetworkCard:
    """Train, and write the network to `out`. Raises DataError."""
    team = Team(training_device(device), precision)
    torch.manual_seed(recipe.seed)
    network = ReferenceClassifier(recipe.network)
    run, learner = open_run(recipe, network, out, resume, team, training, validation)
    preprocess = Preprocess(height=recipe.height, width=recipe.width)

    def data(start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step in steps_of(recipe, training, preprocess, team, start):
            yield step.x, torch.from_numpy(training.labels(step.indices)).to(team.device)

    def loss_of(batch: tuple[Tensor, Tensor], step: int) -> tuple[Tensor, dict[str, float]]:
        learner.train()
        y, beside = learner.feature(batch[0])
        out = learner.tail(y)
        loss = F.cross_entropy(out, batch[1], label_smoothing=recipe.label_smoothing) + beside
        return loss, {"top1": float((out.argmax(1) == batch[1]).float().mean())}

    def validate() -> dict[str, float]:
        return top1(network, validation, preprocess, team)

    figures = fit(
        run,
        learner.module,
        Schedule(recipe.steps, recipe.learning_rate),
        data,
        loss_of,
        seed=recipe.seed,
        validate=validate,
        show=("loss", "top1"),
        weight_decay=recipe.weight_decay,
        better=("top1", "max"),
    )
    labels = training.names
    return finish(network, REFERENCE_CLASSIFIER, "classification", recipe, labels, preprocess, figures, run)


@torch.no_grad()
def top1(
    network: nn.Module, pictures: Dataset, preprocess: Preprocess, team: Team, batch: int = 64
) -> dict[str, float]:
    """Share of pictures whose best class is the right one; counted by all processes together."""
    network.eval()
    metric = Top1()
    for indices in team.part(in_order(len(pictures), batch)):
        x = network_input(pictures.images(indices), preprocess).to(team.device)
        metric.add(network(x).argmax(1).cpu().numpy(), pictures.labels(indices))
    return team.merged(metric).figures()
