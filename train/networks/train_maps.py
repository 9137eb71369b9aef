"""Trains the reference networks for maps, such as normals and segmentation, uncompressed.

Legend: B images, H x W pixels, K classes. The result is a folder as `network_folder` describes it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cloud.networks.networks import REFERENCE_DENSE, DenseConfig, ReferenceDense
from shared.bundle import Preprocess
from shared.errors import DataError
from train.data.augment import zoom_labels
from train.data.dataset import Dataset, network_input
from train.kinds import TRAINING_KINDS
from train.kinds.training_kind import NothingMeasuredError
from train.loop.distributed import Precision, Workers, training_device
from train.loop.interrupts import Interrupts
from train.loop.journal import Scalars
from train.loop.scores import Scores
from train.loop.sheets import sheet, sheet_indices
from train.loop.training import Training, fit, is_logged
from train.networks.learner import Learner
from train.networks.network_folder import NetworkCard
from train.networks.network_recipe import DenseRecipe
from train.networks.network_training import open_run, plan_of, scored, step_inputs, write_network

VALIDATION_BATCH = 16


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
    """Trains a network for maps, and writes it to `out`. Raises DataError, Interruption.

    categories: the images of `training` with a class each, for `recipe.category`.
    """
    with Interrupts() as interrupts:
        workers = Workers(training_device(device), precision)
        return fit(MapTraining(recipe, training, validation, out, resume, workers, categories), interrupts)


class MapBatch(NamedTuple):
    """x (B, 3, H, W); labels (B, H, W, ...); the corner of `at_label_stride`; categories (B,) if they are used."""

    x: Tensor
    labels: Tensor
    corner: tuple[int, int]
    categories: Tensor | None


class MapTraining(Training[MapBatch, NetworkCard]):
    """The kind's loss against label maps, plus the auxiliary losses on the feature."""

    def __init__(
        self,
        recipe: DenseRecipe,
        training: Dataset,
        validation: Dataset,
        out: Path,
        resume: bool,
        workers: Workers,
        categories: Dataset | None = None,
    ) -> None:
        self.recipe, self.workers, self.kind = recipe, workers, recipe.task
        self.known = TRAINING_KINDS[recipe.task]
        self.training, self.validation = training, validation
        self.categories = _checked_categories(recipe, categories)
        _check_stride(recipe)
        self.preprocess = Preprocess(height=recipe.height, width=recipe.width)
        torch.manual_seed(recipe.seed)
        self.network = ReferenceDense(recipe.network)
        self.run, self.learner = open_run(
            recipe,
            self.network,
            (training, validation),
            out,
            resume,
            workers,
            len(self.categories.names) if self.categories else 0,
        )
        self.model = self.learner.module
        self.plan = plan_of(recipe, self.kind)

    def batches(self, start: int) -> Iterator[MapBatch]:
        device, form = self.workers.device, self.training.form
        assert form is not None
        for step in step_inputs(self.recipe, self.training, self.preprocess, self.workers, start):
            top, left = step.random.integers(0, self.recipe.label_stride, 2).tolist()
            maps = self.training.labels(step.indices)
            if step.zooms is not None:
                maps = zoom_labels(maps, form, step.zooms)
            labels = torch.from_numpy(form.mirrored(maps, step.flip)).to(device)
            categories = None
            if self.categories:
                categories = torch.from_numpy(self.categories.labels(step.indices)).to(device)
            yield MapBatch(step.x, labels, (top, left), categories)

    def loss(self, batch: MapBatch, step: int) -> tuple[Tensor, Scalars]:
        self.learner.train()
        y, auxiliary = self.learner.feature(batch.x, batch.categories)
        out, labels = at_label_stride(self.learner, y, batch.labels, self.recipe.label_stride, batch.corner)
        loss = self.known.label_loss(out, labels, self.workers.mean_count) + auxiliary
        return loss, self._batch_scores(out.detach(), labels) if is_logged(step, self.plan) else {}

    def _batch_scores(self, out: Tensor, labels: Tensor) -> Scalars:
        metric = self.known.metric(self.recipe.network.outputs)
        metric.add(self.known.answers(out), labels.cpu().numpy())
        with contextlib.suppress(NothingMeasuredError):  # a batch without a labelled pixel
            return self.workers.merged(metric).values()
        return {}

    def validate(self) -> Scores:
        return scored(
            self.kind, self.network, self.validation, self.preprocess, self.workers, VALIDATION_BATCH
        )

    @torch.no_grad()
    def sheets(self) -> Mapping[str, NDArray[np.uint8]]:
        """Image, prediction and labels of the first images."""
        self.network.eval()
        images = self.validation.images(sheet_indices(self.validation))
        out = self.network(network_input(images, self.preprocess).to(self.workers.device))
        return {self.kind: sheet(self.kind, self.validation, out)}

    def result(self, scores: Scores) -> NetworkCard:
        return write_network(
            self.run,
            self.network,
            REFERENCE_DENSE,
            self.kind,
            self.recipe,
            self.training.names,
            self.preprocess,
            scores,
        )


def at_label_stride(
    learner: Learner,
    y: Tensor,
    labels: Tensor,
    stride: int,
    corner: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """The network's output from its feature y, and the labels, at every pixel or at one of each stride x stride.

    corner: which one. With a bilinear end the layer before the interpolation has that size already, and the
    interpolation is left out; each of the pixels is drawn equally often, so no side is preferred.
    """
    if stride == 1:
        return learner.tail(y), labels
    top, left = corner
    labels = labels[:, top::stride, left::stride]
    config = learner.network.config
    if isinstance(config, DenseConfig) and config.bilinear:
        return learner.tail[:-1](y), labels
    return learner.tail(y)[:, :, top::stride, left::stride], labels


def _check_stride(recipe: DenseRecipe) -> None:
    stride = recipe.network.stride
    if recipe.height % stride or recipe.width % stride:
        raise DataError(
            f"images of {recipe.width} x {recipe.height} do not divide into cells of {stride} x {stride}",
            setting="stride",
        )


def _checked_categories(recipe: DenseRecipe, categories: Dataset | None) -> Dataset | None:
    """The categories, if the recipe uses them. Raises DataError."""
    if not recipe.category:
        return None
    if categories is None or categories.form is None:
        raise DataError(f"the images of {recipe.data} have no categories", setting="category")
    return categories
