"""Trains the reference networks for normals and segmentation, uncompressed: `isthmus train network --task ...`.

Legend: B pictures, H x W pixels, K classes. The result is a folder as `network_folder` describes it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cloud.networks.networks import REFERENCE_DENSE, ReferenceDense
from shared.bundle import Preprocess
from shared.errors import DataError
from train.data.augment import zoom_maps
from train.data.dataset import IGNORE, Dataset, DenseTask, in_order, network_input
from train.loop import scoring as tally
from train.loop.distributed import Precision, Team
from train.loop.metrics import NothingMeasuredError
from train.loop.run import LOG_EVERY, Better, Schedule, fit, training_device
from train.networks.learner import Learner, finish, open_run, steps_of
from train.networks.network_folder import NetworkCard
from train.networks.network_recipe import DenseRecipe

MAIN_FIGURE: dict[str, Better] = {"normals": ("mean_deg", "min"), "segmentation": ("miou", "max")}


class Batch(NamedTuple):
    """x (B, 3, H, W), truth as a data set gives it, the corner of `_at_label_stride`, categories (B,) if used."""

    x: Tensor
    truth: Tensor
    corner: tuple[int, int]
    categories: Tensor | None


def train_dense(
    recipe: DenseRecipe,
    training: Dataset,
    validation: Dataset,
    out: Path,
    resume: bool,
    device: str = "cpu",
    precision: Precision = "auto",
    categories: Dataset | None = None,
) -> NetworkCard:
    """Train, and write the network to `out`. Raises DataError.

    categories: the images of `training` with a class each, for `recipe.category`.
    """
    stride = recipe.network.stride
    if recipe.height % stride or recipe.width % stride:
        raise DataError(
            f"pictures of {recipe.width} x {recipe.height} do not divide into cells of --stride {stride}"
        )
    known_categories = categories.labels if recipe.category and categories else None
    if recipe.category and (categories is None or categories.form is None):
        raise DataError(f"the images of {recipe.data} have no categories", setting="category")
    team = Team(training_device(device), precision)
    torch.manual_seed(recipe.seed)
    network = ReferenceDense(recipe.network)
    told = len(categories.names) if recipe.category and categories else 0
    run, learner = open_run(recipe, network, out, resume, team, training, validation, told)
    preprocess = Preprocess(height=recipe.height, width=recipe.width)

    def data(start: int) -> Iterator[Batch]:
        for step in steps_of(recipe, training, preprocess, team, start):
            top, left = step.random.integers(0, recipe.label_stride, 2).tolist()
            maps = training.labels(step.indices)
            if step.zooms is not None:
                maps = zoom_maps(maps, step.zooms)
            assert training.form is not None
            truth = torch.from_numpy(training.form.mirrored(maps, step.flip)).to(team.device)
            known = known_categories and torch.from_numpy(known_categories(step.indices)).to(team.device)
            yield Batch(step.x, truth, (top, left), known)

    def loss_of(batch: Batch, step: int) -> tuple[Tensor, dict[str, float]]:
        learner.train()
        x, truth, corner, known = batch
        y, beside = learner.feature(x, known)
        made, truth = _at_label_stride(learner, y, truth, recipe.label_stride, corner)
        scalars = {}
        if (step + 1) % LOG_EVERY == 0 or step + 1 == recipe.steps:
            # Of a batch without a labelled pixel the loss is 0, and there is nothing else to tell.
            with contextlib.suppress(NothingMeasuredError):
                scalars = _measure(recipe, [(made.detach(), truth)], team)
        return dense_loss(recipe.task, made, truth, team.mean_count) + beside, scalars

    def validate() -> dict[str, float]:
        network.eval()
        return _measure(recipe, _answers(network, validation, preprocess, team), team)

    def pictures() -> dict[str, NDArray[np.uint8]]:
        network.eval()
        return {recipe.task: sheet(recipe.task, network, validation, preprocess)}

    figures = fit(
        run,
        learner.module,
        Schedule(recipe.steps, recipe.learning_rate),
        data,
        loss_of,
        seed=recipe.seed,
        validate=validate,
        pictures=pictures,
        show=("loss", MAIN_FIGURE[recipe.task][0]),
        weight_decay=recipe.weight_decay,
        better=MAIN_FIGURE[recipe.task],
    )
    return finish(network, REFERENCE_DENSE, recipe.task, recipe, training.names, preprocess, figures, run)


def _at_least_one(count: Tensor) -> Tensor:
    return count.clamp(min=1)


def dense_loss(
    task: DenseTask, made: Tensor, truth: Tensor, mean_count: Callable[[Tensor], Tensor] = _at_least_one
) -> Tensor:
    """made (B, K or 3, H, W); truth as a data set gives it. Means over the labelled pixels; 0 where there is none.

    Segmentation: cross-entropy. Normals: 1 - cosine, and the mean absolute difference of the components. mean_count:
    `Team.mean_count` where several processes train.
    """
    if task == "segmentation":
        labelled = mean_count((truth != IGNORE).sum())
        return F.cross_entropy(made, truth.long(), ignore_index=IGNORE, reduction="sum") / labelled
    valid = (truth != 0).any(-1)
    one = F.normalize(truth.permute(0, 3, 1, 2).float(), dim=1)
    other = F.normalize(made.float(), dim=1)
    distance = 1 - (one * other).sum(1) + (one - other).abs().mean(1)
    return (distance * valid).sum() / mean_count(valid.sum())


def _at_label_stride(
    learner: Learner, y: Tensor, truth: Tensor, stride: int, corner: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The network's output from its feature y, and the labels, at every pixel or at one of each stride x stride: that
    at `corner`.

    With a bilinear end the layer before the interpolation has that size already, and the interpolation is left out;
    as each of the four pixels is drawn as often, no side is preferred.
    """
    if stride == 1:
        return learner.tail(y), truth
    top, left = corner
    truth = truth[:, top::stride, left::stride]
    if learner.network.config.bilinear:
        return learner.tail[:-1](y), truth
    return learner.tail(y)[:, :, top::stride, left::stride], truth


@torch.no_grad()
def _answers(
    network: ReferenceDense, pictures: Dataset, preprocess: Preprocess, team: Team, batch: int = 16
) -> Iterator[tuple[Tensor, Tensor]]:
    for indices in team.part(in_order(len(pictures), batch)):
        made = network(network_input(pictures.images(indices), preprocess).to(team.device))
        yield made, torch.from_numpy(pictures.labels(indices))


def _measure(recipe: DenseRecipe, answers: Any, team: Team) -> dict[str, float]:
    """Figures of all processes' pairs of outputs and labels, as in `dense_loss`."""
    metric = tally.metric_of(recipe.task, recipe.network.outputs)
    for made, truth in answers:
        tally.count(metric, made, truth.cpu().numpy())
    return team.merged(metric).figures()


@torch.no_grad()
def sheet(
    task: DenseTask, network: ReferenceDense, pictures: Dataset, preprocess: Preprocess
) -> NDArray[np.uint8]:
    """The first pictures, a row each: input, prediction, truth."""
    x = network_input(pictures.images(tally.sheet_indices(pictures)), preprocess).to(
        next(network.parameters()).device
    )
    return tally.sheet(task, pictures, network(x))
