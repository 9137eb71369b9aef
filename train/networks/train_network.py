"""Trains the reference classifier, uncompressed, for one label an image or several; `train_maps` trains for maps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from cloud.networks.networks import REFERENCE_CLASSIFIER, ReferenceClassifier
from shared.bundle import Preprocess
from train.data.dataset import Dataset
from train.kinds import TRAINING_KINDS
from train.loop.distributed import Precision, Workers, training_device
from train.loop.interrupts import Interrupts
from train.loop.journal import Scalars
from train.loop.scores import Scores
from train.loop.training import Training, fit
from train.networks.network_folder import NetworkCard
from train.networks.network_recipe import NetworkRecipe
from train.networks.network_training import open_run, plan_of, scored, step_inputs, write_network

VALIDATION_BATCH = 64

ClassBatch = tuple[Tensor, Tensor]  # x (B, 3, H, W) and classes (B,), or (B, K) of several labels


def train_network(
    recipe: NetworkRecipe,
    training: Dataset,
    validation: Dataset,
    out: Path,
    resume: bool,
    device: str = "cpu",
    precision: Precision = "auto",
) -> NetworkCard:
    """Trains a classifier, and writes it to `out`. Raises DataError, Interruption."""
    with Interrupts() as interrupts:
        workers = Workers(training_device(device), precision)
        return fit(ClassifierTraining(recipe, training, validation, out, resume, workers), interrupts)


class ClassifierTraining(Training[ClassBatch, NetworkCard]):
    """The kind's loss against an image's labels, plus the auxiliary losses on the feature."""

    def __init__(
        self,
        recipe: NetworkRecipe,
        training: Dataset,
        validation: Dataset,
        out: Path,
        resume: bool,
        workers: Workers,
    ) -> None:
        self.recipe, self.workers, self.known = recipe, workers, TRAINING_KINDS[recipe.task]
        self.training, self.validation = training, validation
        self.preprocess = Preprocess(height=recipe.height, width=recipe.width)
        torch.manual_seed(recipe.seed)
        self.network = ReferenceClassifier(recipe.network)
        self.run, self.learner = open_run(recipe, self.network, (training, validation), out, resume, workers)
        self.model = self.learner.module
        self.plan = plan_of(recipe, recipe.task)

    def batches(self, start: int) -> Iterator[ClassBatch]:
        for step in step_inputs(self.recipe, self.training, self.preprocess, self.workers, start):
            yield step.x, torch.from_numpy(self.training.labels(step.indices)).to(self.workers.device)

    def loss(self, batch: ClassBatch, step: int) -> tuple[Tensor, Scalars]:
        x, classes = batch
        self.learner.train()
        y, auxiliary = self.learner.feature(x)
        logits = self.learner.tail(y)
        loss = self.known.smoothed_loss(logits, classes, self.recipe.label_smoothing) + auxiliary
        right = self.known.right(logits.detach(), classes.cpu().numpy())
        return loss, {} if right is None else {self.known.main.key: float(right.mean())}

    def validate(self) -> Scores:
        return scored(
            self.recipe.task, self.network, self.validation, self.preprocess, self.workers, VALIDATION_BATCH
        )

    def result(self, scores: Scores) -> NetworkCard:
        return write_network(
            self.run,
            self.network,
            REFERENCE_CLASSIFIER,
            self.recipe.task,
            self.recipe,
            self.training.names,
            self.preprocess,
            scores,
        )
