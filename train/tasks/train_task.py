"""Flow 3: trains a task that nobody planned, on the bytes of a bundle that is already deployed.

    z = what the bundle's edge sends at a random quality;  y_hat = reconstruction(z x inverse gain);  loss = d

Only a fresh FeatureReconstruction of the new network's feature is trained. Fronts, transform, gains and entropy model
of the bundle, and the new network itself, stay as they are, and so does every byte that an edge sends. The result is a
task folder to add to the bundle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cloud.networks.networks import feature_shape
from shared.bundle import Bundle, Task
from shared.encoder import Encoder
from shared.errors import DataError
from shared.kinds import KINDS
from train.bundle.export import round_to_eight_bits, round_to_half
from train.bundle.manifest import tail_spec, without_paths
from train.bundle.stretch import stretch_last
from train.codec.codec_recipe import LABELLED
from train.codec.codec_training import SAMPLE, VALIDATED
from train.codec.distortion import crop_for, distortion
from train.codec.split_networks import Head, check_size
from train.codec.teacher_cache import features_of, network_inputs
from train.data.dataset import Dataset, dataset_digests, network_input
from train.data.feature_cache import CachedArrays, cached_features
from train.echo import progress_bar
from train.loop.distributed import Precision, Workers, training_device
from train.loop.interrupts import Interrupts
from train.loop.journal import Scalars
from train.loop.run import Run
from train.loop.schedule import Schedule, batch_indices
from train.loop.scores import Scores, to_json
from train.loop.training import Plan, Training, fit
from train.networks.load import cut, load_network_spec, reference_cut
from train.networks.network_folder import NetworkCard
from train.tasks.evaluate_task import evaluate_task, task_sheet
from train.tasks.regression import start_by_regression
from train.tasks.task_recipe import TaskRecipe
from train.tasks.trainable_head import (
    FOLDER,
    TrainableHead,
    load_reconstruction,
    reconstruction_of,
    save_task,
)

Z_TYPE = np.int16  # of cached latents
REGRESSED = 1024  # images of a regression


def train_task(
    recipe: TaskRecipe,
    training: Dataset,
    validation: Dataset,
    out: Path,
    resume: bool,
    device: str = "cpu",
    features: Path | None = None,
    precision: Precision = "auto",
) -> Scores:
    """Trains a task, and leaves its folder in out/task. Returns its scores on the images held out.

    training, validation: the distortions LABELLED need labels.
    features: folder for the new network's features, for several runs; by default in the run's own folder.

    Raises IsthmusError, Interruption.
    """
    with Interrupts() as interrupts:
        workers = Workers(training_device(device), precision)
        return fit(TaskTraining(recipe, training, validation, out, resume, workers, features), interrupts)


class TaskTraining(Training[NDArray[np.int64], Scores]):
    """Distortion of a new task's feature, rebuilt from z. A batch is the indices (B,) of its images."""

    model: TrainableHead

    def __init__(
        self,
        recipe: TaskRecipe,
        training: Dataset,
        validation: Dataset,
        out: Path,
        resume: bool,
        workers: Workers,
        features: Path | None = None,
    ) -> None:
        self.recipe, self.workers, self.device = recipe, workers, workers.device
        self.training, self.validation = training, validation
        self.bundle = Bundle.open(recipe.bundle)
        network, self.card = load_network_spec(recipe, recipe.seed)
        self.name = recipe.name or self.card.task
        _check(self.name, self.card, recipe, self.bundle)
        self.front, tail = cut(network, self.card)
        preprocess = self.card.preprocess
        for data in (training, validation):
            check_size(data, preprocess)
        feature = feature_shape(self.front, preprocess.height, preprocess.width)
        torch.manual_seed(recipe.seed)
        regression = recipe.start == "regression"
        config, log_inverse = reconstruction_of(self.bundle, recipe.width, regression=regression)
        config = config.model_copy(update={"scaled": not reference_cut(self.card)})
        self.model = TrainableHead(Head(tail, self.card.task, feature), config, log_inverse)
        if recipe.init is not None:
            load_reconstruction(self.model, Path(recipe.init))
        self.crop = crop_for(self.model.head, recipe.crop) if recipe.distortion != "feature" else None
        self.size = len(training)
        self.positions = _positions(self.bundle, self.size * (2 if recipe.flips else 1), recipe.seed)
        workers.check_batch(min(recipe.batch, len(self.positions)))
        inputs = {
            **network_inputs([recipe], [network]),
            f"the bundle {recipe.bundle}": _digest_of(self.bundle),
        }
        inputs |= dataset_digests(training, validation)
        self.run = Run(out, recipe.model_dump(mode="json"), resume, inputs, workers, type(recipe))
        self.front.to(self.device).eval()
        self.model.to(self.device)
        self.encoder = Encoder(self.bundle, threads=torch.get_num_threads())
        with workers.leader_first():
            self.latents = _latents(out / "latents", self.encoder, training, self.positions, recipe)
            folder = (features or out / "features") / self.name
            self.features = features_of(folder, self.front, training, preprocess, recipe.flips)
        if self.model.scaling:
            sample = np.linspace(0, self.size - 1, min(self.size, SAMPLE)).astype(np.int64)
            self.model.scaling.measure(self.features.batch(sample).to(self.device))
        if regression and recipe.init is None and not (resume and self.run.load()):
            start_by_regression(self.model, self._pairs())
        self.plan = Plan(Schedule(recipe.steps, recipe.learning_rate), recipe.seed, shown=("distortion",))

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """z, positions and features of a sample."""
        count = len(self.positions)
        sample = np.linspace(0, count - 1, min(count, REGRESSED)).astype(np.int64)
        for start in range(0, len(sample), 32):
            rows = sample[start : start + 32]
            positions = torch.from_numpy(self.positions[rows])
            pair = self.latents.batch(rows).float(), positions, self.features.batch(rows).float()
            z, place, y = (each.to(self.device) for each in pair)
            yield z, place, y

    def batches(self, start: int) -> Iterator[NDArray[np.int64]]:
        recipe = self.recipe
        steps = batch_indices(len(self.positions), recipe.batch, recipe.seed, start, recipe.steps)
        yield from map(self.workers.share, steps)

    def loss(self, batch: NDArray[np.int64], step: int) -> tuple[Tensor, Scalars]:
        self.model.eval()  # the tail's normalisation stays as it is; the reconstruction has none
        z = self.latents.batch(batch).to(self.device)
        given = self.features.batch(batch).to(self.device)
        y_hat = self.model.feature(z, torch.from_numpy(self.positions[batch]).to(self.device))
        labels = None
        if self.recipe.distortion in LABELLED:
            labels = self.training.labels(batch % self.size, batch >= self.size)
        head, variance = self.model.head, self.workers.variance
        d = distortion(self.recipe.distortion, head, head, y_hat, given, labels, self.crop, variance).mean()
        return d, {"distortion": float(d.detach())}

    def validate(self) -> Scores:
        return self._evaluate(VALIDATED)

    def _evaluate(self, most: int | None = None) -> Scores:
        return evaluate_task(self.model, self.encoder, self.front, self.validation, self.workers, most)

    def sheets(self) -> Mapping[str, NDArray[np.uint8]]:
        if not KINDS[self.card.task].mapped:
            return {}
        return {self.name: task_sheet(self.model, self.encoder, self.front, self.validation)}

    def _stretch(self) -> None:
        if self.recipe.stretch == 1:
            return
        if self.model.scaling:
            self.model.scaling.deviation.mul_(self.recipe.stretch)
            return
        sample = self.features.batch(np.arange(min(self.size, SAMPLE))).to(self.device)
        stretch_last(self.model.reconstruction.layers, self.recipe.stretch, sample.mean((0, 2, 3)))

    def result(self, scores: Scores) -> Scores:
        if self.recipe.half:
            round_to_half(self.model)
        if self.recipe.eight_bit_tail:
            round_to_eight_bits(self.model.head)
        self._stretch()
        scores = self._evaluate()
        task = Task(
            name=self.name,
            kind=self.card.task,
            labels=self.card.labels,
            **tail_spec(self.card),
            feature=self.model.head.feature,
            options=self.card.options,
        )
        recipes = {
            "network": without_paths(self.card.recipe),
            "task": without_paths(self.recipe.model_dump(mode="json")),
        }
        if self.workers.leads:
            save_task(self.run.folder / FOLDER, self.bundle, task, self.model, recipes, to_json(scores))
        return scores


