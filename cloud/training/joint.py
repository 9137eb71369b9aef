"""Flows 1 and 2: a codec for the features of one or several trained networks (`isthmus train single`, `train multi`).

    y_k = front_k(x);  u = transform(fusion(y_1 .. y_n));  H_z, H_v, y_hat_k = separation_k(reconstruction(z))
    d_k = distortion(tail_k(y_hat_k));  loss = H_z + H_v + s sum_k lambda_k d_k          (bits a picture)

s is the scale of the picture's quality level: where there are several, drawn anew for each picture of a batch, between
the levels too, so that one codec serves every rate. Form "dr", for one network: d + lambda (H_z + H_v).

Networks are frozen unless `train_all`; then their features are computed once and kept in the run folder. The rate's
weight is zero at first and ramped in: with all of it from the first step every codec fell to no information at all,
and did not come back.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import AliasChoices, BeforeValidator, Field, model_validator
from rich.progress import track
from torch import Tensor, nn

from cloud.models.codec import JointCodec
from cloud.models.networks import as_feature, feature_shape
from cloud.models.priors import Prior, codec_of
from cloud.models.sizes import PRESETS, CodecConfig, Shape, common_grid
from cloud.models.transforms import interpolated
from cloud.training.data import in_order, network_input
from cloud.training.dense import dense_loss
from cloud.training.features import Kept, Pixels, kept_features, weights_digest
from cloud.training.network import WEIGHTS, NetworkCard, network_of
from cloud.training.run import LOG_EVERY, Run, Schedule, batches, fit, sha256_of, training_device
from cloud.training.sources import Source, cut, load_source, reference_cut
from cloud.training.tally import AGREEMENT, Tally, View, sheet, sheet_indices, target_of, truth_of
from cloud.training.team import Precision, Team
from shared.bundle import Preprocess
from shared.errors import DataError
from shared.files import write_atomically
from shared.types import Frozen, TaskKind

CARDS = "networks.json"
SAMPLE = 256  # pictures whose features tell their scale
GRID_MOST = 32  # cells of z, high or wide, unless the recipe says so
Distortion = Literal["task", "distill", "feature", "distill-hint"]


# Feature cells; in a file and in a flag 0 stands for None, the whole map.
Crop = Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(lambda cells: cells or None)]


class Part(Source):
    """One network of a codec. name: of its task, by default what the network was trained for.

    distortion: against the labels (task), the network's own output (distill) or its feature. lambda_: weight of the
    distortion, in bits.
    """

    name: str = Field("", pattern=r"^([a-z][a-z0-9_-]{0,63})?$")
    distortion: Distortion = "distill"
    lambda_: float = Field(gt=0, validation_alias=AliasChoices("lambda", "lambda_"))


class CodecRecipe(Frozen):
    """Everything that decides how a codec comes out.

    scales: of lambda, one a quality level, ascending. qualities: the levels' numbers in 0..100, ascending; as many.
    crop: feature cells, high and wide, of the piece of a map on which its distillation is computed; None: all of it.
    stride: feature cells that a cell of z is wide and high; None: the preset's, or as many as it takes to bring a
    finer feature to GRID_MOST cells. width: how many times as wide as the preset's the modules around z are.
    init: a codec's run folder to start from; its levels may have been others.
    balance: a level of scale s counts s ** -balance in the loss. With 0 all count alike in bits; as the high ones have
    more of them, they shape the transform most.
    prior: of z; the others than the codebook are there to be compared with. hyper: of the codebook, as in CodecConfig;
    1 is what recipes of before there was a 2 mean.
    """

    data: str
    validation: str | None = None
    parts: tuple[Part, ...] = Field(min_length=1)
    scales: tuple[float, ...] = Field((1.0,), min_length=1)
    qualities: tuple[int, ...] = (50,)
    preset: Literal["reference", "small"] = "small"
    stride: int | None = Field(None, ge=1)
    width: float = Field(1.0, gt=0, le=16)
    scaled: bool | None = None
    init: str | None = None
    balance: float = Field(0.0, ge=0, le=1)
    prior: Prior = "codebook"
    hyper: Literal[1, 2] = 1
    form: Literal["rd", "dr"] = "rd"
    steps: int = Field(ge=1)
    batch: int = Field(64, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    distortion_first: float = Field(0.1, ge=0, le=1, description="share of the steps without any rate")
    rate_ramp: float = Field(
        0.3, ge=0, le=1, description="share of the steps in which the rate's weight grows to 1"
    )
    crop: Crop = 8
    flips: bool = True
    train_all: bool = False
    seed: int = 0

    @model_validator(mode="after")
    def _agree(self) -> CodecRecipe:
        if self.form == "dr" and len(self.parts) > 1:
            raise ValueError("form dr has one lambda, on the rate: it is for one network")
        if len(self.qualities) != len(self.scales):
            raise ValueError(f"{len(self.scales)} scales need as many qualities, not {len(self.qualities)}")
        for name, values in (("scales", self.scales), ("qualities", self.qualities)):
            if any(b <= a for a, b in pairwise(values)):
                raise ValueError(f"{name} must ascend")
        if min(self.scales) <= 0 or not 0 <= min(self.qualities) <= max(self.qualities) <= 100:
            raise ValueError("scales are above 0, qualities within 0..100")
        return self

    @property
    def default_quality(self) -> int:
        """That of the level whose scale is the nearest to 1."""
        nearest = min(range(len(self.scales)), key=lambda i: abs(np.log(self.scales[i])))
        return self.qualities[nearest]


def spread(levels: int) -> tuple[int, ...]:
    """Qualities of so many levels, evenly over 0..100."""
    return tuple(round(100 * i / (levels - 1)) for i in range(levels)) if levels > 1 else (50,)


@dataclass(frozen=True)
class Network:
    """A loaded network with its name in the codec."""

    name: str
    card: NetworkCard
    module: nn.Module


def load_networks(parts: Sequence[Part]) -> list[Network]:
    """Raises DataError."""
    out: list[Network] = []
    for part in parts:
        module, card = load_source(part)
        out.append(Network(part.name or card.task, card, module))
    names = [network.name for network in out]
    if len(set(names)) < len(names):
        raise DataError(f"two networks are named {max(names, key=names.count)!r}; give each part a name")
    if any(network.card.preprocess != out[0].card.preprocess for network in out):
        raise DataError("the networks take pictures of different sizes or normalisation; train them on one")
    return out


class Head(nn.Module):
    """A network's tail behind the codec. feature: shape of one picture's feature that it takes."""

    def __init__(self, tail: nn.Module, kind: TaskKind, feature: Shape) -> None:
        super().__init__()
        self.tail, self.kind, self.feature = tail, kind, feature

    def forward(self, y: Tensor, *, light: bool = False) -> Tensor:
        """The task's output from its feature (B, C, H', W'): logits (B, K), or a map (B, K or 3, H, W).

        light: a map without the interpolation that ends its network.
        """
        tail = self.tail
        if light and isinstance(tail, nn.Sequential) and len(tail) and isinstance(tail[-1], nn.Upsample):
            tail = tail[:-1]
        out: Tensor = tail(as_feature(y, self.feature))
        return out.flatten(1) if self.kind == "classification" else out


class SplitNetworks(nn.Module):
    """Fronts -> codec -> heads, the thing that a bundle deploys. Raises DataError."""

    def __init__(self, networks: Sequence[Network], recipe: CodecRecipe) -> None:
        super().__init__()
        self.names = [network.name for network in networks]
        preprocess = networks[0].card.preprocess
        self.fronts, self.heads = nn.ModuleList(), nn.ModuleList()
        for network in networks:
            front, tail = cut(network.module, network.card)
            self.fronts.append(front)
            shape = feature_shape(front, preprocess.height, preprocess.width)
            self.heads.append(Head(tail, network.card.task, shape))
        features = [head.feature for head in self.heads]
        scaled = recipe.scaled
        if scaled is None:
            scaled = not all(reference_cut(network.card) for network in networks)
        config = sizes_of(recipe, features).model_copy(update={"scaled": scaled})
        self.codec = JointCodec(features, config, codec_of(recipe.prior))

    def features(self, x: Tensor) -> list[Tensor]:
        """The fronts' features of x (B, 3, H, W), each (B, C_k, H_k, W_k)."""
        return [as_map(front(x)) for front in self.fronts]

    def freeze_networks(self) -> None:
        for part in (self.fronts, self.heads):
            part.requires_grad_(False)


