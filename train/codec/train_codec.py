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
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from cloud.networks.transforms import interpolated
from shared.bundle import Preprocess
from shared.files import write_atomically
from train.codec.codec_recipe import LABELLED, CodecRecipe, level_loss, rate_weight, shares, total_of
from train.codec.distortion import crop_for, distortion
from train.codec.split_networks import CARDS, SplitNetworks, check_size, load_networks, start_from
from train.codec.teacher_cache import Known, answers_of, features_of, network_inputs
from train.data.dataset import Dataset, dataset_digests, in_order, network_input
from train.data.feature_cache import CachedArrays
from train.loop.distributed import Precision, Team
from train.loop.run import LOG_EVERY, Run, Schedule, batches, fit, training_device
from train.loop.scoring import AGREEMENT, Tally, sheet, sheet_indices, target_of

SAMPLE = 256  # pictures whose features tell their scale


def train_codec(
    recipe: CodecRecipe,
    training: Sequence[Dataset],
    validation: Sequence[Dataset],
    out: Path,
    resume: bool,
    device: str = "cpu",
    features: Path | None = None,
    precision: Precision = "auto",
) -> dict[str, float]:
    """Train, leaving in `out` what `build` needs. training, validation: a view of the same pictures for each part;
    the distortions LABELLED need labels. features: where those of frozen networks are kept, for other runs too; by
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
    crops = [
        crop_for(head, recipe.crop) if part.distortion != "feature" else None
        for part, head in zip(recipe.parts, model.heads, strict=True)
    ]
    # Not before all is known to be sound: a folder that holds a run is not taken for another.
    size = len(training[0])
    total_size = size * (2 if recipe.flips else 1)
    team.check_batch(min(recipe.batch, total_size))
    inputs = network_inputs(recipe.parts, [network.module for network in networks])
    inputs |= dataset_digests(training[0], validation[0])
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
    answers: dict[int, CachedArrays] = {}
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
                    answers[k] = answers_of(place_of, head, kept[k], training[0], recipe.flips)
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
        for k, (part, share) in enumerate(zip(recipe.parts, shares(recipe), strict=True)):
            labels = part.distortion in LABELLED
            truth = training[k].labels(indices % size, indices >= size) if labels else None
            known = Known(answers[k].batch(indices).to(place)) if k in answers else teacher.heads[k]
            d = distortion(
                part.distortion, model.heads[k], known, made[k], given[k], truth, crops[k], team.variance
            )
            distance = distance + d * share
            scalars[f"d/{model.names[k]}"] = float(d.detach().mean())
        loss = level_loss(recipe, scale, distance, bits, ramp).mean()
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
    """What training lowers, with all of the rate, as a mean over the levels; in bits a picture where the form is "rd".
    From figures with distances."""
    losses = []
    for scale, quality in zip(recipe.scales, recipe.qualities, strict=True):
        distances = [figures[f"{name}/distortion@{quality}"] for name in names]
        distance = sum(share * d for share, d in zip(shares(recipe), distances, strict=True))
        losses.append(level_loss(recipe, scale, distance, 8 * figures[f"bytes@{quality}"]))
    return total_of(recipe) * sum(losses) / len(losses)


def _levels(size: int, log_scales: Tensor, team: Team) -> tuple[Tensor | None, Tensor]:
    """Positions (B,) of this process's share of a batch and their scales of lambda. Half of the batch's lie on a level,
    the others between two."""
    if len(log_scales) == 1:
        return None, log_scales.exp().flatten()
    position = torch.rand(size * team.size, device=log_scales.device) * (len(log_scales) - 1)
    position[::2] = torch.randint(len(log_scales), (len(position[::2]),), device=log_scales.device).float()
    position = position[team.rank :: team.size]
    return position, interpolated(log_scales, position).flatten()


def _input(pictures: Dataset, preprocess: Preprocess, indices: NDArray[np.int64]) -> Tensor:
    return network_input(pictures.images(indices % len(pictures)), preprocess, indices >= len(pictures))


@torch.no_grad()
def evaluate(
    model: SplitNetworks,
    recipe: CodecRecipe,
    views: Sequence[Dataset],
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
        x = network_input(views[0].images(indices), preprocess).to(place)
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
    views: Sequence[Dataset],
    preprocess: Preprocess,
    teacher: SplitNetworks,
) -> dict[str, NDArray[np.uint8]]:
    """For each task with a map a sheet of the first pictures, a row each: input, prediction without the codec, with it
    at the default quality, truth."""
    model.eval()
    place = next(model.parameters()).device
    x = network_input(views[0].images(sheet_indices(views[0])), preprocess).to(place)
    ys = model.features(x)
    given = teacher.features(x) if recipe.train_all else ys
    level = float(recipe.qualities.index(recipe.default_quality))
    made, _ = model.codec(ys, torch.full((len(x),), level, device=place))
    return {
        name: sheet(model.heads[k].kind, views[k], teacher.heads[k](given[k]), model.heads[k](made[k]))
        for k, name in enumerate(model.names)
        if model.heads[k].kind != "classification"
    }


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
