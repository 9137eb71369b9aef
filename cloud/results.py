"""What a tail gives, made into answers. Knows no bytes, no codec and no network.

The reductions run for the whole batch, where the output lies; only the maps that somebody asked for leave the device.

Legend: B pictures, K classes, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.maps import classes_array, classes_png, normals_array, normals_png
from shared.types import (
    ClassArea,
    ClassificationResult,
    ClassScore,
    Facing,
    MapArray,
    MapPng,
    Maps,
    NormalsResult,
    SegmentationResult,
    TaskKind,
    TaskQuery,
    TaskResult,
)


def results_of(
    kind: TaskKind, output: Tensor, labels: tuple[str, ...], queries: Sequence[TaskQuery]
) -> list[TaskResult]:
    """One result a picture.

    output: (B, K) of any trailing axes of length 1 for classification, (B, 3, H, W) for normals of any length,
    (B, K, H, W) for segmentation. queries: B of them, one a picture. labels: K names, none for normals.
    """
    if kind == "normals":
        return _normals(output, queries)
    if kind == "segmentation":
        return _segmentation(output, labels, queries)
    return _classification(output.flatten(1), labels, queries)


def _classification(
    logits: Tensor, labels: tuple[str, ...], queries: Sequence[TaskQuery]
) -> list[TaskResult]:
    most = min(max(query.top_k for query in queries), len(labels))
    scores, indices = torch.softmax(logits, 1).topk(most)
    return [
        ClassificationResult(
            top=tuple(
                ClassScore(label=labels[i], index=i, score=min(1.0, max(0.0, v)))
                for v, i in zip(values[: query.top_k], best[: query.top_k], strict=True)
            )
        )
        for values, best, query in zip(scores.tolist(), indices.tolist(), queries, strict=True)
    ]


def _normals(output: Tensor, queries: Sequence[TaskQuery]) -> list[TaskResult]:
    # As F.normalize and argmax, whose reductions over a middle axis take 30 times as long on a CPU.
    output = output.float()
    length = output.square().sum(1, keepdim=True).sqrt_().clamp_min_(1e-12)
    # What is no number, or too large for a length, is no normal: (0, 0, 0), which faces nowhere.
    normals = (output / length).nan_to_num_(0.0)
    means = normals.mean((2, 3)).clamp(-1, 1).tolist()
    signed = torch.stack((normals, -normals), 2).flatten(1, 2)  # (B, 6, H, W): +x, -x, +y, -y, +z, -z
    face, value = _best(signed)
    nowhere = 6
    face = face.where(value > 0, nowhere)
    shares = _shares(face.flatten(1), nowhere + 1).tolist()

    def draw(i: int, wanted: Maps) -> MapPng | MapArray:
        pixels = normals[i].permute(1, 2, 0).cpu().numpy()
        return normals_png(pixels) if wanted == "png" else normals_array(pixels)

    return [
        NormalsResult(
            mean=tuple(mean),
            facing=Facing(right=s[0], left=s[1], up=s[2], down=s[3], towards=s[4], away=s[5]),
            map=_map(draw, i, query),
        )
        for i, (mean, s, query) in enumerate(zip(means, shares, queries, strict=True))
    ]


def _segmentation(output: Tensor, labels: tuple[str, ...], queries: Sequence[TaskQuery]) -> list[TaskResult]:
    classes, _ = _best(output)
    shares, order = _shares(classes.flatten(1), len(labels)).sort(dim=1, descending=True, stable=True)

    def draw(i: int, wanted: Maps) -> MapPng | MapArray:
        pixels = classes[i].cpu().numpy()
        return classes_png(pixels, len(labels)) if wanted == "png" else classes_array(pixels)

    return [
        SegmentationResult(
            areas=tuple(
                ClassArea(label=labels[k], index=k, share=s)
                for s, k in zip(values, largest, strict=True)
                if s
            ),
            map=_map(draw, i, query),
        )
        for i, (values, largest, query) in enumerate(
            zip(shares.tolist(), order.tolist(), queries, strict=True)
        )
    ]


def _map(
    draw: Callable[[int, Maps], MapPng | MapArray], picture: int, query: TaskQuery
) -> MapPng | MapArray | None:
    return None if query.maps == "none" else draw(picture, query.maps)


def _best(scores: Tensor) -> tuple[Tensor, Tensor]:
    """scores (B, K, H, W) -> the first channel of the largest score, and that score, (B, H, W) each.

    A pixel with a score that is no number has channel 0. In steps that a CPU does many numbers at a time, which it
    does not for argmax over an axis in the middle: 15 ms for 17 channels of 256 x 256, and this 1.
    """
    count = scores.shape[1]
    dtype = torch.uint8 if count < 256 else torch.int32
    value = scores.amax(1, keepdim=True)
    rank = torch.arange(count, 0, -1, dtype=dtype, device=scores.device).view(1, -1, 1, 1)
    highest = ((scores == value).to(dtype) * rank).amax(1)  # 0 where nothing equals a value that is no number
    return (count - highest) % count, value[:, 0]


def _shares(index: Tensor, count: int) -> Tensor:
    """index (B, P), integers below `count` -> (B, count) float64: the share of each in its row."""
    counts = torch.stack([torch.bincount(row, minlength=count) for row in index])
    return counts.double() / index.shape[1]
