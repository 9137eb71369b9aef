"""What a codec in training does on images held out: scores, sheets, and the loss that picks the best weights.

Bytes are those of the float model with rounded latents; a bundle's are measured by `train.bundle.evaluate`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from shared.bundle import Preprocess
from shared.kinds import KINDS
from train.codec.codec_recipe import CodecRecipe, level_loss, total_of, weighted
from train.codec.distortion import distortion
from train.codec.split_networks import SplitNetworks
from train.data.dataset import Dataset, in_order, network_input
from train.kinds import TRAINING_KINDS
from train.loop.distributed import Workers
from train.loop.scores import Scores
from train.loop.scoring import Scoring, target_of
from train.loop.sheets import sheet, sheet_indices

BATCH = 64
BASE = "-base"  # ends the name under which a task is scored that is answered from v alone


@torch.no_grad()
def evaluate(
    model: SplitNetworks,
    recipe: CodecRecipe,
    data: Sequence[Dataset],
    preprocess: Preprocess,
    teacher: SplitNetworks,
    most: int | None = None,
    *,
    distances: bool = False,
    bar: str = "",
    workers: Workers | None = None,
) -> Scores:
    """Each task's metrics, uncompressed and at each quality, and the bytes of an image at each quality.

    data: the same images once for each task. Without labels, answers are compared with the uncompressed network's.
    teacher: the networks as they were before training.
    most: the number of images to use, from the first on; by default all.
    distances: also measures each task's "distortion" as the recipe defines it, over whole maps.
    bar: name of a progress bar; none is shown without it.
    workers: share the images, and count together.
    """
    model.eval()
    device = next(model.parameters()).device
    size = min(len(data[0]), most or len(data[0]))
    scoring = Scoring()
    pieces = list(in_order(size, BATCH))
    for indices in track(list(workers.part(pieces)) if workers else pieces, bar, disable=not bar):
        x = network_input(data[0].images(indices), preprocess).to(device)
        ys = model.features(x)
        given = teacher.features(x) if recipe.train_all else ys
        targets = []
        for k, name in enumerate(model.names):
            plain = teacher.heads[k](given[k])
            targets.append(target_of(model.heads[k].kind, data[k], indices, plain))
            if targets[k].against == "labels":
                scoring.count(name, "uncompressed", plain, targets[k])
        for level, quality in enumerate(recipe.qualities):
            position = torch.full((len(indices),), float(level), device=device)
            decoded, coded = model.codec(ys, position if len(recipe.qualities) > 1 else None)
            scoring.add("", "bytes", quality, (coded.bits_v + coded.bits_z) / 8)
            scoring.add("", "bytes_v", quality, coded.bits_v / 8)
            if model.base is not None:
                k = model.names.index(recipe.base)
                scoring.count(f"{recipe.base}{BASE}", quality, model.base(coded.v), targets[k])
            for k, name in enumerate(model.names):
                scoring.count(name, quality, model.heads[k](decoded[k]), targets[k])
                if distances:
                    heads = model.heads[k], teacher.heads[k]
                    kind = recipe.parts[k].distortion
                    d = distortion(kind, *heads, decoded[k], given[k], targets[k].labels, None)
                    scoring.add(name, "distortion", quality, d)
    return (workers.merged(scoring) if workers else scoring).scores(size)


def validated_loss(recipe: CodecRecipe, names: Sequence[str], scores: Scores) -> float:
    """The loss with the whole rate, a mean over the levels; in bits an image for the form "rd".

    scores: with distances.
    """
    losses = []
    for scale, quality in zip(recipe.scales, recipe.qualities, strict=True):
        distances = [scores.value("distortion", name, quality) for name in names]
        distance = weighted(recipe, distances, scale)
        losses.append(level_loss(recipe, scale, distance, 8 * scores.value("bytes", quality=quality)))
    return total_of(recipe) * sum(losses) / len(losses)


@torch.no_grad()
def codec_sheets(
    model: SplitNetworks,
    recipe: CodecRecipe,
    data: Sequence[Dataset],
    preprocess: Preprocess,
    teacher: SplitNetworks,
) -> dict[str, NDArray[np.uint8]]:
    """For each task with a map a sheet of the first images, by the task's name.

    Columns: image, prediction without the codec, with it at the default quality, labels.
    """
    model.eval()
    device = next(model.parameters()).device
    x = network_input(data[0].images(sheet_indices(data[0])), preprocess).to(device)
    ys = model.features(x)
    given = teacher.features(x) if recipe.train_all else ys
    level = float(recipe.qualities.index(recipe.default_quality))
    decoded, _ = model.codec(ys, torch.full((len(x),), level, device=device))
    return {
        name: sheet(model.heads[k].kind, data[k], teacher.heads[k](given[k]), model.heads[k](decoded[k]))
        for k, name in enumerate(model.names)
        if KINDS[model.heads[k].kind].mapped
    }


def format_metrics(scores: Scores, quality: int) -> str:
    """One line with the main metrics at a quality, for a person."""
    parts = []
    for metric in (known.main for known in TRAINING_KINDS.values()):
        for task in scores.tasks(metric.key):
            if task.endswith(BASE):
                name, value = task.removesuffix(BASE), scores.value(metric.key, task, quality)
                parts.append(f"{name} from v alone: {metric.name} {metric.text(value)}")
                continue
            coded, plain = (scores.value(metric.key, task, at) for at in (quality, "uncompressed"))
            parts.append(f"{task}: {metric.name} {metric.text(coded)} ({metric.text(plain)} uncompressed)")
        for task in scores.tasks(metric.key, "network"):
            agreement = metric.text(scores.value(metric.key, task, quality, "network"))
            parts.append(f"{task}: {metric.name} {agreement} against the uncompressed network")
    return f"{scores.value('bytes', quality=quality):.0f} bytes an image; " + "; ".join(parts)