def sizes_of(recipe: CodecRecipe, features: Sequence[Shape]) -> CodecConfig:
    """Of a codec for these features. Raises DataError."""
    config = PRESETS[recipe.preset].model_copy(update={"levels": len(recipe.scales)})
    cells, stride = max(common_grid(features)), recipe.stride or config.stride
    while recipe.stride is None and cells > GRID_MOST * stride:
        stride *= 2
    try:
        return config.with_stride(stride).widened(recipe.width).with_hyper(recipe.hyper)
    except ValueError as error:
        raise DataError(f"--stride: {error}") from None


def as_map(y: Tensor) -> Tensor:
    """(B, C) or (B, C, H, W) -> (B, C, H, W)."""
    return y if y.dim() == 4 else y[:, :, None, None]


def train_codec(
    recipe: CodecRecipe,
    training: Sequence[View],
    validation: Sequence[View],
    out: Path,
    resume: bool,
    device: str = "cpu",
    features: Path | None = None,
    precision: Precision = "auto",
) -> dict[str, float]:
    """Train, leaving in `out` what `build` needs. training, validation: a view of the same pictures for each part;
    the distortion "task" needs labels. features: where those of frozen networks are kept, for other runs too; by
    default the run's own folder. Returns the last validation. Raises DataError."""
    # Of a network that is trained along, a distortion may leave the tail out.
    team = Team(training_device(device), precision, all_used=not recipe.train_all)
    place = team.device
    networks = load_networks(recipe.parts)
    torch.manual_seed(recipe.seed)
    model = SplitNetworks(networks, recipe)
    if model.codec.core.gains is not None:
        model.codec.core.gains.start(recipe.scales)
    if recipe.init is not None:
        start_from(model, recipe, Path(recipe.init))
    preprocess = networks[0].card.preprocess
    for pictures in (training[0], validation[0]):
        check_size(pictures, preprocess)
    # Not before all is known to be sound: a folder that holds a run is not taken for another.
    size = len(training[0])
    total_size = size * (2 if recipe.flips else 1)
    team.check_batch(min(recipe.batch, total_size))
    inputs = network_inputs(recipe.parts, [network.module for network in networks])
    run = Run(out, recipe.model_dump(mode="json"), resume, inputs, team, type(recipe))
    cards = [network.card.model_dump(mode="json") for network in networks]
    if team.leads:
        write_atomically(out / CARDS, json.dumps(cards, indent=1).encode())
    # The networks as they were given, before a checkpoint of networks trained along takes their place.
    teacher = copy.deepcopy(model).to(place).eval() if recipe.train_all else model
    model.to(place)
    if team.size > 1:
        model.codec.core.noise = team.rand_like
    log_scales = torch.tensor(recipe.scales, device=place).log()[:, None]
    source: Callable[[NDArray[np.int64]], list[Tensor]]
    # Of the frozen networks, by part, where that is all that distillation needs of them.
    answers: dict[int, Kept] = {}
    if not recipe.train_all:
        model.freeze_networks()
        folder = features or out / "features"
        with team.leader_first():
            kept = [
                features_of(folder / name, front, training[0], preprocess, recipe.flips)
                for name, front in zip(model.names, model.fronts, strict=True)
            ]
            for k, (name, head) in enumerate(zip(model.names, model.heads, strict=True)):
                if head.kind == "classification" and recipe.parts[k].distortion in (
                    "distill",
                    "distill-hint",
                ):
                    place_of = folder / f"{name}-answers"
                    answers[k] = _answers_of(place_of, head, kept[k], training[0], recipe.flips)
        source = lambda indices: [one.batch(indices) for one in kept]  # noqa: E731
    else:
        source = lambda indices: [_input(training[0], preprocess, indices)]  # noqa: E731
    if recipe.init is None:
        sample = [y.to(place) for y in source(np.linspace(0, size - 1, min(size, SAMPLE)).astype(np.int64))]
        with torch.no_grad():
            model.codec.measure(teacher.features(sample[0]) if recipe.train_all else sample)

    def data(start: int) -> Iterator[tuple[list[Tensor], NDArray[np.int64]]]:
        for whole in batches(total_size, recipe.batch, recipe.seed, start, recipe.steps):
            indices = team.share(whole)
            yield [tensor.to(place) for tensor in source(indices)], indices

    def loss_of(batch: tuple[list[Tensor], NDArray[np.int64]], step: int) -> tuple[Tensor, dict[str, float]]:
        inputs, indices = batch
        model.train(recipe.train_all)
        model.codec.train()
        ys = model.features(inputs[0]) if recipe.train_all else inputs
        with torch.no_grad():
            given = teacher.features(inputs[0]) if recipe.train_all else ys
        position, scale = _levels(len(indices), log_scales, team)
        made, coded = model.codec(ys, position)
        bits = coded.bits_z + coded.bits_v
        ramp = rate_weight(step / recipe.steps, recipe)
        scalars, distance = {}, torch.zeros_like(bits)
        weights = [part.lambda_ for part in recipe.parts] if recipe.form == "rd" else [1.0]
        total = sum(weights)
        for k, part in enumerate(recipe.parts):
            labels = part.distortion == "task"
            truth = truth_of(training[k], indices % size, indices >= size) if labels else None
            known = _Known(answers[k].batch(indices).to(place)) if k in answers else teacher.heads[k]
            d = distortion(
                part.distortion, model.heads[k], known, made[k], given[k], truth, recipe.crop, team.variance
            )
            distance = distance + d * (weights[k] / total)
            scalars[f"d/{model.names[k]}"] = float(d.detach().mean())
        # The "rd" form over lambda has the same minimum, and a gradient whose size does not depend on lambda. A level's
        # scale weighs the distortion and not the rate, so that no level's share of the gradient drowns the others'.
        rate = 1 / total if recipe.form == "rd" else recipe.parts[0].lambda_
        loss = (scale**-recipe.balance * (scale * distance + ramp * rate * bits)).mean()
        scalars |= {
            "distortion": float(distance.detach().mean()),
            "bytes_under_noise": float(bits.detach().mean()) / 8,
        }
        if (step + 1) % LOG_EVERY == 0:
            with torch.no_grad():
                fused = model.codec.fusion(ys)
                scalars["bytes"] = float(model.codec.core.rounded_bits(fused, position).mean()) / 8
        return loss, scalars

    def validate() -> dict[str, float]:
        figures = evaluate(model, recipe, validation, preprocess, teacher, 256, distances=True, team=team)
        return figures | {"loss": validated_loss(recipe, model.names, figures)}

    figures = fit(
        run,
        model,
        Schedule(recipe.steps, recipe.learning_rate),
        data,
        loss_of,
        seed=recipe.seed,
        validate=validate,
        pictures=lambda: sheets(model, recipe, validation, preprocess, teacher),
        show=("bytes", "distortion"),
        better=("loss", "min"),
    )
    whole = evaluate(model, recipe, validation, preprocess, teacher, team=team)
    if team.leads:
        write_atomically(out / "figures.json", json.dumps(whole, indent=1).encode())
    return {**figures, **whole}


