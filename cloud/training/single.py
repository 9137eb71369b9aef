"""Flow 1: one trained network, split after layer m; trains the whole codec on its feature (`isthmus train single`).

    y = front(x);  y_hat, H_z, H_v = codec(y);  d = distortion(tail(y_hat))
    loss = H_z + H_v + lambda * d        (form "rd";  "dr": d + lambda * (H_z + H_v));  bits a picture

The network is frozen unless `train_all`; then its features are computed once and kept in the run folder. The rate's
weight is zero at first and ramped in: with all of it from the first step every codec fell to no information at all,
and did not come back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from cloud.models.codec import PRESETS, CodecConfig, FeatureCodec
from cloud.models.networks import as_feature, feature_shape, logits, split
from cloud.training.data import Pictures, in_order, network_input
from cloud.training.network import CARD, NetworkCard, load_classifier, load_network
from cloud.training.run import LOG_EVERY, Run, Schedule, batches, fit, training_device
from shared.bundle import Preprocess
from shared.errors import DataError
from shared.files import write_atomically, writing_atomically
from shared.types import Frozen

SHARD = 2048  # features in a file: half a minute's work


class SingleRecipe(Frozen):
    """Everything that decides how a codec comes out. split: None takes the network's own."""

    data: str
    network: str
    split: int | None = Field(None, ge=0)
    preset: Literal["reference", "small"] = "small"
    distortion: Literal["task", "distill", "feature"] = "distill"
    form: Literal["rd", "dr"] = "rd"
    lambda_: float = Field(gt=0)
    steps: int = Field(ge=1)
    batch: int = Field(64, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    distortion_first: float = Field(0.1, ge=0, le=1, description="share of the steps without any rate")
    rate_ramp: float = Field(
        0.3, ge=0, le=1, description="share of the steps in which the rate's weight grows to 1"
    )
    flips: bool = True
    train_all: bool = False
    seed: int = 0


class Batch(NamedTuple):
    """x: network input, or its feature where the network is frozen; labels (B,); teacher: logits of the network."""

    x: Tensor
    labels: Tensor
    teacher: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(*(tensor.to(device) for tensor in self))


class Features:
    """The features of M pictures, computed once.

    shards: (., C, H', W') float16, together M, all but the last of one length; teacher: (M, classes) float32.
    """

    def __init__(
        self, shards: list[NDArray[np.float16]], teacher: NDArray[np.float32], labels: NDArray[np.int64]
    ) -> None:
        self.shards, self.teacher, self.labels = shards, teacher, labels

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        shard, row = np.divmod(indices, len(self.shards[0]))
        values = np.stack([self.shards[s][r] for s, r in zip(shard, row, strict=True)])
        return Batch(
            torch.from_numpy(values.astype(np.float32)),
            torch.from_numpy(self.labels[indices]),
            torch.from_numpy(self.teacher[indices]),
        )


class SplitCodec(nn.Module):
    """front -> codec -> tail, the thing that a bundle deploys."""

    def __init__(
        self, network: nn.Sequential, layer: int, config: CodecConfig, preprocess: Preprocess
    ) -> None:
        super().__init__()
        self.front, self.tail = split(network, layer)
        self.feature = feature_shape(self.front, preprocess.height, preprocess.width)
        height, width = spatial(self.feature)
        self.codec = FeatureCodec(self.feature[0], config.for_feature(height, width))

    def answer(self, y: Tensor) -> Tensor:
        """The tail's logits (B, classes) of a feature as the codec takes and gives it, (B, C, H', W')."""
        return logits(self.tail, as_feature(y, self.feature))

    def freeze_network(self) -> None:
        for part in (self.front, self.tail):
            part.requires_grad_(False)


def spatial(feature: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a feature; one that is a vector (the network's output) has one cell."""
    return (feature[1], feature[2]) if len(feature) == 3 else (1, 1)


def as_map(y: Tensor) -> Tensor:
    """(B, C) or (B, C, H, W) -> (B, C, H, W)."""
    return y if y.dim() == 4 else y[:, :, None, None]


def train_single(
    recipe: SingleRecipe,
    training: Pictures,
    validation: Pictures,
    out: Path,
    resume: bool,
    device: str = "cpu",
) -> dict[str, float]:
    """Train, leaving in `out` what `build` needs. Returns the last validation. Raises DataError."""
    place = training_device(device)
    network, card = load_classifier(Path(recipe.network))
    layer = card.split if recipe.split is None else recipe.split
    torch.manual_seed(recipe.seed)
    try:
        model = SplitCodec(network, layer, PRESETS[recipe.preset], card.preprocess)
    except ValueError as error:
        raise DataError(str(error)) from None
    for pictures in (training, validation):
        _check_size(pictures, card)
    # Not before all is known to be sound: a folder that holds a run is not taken for another.
    run = Run(out, recipe.model_dump(mode="json"), resume)
    write_atomically(out / CARD, card.model_copy(update={"split": layer}).model_dump_json(indent=1).encode())
    model.to(place)
    if recipe.train_all:
        source = _pictures(model, training, card, recipe)
        check = _pictures(model, validation, card, recipe.model_copy(update={"flips": False}))
    else:
        model.freeze_network()
        kept = cached_features(out / "train-features", model, training, card.preprocess, recipe.flips)
        held = cached_features(out / "validation-features", model, validation, card.preprocess, False)
        source, check = _kept(kept), _kept(held)
    size = len(training) * (2 if recipe.flips and not recipe.train_all else 1)

    def data(start: int) -> Iterator[Batch]:
        for step, indices in enumerate(batches(size, recipe.batch, recipe.seed, start, recipe.steps), start):
            yield source(indices, step).to(place)

    def loss_of(batch: Batch, step: int) -> tuple[Tensor, dict[str, float]]:
        model.train(recipe.train_all)
        model.codec.train()
        y = as_map(model.front(batch.x)) if recipe.train_all else batch.x
        coded = model.codec(y)
        distance = _distortion(recipe.distortion, model, y, coded.y_hat, batch)
        rate = (coded.bits_z + coded.bits_v).mean()
        ramp = rate_weight(step / recipe.steps, recipe)
        # The "rd" form over lambda has the same minimum, and a gradient whose size does not depend on lambda.
        weight = 1 / recipe.lambda_ if recipe.form == "rd" else recipe.lambda_
        loss = distance + weight * ramp * rate
        scalars = {"distortion": float(distance.detach()), "bytes_under_noise": float(rate.detach()) / 8}
        if (step + 1) % LOG_EVERY == 0:
            with torch.no_grad():
                scalars["bytes"] = float(model.codec.rounded_bits(y).mean()) / 8
        return loss, scalars

    def validate() -> dict[str, float]:
        return evaluate(model, check, validation.labels, recipe.train_all)

    return dict(
        fit(
            run,
            model,
            Schedule(recipe.steps, recipe.learning_rate),
            data,
            loss_of,
            seed=recipe.seed,
            validate=validate,
            show=("bytes", "distortion"),
        )
    )


def _check_size(pictures: Pictures, card: NetworkCard) -> None:
    """Raises DataError where the network was trained on pictures of another size."""
    height, width = pictures.pixels(np.zeros(1, np.int64)).shape[1:3]
    if (height, width) != (card.preprocess.height, card.preprocess.width):
        raise DataError(
            f"--data has pictures of {width} x {height}, --network takes "
            f"{card.preprocess.width} x {card.preprocess.height}"
        )


def rate_weight(done: float, recipe: SingleRecipe) -> float:
    """The share of the rate's weight that counts when `done` (0..1) of the steps are over."""
    if recipe.rate_ramp == 0:
        return float(done >= recipe.distortion_first)
    return min(1.0, max(0.0, (done - recipe.distortion_first) / recipe.rate_ramp))


def _distortion(kind: str, model: SplitCodec, y: Tensor, y_hat: Tensor, batch: Batch) -> Tensor:
    if kind == "feature":
        return F.mse_loss(y_hat, y) / y.detach().var()
    out = model.answer(y_hat)
    if kind == "task":
        return F.cross_entropy(out, batch.labels)
    return F.kl_div(
        F.log_softmax(out, 1), F.log_softmax(batch.teacher, 1), reduction="batchmean", log_target=True
    )


@torch.no_grad()
def evaluate(model: SplitCodec, source: Any, labels: NDArray[np.int64], train_all: bool) -> dict[str, float]:
    """Top-1 through the codec and without it, their agreement, and the float model's bytes a picture."""
    model.eval()
    place = next(model.parameters()).device
    right = plain = same = 0
    bits = np.zeros(2)
    for indices in in_order(len(labels), 64):
        batch = source(indices, None).to(place)
        y = as_map(model.front(batch.x)) if train_all else batch.x
        coded = model.codec(y)
        best = model.answer(coded.y_hat).argmax(1)
        teacher = model.answer(y).argmax(1) if train_all else batch.teacher.argmax(1)
        right += int((best == batch.labels).sum())
        plain += int((teacher == batch.labels).sum())
        same += int((best == teacher).sum())
        bits += [float(coded.bits_v.sum()), float(coded.bits_z.sum())]
    size = len(labels)
    return {
        "top1": right / size,
        "top1_uncompressed": plain / size,
        "agreement": same / size,
        "bytes_v": float(bits[0]) / size / 8,
        "bytes_z": float(bits[1]) / size / 8,
    }


def _kept(features: Features) -> Any:
    return lambda indices, step: features.batch(indices)


def _pictures(model: SplitCodec, pictures: Pictures, card: NetworkCard, recipe: SingleRecipe) -> Any:
    """Batches from pixels, for a network that is trained along. The teacher is the network as it was given."""
    teacher, _ = load_network(Path(recipe.network))

    def batch(indices: NDArray[np.int64], step: int | None) -> Batch:
        flip = None
        if step is not None and recipe.flips:
            flip = np.random.default_rng((recipe.seed, step, 1)).random(len(indices)) < 0.5
        x = network_input(pictures.pixels(indices), card.preprocess, flip)
        with torch.no_grad():
            given = teacher(x).flatten(1)
        return Batch(x, torch.from_numpy(pictures.labels[indices]), given)

    return batch


@torch.no_grad()
def cached_features(
    folder: Path, model: SplitCodec, pictures: Pictures, preprocess: Preprocess, flips: bool
) -> Features:
    """The frozen front's features of all pictures (and, where `flips`, of their mirror images), kept in `folder`.

    They lie there in shards, each whole or absent, so that a killed run goes on with the next. about.json says of which
    network and pictures they are; those of others are thrown away.
    """
    model.eval()
    place = next(model.parameters()).device
    total = len(pictures) * (2 if flips else 1)
    classes, (height, width) = _classes(model), spatial(model.feature)
    _keep_only_those_of(folder, _identity(model, pictures, flips))
    shards = [range(start, min(start + SHARD, total)) for start in range(0, total, SHARD)]

    def opened(shard: int) -> tuple[NDArray[np.float16], NDArray[np.float32]] | None:
        """None where the shard is not there. The teacher's file is written last."""
        try:
            values = np.load(folder / f"{shard:05d}.features.npy", mmap_mode="r")
            teacher = np.load(folder / f"{shard:05d}.teacher.npy")
        except (OSError, ValueError, EOFError):
            return None
        size = len(shards[shard])
        sound = values.shape == (size, model.feature[0], height, width) and teacher.shape == (size, classes)
        return (values, teacher) if sound else None

    missing = [shard for shard in range(len(shards)) if opened(shard) is None]
    with Progress(disable=not missing) as progress:
        done = total - sum(len(shards[shard]) for shard in missing)
        bar = progress.add_task(f"features of {len(pictures)} pictures", total=total, completed=done)
        for shard in missing:
            values, teacher = [], []
            for piece in in_order(len(shards[shard]), 64):
                indices = piece + shards[shard].start
                flip = indices >= len(pictures)
                x = network_input(pictures.pixels(indices % len(pictures)), preprocess, flip)
                y = model.front(x.to(place))
                values.append(as_map(y).cpu().numpy().astype(np.float16))
                teacher.append(logits(model.tail, y).cpu().numpy())
                progress.advance(bar, len(indices))
            for name, parts in (("features", values), ("teacher", teacher)):
                with writing_atomically(folder / f"{shard:05d}.{name}.npy") as file:
                    np.save(file, np.concatenate(parts))
    kept = [pair for shard in range(len(shards)) if (pair := opened(shard)) is not None]
    if len(kept) != len(shards):
        raise DataError(f"the features in {folder} changed while they were being read")
    labels = np.tile(pictures.labels, 2 if flips else 1)
    return Features([values for values, _ in kept], np.concatenate([teacher for _, teacher in kept]), labels)


def _identity(model: SplitCodec, pictures: Pictures, flips: bool) -> dict[str, Any]:
    """What features depend on: the network's weights, where it is split, and the pictures (of these, a sample)."""
    weights = hashlib.sha256()
    for part in (model.front, model.tail):
        for tensor in part.state_dict().values():
            weights.update(tensor.cpu().numpy().tobytes())
    sample = np.linspace(0, len(pictures) - 1, 16).astype(np.int64)
    return {
        "weights_sha256": weights.hexdigest(),
        "split": len(model.front),
        "pictures": len(pictures),
        "labels_sha256": hashlib.sha256(pictures.labels.tobytes()).hexdigest(),
        "sample_sha256": hashlib.sha256(pictures.pixels(sample).tobytes()).hexdigest(),
        "flips": flips,
    }


def _keep_only_those_of(folder: Path, identity: dict[str, Any]) -> None:
    """Empty `folder` of features that are not of this network and these pictures, and of what a kill left half done."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".*.npy.*"):
        stale.unlink()
    about = folder / "about.json"
    try:
        if json.loads(about.read_text()) == identity:
            return
    except (FileNotFoundError, ValueError):
        pass
    there = list(folder.glob("*.npy"))
    if there:
        Console().print(f"{folder}: features of another network or of other pictures; computing them anew")
    about.unlink(missing_ok=True)  # first, so that a kill in between leaves nothing that looks sound
    for old in there:
        old.unlink()
    write_atomically(about, json.dumps(identity, indent=1).encode())


def _classes(model: SplitCodec) -> int:
    return int(
        logits(model.tail, torch.zeros(1, *model.feature, device=next(model.parameters()).device)).shape[1]
    )
