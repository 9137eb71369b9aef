"""Trains the reference classifier, uncompressed; `train_maps` trains the networks for maps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from cloud.networks.networks import REFERENCE_CLASSIFIER, ReferenceClassifier
from shared.bundle import Preprocess
from train.data.dataset import Dataset
from train.loop.distributed import Precision, Workers, training_device
from train.loop.interrupts import Interrupts
from train.loop.journal import Scalars
from train.loop.scores import Scores
from train.loop.training import Training, fit
from train.networks.network_folder import NetworkCard
from train.networks.network_recipe import NetworkRecipe
from train.networks.network_training import open_run, plan_of, scored, step_inputs, write_network

VALIDATION_BATCH = 64

ClassBatch = tuple[Tensor, Tensor]  # x (B, 3, H, W) and classes (B,)


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
    """Cross-entropy against an image's class, with label smoothing, plus the auxiliary losses on the feature."""

    def __init__(
        self,
        recipe: NetworkRecipe,
        training: Dataset,
        validation: Dataset,
        out: Path,
        resume: bool,
        workers: Workers,
    ) -> None:
        self.recipe, self.workers = recipe, workers
        self.training, self.validation = training, validation
        self.preprocess = Preprocess(height=recipe.height, width=recipe.width)
        torch.manual_seed(recipe.seed)
        self.network = ReferenceClassifier(recipe.network)
        self.run, self.learner = open_run(recipe, self.network, (training, validation), out, resume, workers)
        self.model = self.learner.module
        self.plan = plan_of(recipe, "classification")

    def batches(self, start: int) -> Iterator[ClassBatch]:
        for step in step_inputs(self.recipe, self.training, self.preprocess, self.workers, start):
            yield step.x, torch.from_numpy(self.training.labels(step.indices)).to(self.workers.device)

    def loss(self, batch: ClassBatch, step: int) -> tuple[Tensor, Scalars]:
        x, classes = batch
        self.learner.train()
        y, auxiliary = self.learner.feature(x)
        logits = self.learner.tail(y)
        loss = F.cross_entropy(logits, classes, label_smoothing=self.recipe.label_smoothing) + auxiliary
        return loss, {"top1": float((logits.argmax(1) == classes).float().mean())}

    def validate(self) -> Scores:
        return scored(
            "classification", self.network, self.validation, self.preprocess, self.workers, VALIDATION_BATCH
        )

    def result(self, scores: Scores) -> NetworkCard:
        return write_network(
            self.run,
            self.network,
            REFERENCE_CLASSIFIER,
            "classification",
            self.recipe,
            self.training.names,
            self.preprocess,
            scores,
        )