def validated_loss(recipe: CodecRecipe, names: Sequence[str], figures: Mapping[str, float]) -> float:
    """What training lowers, with all of the rate, as a mean over the levels; from figures with distances."""
    total = 0.0
    for scale, quality in zip(recipe.scales, recipe.qualities, strict=True):
        bits = 8 * figures[f"bytes@{quality}"]
        distances = [figures[f"{name}/distortion@{quality}"] for name in names]
        if recipe.form == "rd":
            weighted = sum(part.lambda_ * d for part, d in zip(recipe.parts, distances, strict=True))
            loss = bits + scale * weighted
        else:
            loss = scale * distances[0] + recipe.parts[0].lambda_ * bits
        total += scale**-recipe.balance * loss
    return total / len(recipe.scales)


def network_inputs(sources: Sequence[Source], modules: Sequence[nn.Module]) -> dict[str, str]:
    """What a run starts from: the weights of networks. Raises OSError."""
    digests = {}
    for source, module in zip(sources, modules, strict=True):
        file = Path(source.network) / WEIGHTS
        digests[f"the network {source.network}"] = (
            sha256_of(file) if file.exists() else weights_digest(module)
        )
    return digests


def _levels(size: int, log_scales: Tensor, team: Team) -> tuple[Tensor | None, Tensor]:
    """Positions (B,) of this process's share of a batch and their scales of lambda. Half of the batch's lie on a level,
    the others between two."""
    if len(log_scales) == 1:
        return None, log_scales.exp().flatten()
    position = torch.rand(size * team.size, device=log_scales.device) * (len(log_scales) - 1)
    position[::2] = torch.randint(len(log_scales), (len(position[::2]),), device=log_scales.device).float()
    position = position[team.rank :: team.size]
    return position, interpolated(log_scales, position).flatten()


