"""Flows 1 and 2: trains a codec for the features of one or several trained networks.

    y_k = front_k(x);  u = transform(fusion(y_1 .. y_n));  H_z, H_v, y_hat_k = separation_k(reconstruction(z))
    d_k = distortion(tail_k(y_hat_k));  loss = H_z + H_v + s sum_k lambda_k d_k          (bits an image)

s is the scale of the image's quality level. With several levels it is drawn anew for each image of a batch, between the
levels too, so that one codec serves every rate. Form "dr", for one network: d + lambda (H_z + H_v).

Networks are frozen unless `train_all`; frozen networks' features are computed once and kept in the run folder. With a
base, d_base = distance(base(v), the task's answer) is added, so that v alone answers that task. A codec may finish in
further runs (`train.codec.finish`).

The rate's weight is zero at first and grows: with all of it from the first step every codec fell to no information at
all, and did not come back.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cloud.networks.transforms import interpolated
from shared.errors import DataError
from shared.files import write_atomically
from shared.kinds import KINDS
from train.codec.codec_recipe import (
    LABELLED,
    CodecRecipe,
    lambdas_of,
    level_loss,
    rate_weight,
    weighted,
)
from train.codec.context_model import Latents, slices_by_energy
from train.codec.distortion import crop_for, distortion
from train.codec.evaluate_codec import codec_sheets, evaluate, validated_loss
from train.codec.feature_codec import entropy_modules
from train.codec.split_networks import CARDS, SplitNetworks, check_size, load_codec_weights, load_networks
from train.codec.teacher_cache import CachedTeacher, answers_of, features_of, gradients_of, network_inputs
from train.data.dataset import Dataset, dataset_digests, files_of, network_input
from train.data.feature_cache import CachedArrays
from train.kinds import TRAINING_KINDS
from train.loop.distributed import Workers
from train.loop.journal import Scalars
from train.loop.run import Run
from train.loop.schedule import Schedule, batch_indices
from train.loop.scores import Score, Scores, to_json
from train.loop.training import Better, Plan, Training, is_logged

SAMPLE = 256  # images whose features give the scale of all
VALIDATED = 256  # images of each validation; the result is measured on all
FIGURES = "figures.json"
FILES = "files.json"  # names of the images


class CodecBatch(NamedTuple):
    """inputs: features (B, C_k, H_k, W_k) of the frozen networks, or x (B, 3, H, W) alone where they are trained too.

    indices (B,): of the images; those from the set's size on are mirror images.
    """

    inputs: list[Tensor]
    indices: NDArray[np.int64]


class CodecTraining(Training[CodecBatch, Scores]):
    """Rate and distortion of a codec between the halves of networks."""

    model: SplitNetworks

    def __init__(
        self,
        recipe: CodecRecipe,
        training: Sequence[Dataset],
        validation: Sequence[Dataset],
        out: Path,
        resume: bool,
        workers: Workers,
        features: Path | None = None,
    ) -> None:
        self.recipe, self.workers, self.device = recipe, workers, workers.device
        self.training, self.validation = training, validation
        networks = load_networks(recipe.parts, recipe.seed)
        self.preprocess = networks[0].card.preprocess
        torch.manual_seed(recipe.seed)
        self.model = model = SplitNetworks(networks, recipe)
        model.codec.core.rounds = recipe.rate == "rounded"
        if model.codec.core.gains is not None:
            model.codec.core.gains.start(recipe.scales)
        if recipe.init is not None:
            load_codec_weights(model, recipe, Path(recipe.init))
        if recipe.start == "answers" and len({head.feature[1:] for head in model.heads}) > 1:
            raise DataError(
                "start answers is for features of one grid; cut elsewhere, or use power", setting="start"
            )
        for data in (training[0], validation[0]):
            check_size(data, self.preprocess)
        self.crops = [
            crop_for(head, recipe.crop) if part.distortion != "feature" else None
            for part, head in zip(recipe.parts, model.heads, strict=True)
        ]
        self.size = len(training[0])
        self.items = self.size * (2 if recipe.flips else 1)
        workers.check_batch(min(recipe.batch, self.items))
        inputs = network_inputs(recipe.parts, [network.module for network in networks])
        inputs |= dataset_digests(training[0], validation[0])
        # Last of all checks, so that a start that fails leaves no folder behind.
        self.run = Run(out, recipe.model_dump(mode="json"), resume, inputs, workers, type(recipe))
        if workers.leads:
            cards = [network.card.model_dump(mode="json") for network in networks]
            write_atomically(out / CARDS, json.dumps(cards, indent=1).encode())
            write_atomically(out / FILES, json.dumps(files_of(training[0]), indent=1).encode())
        # Networks that are trained are compared with themselves as they were given.
        tuned = recipe.train_all or recipe.trains == "synthesis"
        self.teacher = copy.deepcopy(model).to(self.device).eval() if tuned else model
        model.to(self.device)
        if workers.size > 1:
            model.codec.core.noise = workers.rand_like
        self.log_scales = torch.tensor(recipe.scales, device=self.device).log()[:, None]
        self.cached: list[CachedArrays] = []
        self.answers: dict[int, CachedArrays] = {}
        self.gradients: list[Tensor] = []
        if not recipe.train_all:
            model.freeze_networks()
            with workers.leader_first():
                self._fill_caches(features or out / "features")
                self._fill_gradients(features or out / "features")
        begun = self.run.load() if resume else None
        if begun is not None:
            model.load_state_dict(begun["model"])
        elif recipe.init is None:
            self._measure()
        self._fill_latents(features or out / "features")
        for known in (*self.cached, *self.answers.values()):
            known.keep_on(self.device)
        self._freeze()
        self._measure_context()
        schedule = Schedule(recipe.steps, recipe.learning_rate)
        better = Better("loss", "min")
        self.plan = Plan(schedule, recipe.seed, better=better, shown=("bytes", "distortion"))

    def _fill_caches(self, folder: Path) -> None:
        """Computes the frozen networks' features, and their answers where distillation needs nothing else of them."""
        model, flips = self.model, self.recipe.flips
        self.cached = [
            features_of(folder / name, front, self.training[0], self.preprocess, flips)
            for name, front in zip(model.names, model.fronts, strict=True)
        ]
        for k, (name, head) in enumerate(zip(model.names, model.heads, strict=True)):
            distilled = self.recipe.parts[k].distortion in ("distill", "distill-hint")
            if not KINDS[head.kind].mapped and (distilled or name == self.recipe.base):
                place = folder / f"{name}-answers"
                self.answers[k] = answers_of(place, head, self.cached[k], self.training[0], flips)

    def _fill_gradients(self, folder: Path) -> None:
        """Computes how the answers depend on a sample of the features, where the codec is to begin by that."""
        if self.recipe.start != "answers" or self.recipe.init is not None:
            return
        for name, head, features in zip(self.model.names, self.model.heads, self.cached, strict=True):
            g = gradients_of(folder / f"{name}-gradients", head, features, self.training[0], SAMPLE)
            self.gradients.append(g.batch(np.arange(len(g))).to(self.device))

    def _fill_latents(self, folder: Path) -> None:
        """Computes what is known of z; nothing, while what makes it learns."""

    @torch.no_grad()
    def _measure(self) -> None:
        """Starts the codec at the scale of the features, from a sample of them."""
        sample = np.linspace(0, self.size - 1, min(self.size, SAMPLE)).astype(np.int64)
        inputs = [tensor.to(self.device) for tensor in self._inputs(sample)]
        ys = self.teacher.features(inputs[0]) if self.recipe.train_all else inputs
        gradients = None
        if self.recipe.start == "answers":
            weights = lambdas_of(self.recipe)
            gradients = [weight**0.5 * g for weight, g in zip(weights, self.gradients, strict=True)]
        self.model.codec.measure(ys, gradients)

    def _freeze(self) -> None:
        """Takes what does not learn out of the optimiser's hands: here only what other trainings teach."""
        core = self.model.codec.core
        if core.context is not None:
            core.context.networks["inter"].requires_grad_(False)
            if hasattr(core, "predictor"):
                core.predictor.requires_grad_(False)  # the context predicts in its place

    @torch.no_grad()
    def _measure_context(self) -> None:
        """Divides the channels of a new context by the energy of a sample of latents, and measures its inputs."""
        core = self.model.codec.core
        if core.context is None or bool(core.context.measured):
            return
        z, position = self._sample_latents()
        if not core.context.trained("intra"):  # a bundle's has its slices
            core.context.start(
                torch.from_numpy(slices_by_energy(z.square().mean((0, 2, 3)), core.config.context))
            )
            core.context.measure_scales(z)
        v = core.extract(z).round()
        core.context.measure(Latents(z, core.maps(v, z.shape[2], z.shape[3], position)))
        if position is not None:
            core.context.measured.fill_(True)

    def _sample_latents(self) -> tuple[Tensor, Tensor | None]:
        """z (M, N, h, w) of a sample of images over all levels, and their positions."""
        sample = np.linspace(0, self.size - 1, min(self.size, SAMPLE)).astype(np.int64)
        levels = len(self.recipe.scales)
        position = None
        if levels > 1:
            position = torch.linspace(0, levels - 1, len(sample), device=self.device)
        inputs = [tensor.to(self.device) for tensor in self._inputs(sample)]
        ys = self.model.features(inputs[0]) if self.recipe.train_all else inputs
        u = self.model.codec.core.transform(self.model.codec.fusion(ys))
        return self.model.codec.core.z_of(u, position).round(), position

    def rates(self) -> list[tuple[list[nn.Parameter], float]]:
        core, recipe = self.model.codec.core, self.recipe
        # Without such a setting there is one group, as in checkpoints made before there were any.
        apart = [(entropy_modules(core), recipe.entropy_rate)] if recipe.entropy_rate != 1.0 else []
        if core.gains is not None and recipe.gain_rate != 1.0:
            apart.append(([core.gains], recipe.gain_rate))
        groups = [
            ([p for m in modules for p in m.parameters() if p.requires_grad], rate) for modules, rate in apart
        ]
        known = {id(p) for parameters, _ in groups for p in parameters}
        rest = [p for p in self.model.parameters() if p.requires_grad and id(p) not in known]
        return [(rest, 1.0), *groups]

    def _inputs(self, indices: NDArray[np.int64]) -> list[Tensor]:
        if not self.recipe.train_all:
            return [features.batch(indices) for features in self.cached]
        images = self.training[0].images(indices % self.size)
        return [network_input(images, self.preprocess, indices >= self.size)]

    def batches(self, start: int) -> Iterator[CodecBatch]:
        recipe = self.recipe
        for whole in batch_indices(self.items, recipe.batch, recipe.seed, start, recipe.steps):
            indices = self.workers.share(whole)
            yield CodecBatch([tensor.to(self.device) for tensor in self._inputs(indices)], indices)

    def loss(self, batch: CodecBatch, step: int) -> tuple[Tensor, Scalars]:
        recipe, model = self.recipe, self.model
        model.train(recipe.train_all)
        model.codec.train()
        ys = model.features(batch.inputs[0]) if recipe.train_all else batch.inputs
        with torch.no_grad():
            given = self.teacher.features(batch.inputs[0]) if recipe.train_all else ys
        position, scale = draw_levels(len(batch.indices), self.log_scales, self.workers)
        decoded, coded = model.codec(ys, position)
        bits = coded.bits_z + coded.bits_v
        distances = self._distances(batch.indices, decoded, given)
        distance = weighted(recipe, distances, scale)
        rate = bits + recipe.base_lambda * self._base_distance(batch, coded.v)
        loss = level_loss(recipe, scale, distance, rate, rate_weight(step / recipe.steps, recipe)).mean()
        if not is_logged(step, self.plan):
            return loss, {}  # a GPU would wait for each value
        with torch.no_grad():
            scalars = {f"d/{n}": float(d.mean()) for n, d in zip(model.names, distances, strict=True)}
            rounded = model.codec.core.rounded_bits(model.codec.fusion(ys), position)
            scalars |= {"distortion": float(distance.mean()), "bytes_under_noise": float(bits.mean()) / 8}
            scalars["bytes"] = float(rounded.mean()) / 8
        return loss, scalars

    def _base_distance(self, batch: CodecBatch, v: Tensor) -> Tensor:
        """How far the base task's answer from v is from its network's, (B,); 0 without a base."""
        model = self.model
        if model.base is None:
            return v.new_zeros(len(v))
        k = model.names.index(self.recipe.base)
        with torch.no_grad():
            if k in self.answers:
                wanted = self.answers[k].batch(batch.indices).to(self.device)
            else:
                given = self.teacher.features(batch.inputs[0]) if self.recipe.train_all else batch.inputs
                wanted = self.teacher.heads[k](given[k]).float()
        distance: Tensor = TRAINING_KINDS[model.heads[k].kind].teacher_distance(model.base(v), wanted)
        return distance

    def _distances(
        self, indices: NDArray[np.int64], decoded: Sequence[Tensor], given: Sequence[Tensor]
    ) -> list[Tensor]:
        """The distortion of each part and image, (B,) each."""
        found = []
        for k, part in enumerate(self.recipe.parts):
            labels = None
            if part.distortion in LABELLED:
                labels = self.training[k].labels(indices % self.size, indices >= self.size)
            teacher: Callable[..., Tensor] = self.teacher.heads[k]
            if k in self.answers:
                teacher = CachedTeacher(self.answers[k].batch(indices).to(self.device))
            head, variance = self.model.heads[k], self.workers.variance
            found.append(
                distortion(
                    part.distortion, head, teacher, decoded[k], given[k], labels, self.crops[k], variance
                )
            )
        return found

    def _evaluate(self, most: int | None = None, distances: bool = False) -> Scores:
        return evaluate(
            self.model,
            self.recipe,
            self.validation,
            self.preprocess,
            self.teacher,
            most,
            distances=distances,
            workers=self.workers,
        )

    def validate(self) -> Scores:
        scores = self._evaluate(VALIDATED, distances=True)
        return scores + Scores([Score("loss", validated_loss(self.recipe, self.model.names, scores))])

    def sheets(self) -> Mapping[str, NDArray[np.uint8]]:
        return codec_sheets(self.model, self.recipe, self.validation, self.preprocess, self.teacher)

    def result(self, scores: Scores) -> Scores:
        whole = self._evaluate()
        if self.workers.leads:
            write_atomically(self.run.folder / FIGURES, json.dumps(to_json(whole), indent=1).encode())
        return scores + whole


def draw_levels(size: int, log_scales: Tensor, workers: Workers) -> tuple[Tensor | None, Tensor]:
    """Positions (B,) of this process's share of a batch, and their scales of lambda.

    Half of the batch lies on a level, the rest between two. With one level there are no positions.
    """
    if len(log_scales) == 1:
        return None, log_scales.exp().flatten()
    position = torch.rand(size * workers.size, device=log_scales.device) * (len(log_scales) - 1)
    position[::2] = torch.randint(len(log_scales), (len(position[::2]),), device=log_scales.device).float()
    position = position[workers.rank :: workers.size]
    return position, interpolated(log_scales, position).flatten()
