"""What a tail gives, made into answers. Knows no bytes, no codec and no network.

The reductions run where the output lies, for the whole batch but on a CPU; only the maps that somebody asked for leave
the device.

Legend: B pictures, K classes, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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
    if kind == "classification":
        return _classification(output.flatten(1), labels, queries)
    at_once = 1 if output.device.type == "cpu" else len(output)  # a CPU's cache holds the map of one picture
    return [
        result
        for start in range(0, len(output), at_once)
        for result in _dense(kind, output[start:][:at_once], labels, queries[start:][:at_once])
    ]


def _dense(
    kind: TaskKind, output: Tensor, labels: tuple[str, ...], queries: Sequence[TaskQuery]
) -> list[TaskResult]:
    return _normals(output, queries) if kind == "normals" else _segmentation(output, labels, queries)


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
    # As F.normalize, whose reduction over an axis in the middle takes 30 times as long on a CPU.
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

    On a CPU in numpy's whole-array steps: 0.7 ms for 17 channels of 256 x 256, and torch's argmax over an axis in the
    middle takes 15.
    """
    if scores.device.type != "cpu":
        value, index = scores.max(1)
        return index, value
    found = [_best_channel(picture) for picture in scores.numpy()]
    index, value = (torch.from_numpy(np.stack(part)) for part in zip(*found, strict=True))
    return index, value


def _best_channel(scores: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """scores (K, H, W) -> the first channel of the largest, and that, (H, W) each."""
    number = np.uint8 if len(scores) <= 256 else np.int32
    value = scores[0].copy()
    index = np.zeros(value.shape, number)
    higher, step = np.empty(value.shape, bool), np.empty(value.shape, number)
    for channel, row in enumerate(scores[1:], 1):
        np.greater(row, value, out=higher)
        np.maximum(row, value, out=value)
        np.multiply(higher.view(np.uint8), number(channel), out=step)
        np.maximum(index, step, out=index)
    return index, value


def _shares(index: Tensor, count: int) -> Tensor:
    """index (B, P), integers below `count` -> (B, count) float64: the share of each in its row."""
    counts = torch.stack([torch.bincount(row, minlength=count) for row in index])
    return counts.double() / index.shape[1]