@torch.no_grad()
def start_from(model: SplitNetworks, recipe: CodecRecipe, folder: Path) -> None:
    """Give `model` the codec of the run in `folder`, each level that of the nearest scale of lambda there, its gains
    moved by what the scales differ. Raises DataError."""
    old, old_recipe, _ = load_run(folder)
    where = np.interp(np.log(recipe.scales), np.log(old_recipe.scales), np.arange(len(old_recipe.scales)))
    nearest = torch.from_numpy(np.rint(where).astype(np.int64))
    moved = torch.tensor(np.log(recipe.scales) - np.log(old_recipe.scales)[nearest], dtype=torch.float32)
    state = old.codec.state_dict()
    for name, tensor in state.items():
        if name.startswith(("core.gains.", "core.prior.")):
            state[name] = tensor[nearest]
    for name, sign in (("core.gains.log_gain", 0.5), ("core.gains.log_inverse", -0.5)):
        if name in state:
            state[name] = state[name] + sign * moved[:, None]
    own = model.codec.state_dict()
    if state.keys() != own.keys() or any(state[name].shape != own[name].shape for name in own):
        raise DataError(f"--init {folder}: its codec is of other sizes, features or prior than this one")
    model.codec.load_state_dict(state)


def rate_weight(done: float, recipe: CodecRecipe) -> float:
    """The share of the rate's weight that counts when `done` (0..1) of the steps are over."""
    if recipe.rate_ramp == 0:
        return float(done >= recipe.distortion_first)
    return min(1.0, max(0.0, (done - recipe.distortion_first) / recipe.rate_ramp))