def _check(name: str, card: NetworkCard, recipe: TaskRecipe, bundle: Bundle) -> None:
    """Raises DataError where the task cannot be added to the bundle."""
    if any(task.name == name for task in bundle.tasks):
        raise DataError(
            f"{recipe.bundle} has a task {name!r} already; give this one another name", setting="name"
        )
    if card.preprocess != bundle.manifest.preprocess:
        raise DataError(
            f"{recipe.network} takes images of another size, crop or normalisation than {recipe.bundle}"
        )


def _digest_of(bundle: Bundle) -> str:
    """SHA-256, hex, of the digests of the bundle's files; the scores in its manifest may change meanwhile."""
    files = sorted((name, entry.sha256) for name, entry in bundle.manifest.files.items())
    return hashlib.sha256(repr(files).encode()).hexdigest()


def _positions(bundle: Bundle, count: int, seed: int) -> NDArray[np.float32]:
    """The level at which each image is coded, a float in 0..L-1."""
    last = len(bundle.manifest.qualities) - 1
    return (np.random.default_rng((seed, 3)).random(count) * last).astype(np.float32)


def _latents(
    folder: Path, encoder: Encoder, data: Dataset, positions: NDArray[np.float32], recipe: TaskRecipe
) -> CachedArrays:
    """z of every image at its position, kept in `folder`."""
    preprocess, manifest = encoder.bundle.manifest.preprocess, encoder.bundle.manifest

    def compute(indices: NDArray[np.int64], flip: NDArray[np.bool_]) -> NDArray[np.int16]:
        u = encoder.features(network_input(data.images(indices), preprocess, flip).numpy())
        _, z = encoder.latents(u, positions[indices + flip * len(data)])
        return z.clip(np.iinfo(Z_TYPE).min, np.iinfo(Z_TYPE).max).astype(Z_TYPE)

    key = {
        "edge_sha256": manifest.edge_sha256,
        "fingerprint": manifest.fingerprint,
        "seed": recipe.seed,
    }
    return cached_features(folder, compute, data, key, recipe.flips, progress_bar)