def check_size(pictures: Pixels, preprocess: Preprocess) -> None:
    """Raises DataError where the network was trained on pictures of another size."""
    height, width = pictures.pixels(np.zeros(1, np.int64)).shape[1:3]
    if (height, width) != (preprocess.height, preprocess.width):
        raise DataError(
            f"--data has pictures of {width} x {height}, --network takes {preprocess.width} x {preprocess.height}"
        )


def features_of(
    folder: Path, front: nn.Module, pictures: Pixels, preprocess: Preprocess, flips: bool
) -> Kept:
    """A frozen front's features, (., C, H', W') float16, kept in `folder`."""
    front.eval()
    place = next((parameter.device for parameter in front.parameters()), torch.device("cpu"))

    @torch.no_grad()
    def compute(indices: NDArray[np.int64], flip: NDArray[np.bool_]) -> NDArray[np.float16]:
        x = network_input(pictures.pixels(indices), preprocess, flip).to(place)
        return as_map(front(x)).cpu().numpy().astype(np.float16)

    layers = len(front) if isinstance(front, nn.Sequential) else getattr(front, "code", str(front))
    normalised = {"mean": list(preprocess.mean), "std": list(preprocess.std)}
    of = {"weights_sha256": weights_digest(front), "split": layers, **normalised}
    return kept_features(folder, compute, pictures, of, flips)


def _answers_of(folder: Path, head: Head, features: Kept, pictures: Pixels, flips: bool) -> Kept:
    """A frozen head's logits (., K) of features that are kept, kept in `folder` themselves."""
    head.eval()
    place = next((parameter.device for parameter in head.parameters()), torch.device("cpu"))

    @torch.no_grad()
    def compute(indices: NDArray[np.int64], flip: NDArray[np.bool_]) -> NDArray[np.float32]:
        y = features.batch(indices + flip * len(pictures)).to(place)
        return head(y).float().cpu().numpy()

    sample = np.linspace(0, len(features) - 1, 16).astype(np.int64)
    given = hashlib.sha256(features.batch(sample).numpy().tobytes()).hexdigest()
    of = {"weights_sha256": weights_digest(head), "features_sample_sha256": given}
    return kept_features(folder, compute, pictures, of, flips)


class _Known:
    """A teacher whose answers (B, K) for this batch are known."""

    def __init__(self, answers: Tensor) -> None:
        self._answers = answers

    def __call__(self, given: Tensor, *, light: bool) -> Tensor:
        return self._answers


def _input(pictures: Pixels, preprocess: Preprocess, indices: NDArray[np.int64]) -> Tensor:
    return network_input(pictures.pixels(indices % len(pictures)), preprocess, indices >= len(pictures))


def distortion(
    kind: Distortion,
    head: Head,
    teacher: Callable[..., Tensor],
    made: Tensor,
    given: Tensor,
    truth: NDArray[Any] | None,
    crop: int | None,
    variance: Callable[[Tensor], Tensor] = torch.var,
) -> Tensor:
    """d of each picture, (B,). made: the task's feature through the codec; given: without, of the same shape.

    truth: labels, for "task". variance: of `given`, over all processes' pictures.

    feature: mean squared error over the feature's variance. distill-hint: distill and feature together, which reaches
    a given error in fewer steps where the tail is deep (Romero et al., 2015, "FitNets: hints for thin deep nets").
    task: the task's own loss against the labels. distill: Kullback-Leibler divergence from the
    teacher's classes (a mean over the pixels for a map), or for normals 1 - cosine and the mean absolute difference.
    """
    if kind == "distill-hint":
        hint = distortion("feature", head, teacher, made, given, truth, crop, variance)
        return hint + distortion("distill", head, teacher, made, given, truth, crop)
    if kind == "feature":
        return (made.float() - given).square().mean((1, 2, 3)) / variance(given)
    if kind == "task":
        out = head(made).float()
        labels = torch.from_numpy(np.ascontiguousarray(truth)).to(made.device)
        if head.kind == "classification":
            return F.cross_entropy(out, labels, reduction="none")
        return torch.stack(
            [dense_loss(head.kind, one[None], map_[None]) for one, map_ in zip(out, labels, strict=True)]
        )
    if head.kind != "classification" and crop is not None:
        made, given = _piece(made, given, crop)
    out = head(made, light=True).float()
    with torch.no_grad():
        wanted = teacher(given, light=True).float()
    if head.kind == "normals":
        one, other = F.normalize(out, dim=1), F.normalize(wanted, dim=1)
        return (1 - (one * other).sum(1) + (one - other).abs().mean(1)).mean((1, 2))
    wanted = F.log_softmax(wanted, 1)
    divergence = (wanted.exp() * (wanted - F.log_softmax(out, 1))).sum(1)
    return divergence if divergence.dim() == 1 else divergence.mean((1, 2))


def _piece(made: Tensor, given: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """The same piece of both features, drawn anew each time. The tail sees its edges alike in both."""
    height, width = made.shape[2:]
    high, wide = min(cells, height), min(cells, width)
    top, left = (int(torch.randint(n, ())) for n in (height - high + 1, width - wide + 1))
    rows, columns = slice(top, top + high), slice(left, left + wide)
    return made[:, :, rows, columns], given[:, :, rows, columns]


@torch.no_grad()
def evaluate(
    model: SplitNetworks,
    recipe: CodecRecipe,
    views: Sequence[View],
    preprocess: Preprocess,
    teacher: SplitNetworks,
    most: int | None = None,
    *,
    distances: bool = False,
    bar: str = "",
    team: Team | None = None,
) -> dict[str, float]:
    """Figures of each task, uncompressed and at each level, and the float model's bytes a picture at each level.

    Keys: "top1", "mean_deg", "miou" ... behind the task's name, with "@quality" or "@uncompressed"; "bytes@quality".
    Where there are no labels, "agreement_top1@quality" ...: with the uncompressed network. The first `most` pictures
    only, where that is given. distances: also "distortion", the recipe's own of each task, over whole maps. bar: name
    of a progress bar, which is shown where it has one. team: counts together, each process a part.
    """
    model.eval()
    place = next(model.parameters()).device
    size = min(len(views[0]), most or len(views[0]))
    tally = Tally()
    pieces = list(in_order(size, 64))
    for indices in track(list(team.part(pieces)) if team else pieces, bar, disable=not bar):
        x = network_input(views[0].pixels(indices), preprocess).to(place)
        ys = model.features(x)
        given = teacher.features(x) if recipe.train_all else ys
        targets = []
        for k, name in enumerate(model.names):
            plain = teacher.heads[k](given[k])
            targets.append(target_of(model.heads[k].kind, views[k], indices, plain))
            if targets[k].labelled:
                tally.count(f"{name}/", "uncompressed", plain, targets[k])
        for level, quality in enumerate(recipe.qualities):
            position = torch.full((len(indices),), float(level), device=place)
            made, coded = model.codec(ys, position if len(recipe.qualities) > 1 else None)
            tally.add(f"bytes@{quality}", (coded.bits_v + coded.bits_z) / 8)
            tally.add(f"bytes_v@{quality}", coded.bits_v / 8)
            for k, name in enumerate(model.names):
                tally.count(f"{name}/", str(quality), model.heads[k](made[k]), targets[k])
                if distances:
                    heads = model.heads[k], teacher.heads[k]
                    of = recipe.parts[k].distortion
                    d = distortion(of, *heads, made[k], given[k], targets[k].truth, None)
                    tally.add(f"{name}/distortion@{quality}", d)
    if team:
        tally = team.merged(tally)
    return tally.figures() | {name: value / size for name, value in tally.sums.items()}


@torch.no_grad()
def sheets(
    model: SplitNetworks,
    recipe: CodecRecipe,
    views: Sequence[View],
    preprocess: Preprocess,
    teacher: SplitNetworks,
) -> dict[str, NDArray[np.uint8]]:
    """For each task with a map a sheet of the first pictures, a row each: input, prediction without the codec, with it
    at the default quality, truth."""
    model.eval()
    place = next(model.parameters()).device
    x = network_input(views[0].pixels(sheet_indices(views[0])), preprocess).to(place)
    ys = model.features(x)
    given = teacher.features(x) if recipe.train_all else ys
    level = float(recipe.qualities.index(recipe.default_quality))
    made, _ = model.codec(ys, torch.full((len(x),), level, device=place))
    return {
        name: sheet(model.heads[k].kind, views[k], teacher.heads[k](given[k]), model.heads[k](made[k]))
        for k, name in enumerate(model.names)
        if model.heads[k].kind != "classification"
    }


def cards_of(run: Path) -> list[NetworkCard]:
    """Those of a run's networks. Raises DataError."""
    try:
        return [NetworkCard.model_validate(card) for card in json.loads((run / CARDS).read_text())]
    except FileNotFoundError:
        raise DataError(
            f"no codec training in {run} ({CARDS} is missing); see `isthmus train multi`"
        ) from None
    except (ValueError, TypeError) as error:
        raise DataError(f"{run / CARDS} cannot be read: {str(error).splitlines()[0]}") from None


def load_run(run: Path) -> tuple[SplitNetworks, CodecRecipe, list[NetworkCard]]:
    """The trained model of a run folder, in evaluation mode. Raises DataError."""
    try:
        recipe = CodecRecipe.model_validate(json.loads((run / "recipe.json").read_text())["recipe"])
        cards = cards_of(run)
        best = run / "best.pt"  # trainings of before it was kept have none
        state = torch.load(
            best if best.is_file() else run / "checkpoint.pt", map_location="cpu", weights_only=True
        )
        networks = [
            Network(part.name or card.task, card, network_of(card).eval())
            for part, card in zip(recipe.parts, cards, strict=True)
        ]
        model = SplitNetworks(networks, recipe)
        model.load_state_dict(state["model"])
    except FileNotFoundError as error:
        raise DataError(
            f"no finished codec training in {run} ({Path(error.filename).name} is missing); see `isthmus train multi`"
        ) from None
    except (ValueError, KeyError, RuntimeError, TypeError) as error:
        raise DataError(f"the run in {run} cannot be read: {str(error).splitlines()[0]}") from None
    return model.eval(), recipe, cards


def figures_told(figures: Mapping[str, float], quality: int) -> str:
    """One line of the main figures at a level, for a person."""
    told = []
    for key, name, form in (
        ("top1", "top-1", "{:.1%}"),
        ("mean_deg", "normals", "{:.2f} degrees"),
        ("miou", "mIoU", "{:.3f}"),
    ):
        for task in sorted({k.split("/")[0] for k in figures if f"/{key}@" in k}):
            with_, without = figures[f"{task}/{key}@{quality}"], figures[f"{task}/{key}@uncompressed"]
            told.append(f"{task}: {name} {form.format(with_)} ({form.format(without)} uncompressed)")
        for task in sorted({k.split("/")[0] for k in figures if f"/{AGREEMENT}{key}@" in k}):
            value = form.format(figures[f"{task}/{AGREEMENT}{key}@{quality}"])
            told.append(f"{task}: {name} {value} against the uncompressed network")
    return f"{figures[f'bytes@{quality}']:.0f} bytes a picture; " + "; ".join(told)
