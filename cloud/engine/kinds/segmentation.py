"""Scores (B, K, H, W) -> the best class of each pixel, and the shares of the classes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from cloud.engine.kinds.postprocess import (
    Labels,
    Options,
    Postprocess,
    Shape,
    check_map,
    in_pieces,
    requested_map,
)
from cloud.engine.kinds.reductions import best, shares
from shared.kinds.kind import Result
from shared.kinds.segmentation import ClassArea, SegmentationResult, classes_array, classes_png
from shared.maps import Map
from shared.types import Maps, TaskQuery


class Segmentation(Postprocess):
    def check_output(self, shape: Shape, labels: Labels, image: tuple[int, int]) -> None:
        check_map(shape, len(labels), "segmentation", image)

    def results(
        self, output: Tensor, labels: Labels, queries: Sequence[TaskQuery], options: Options
    ) -> list[Result]:
        return in_pieces(output, queries, lambda part, asked: _results(part, labels, asked))


def _results(output: Tensor, labels: Labels, queries: Sequence[TaskQuery]) -> list[SegmentationResult]:
    classes, _ = best(output)
    ordered, order = shares(classes.flatten(1), len(labels)).sort(dim=1, descending=True, stable=True)

    def draw(i: int, form: Maps) -> Map:
        pixels = classes[i].cpu().numpy()
        return classes_png(pixels, len(labels)) if form == "png" else classes_array(pixels)

    return [
        SegmentationResult(
            areas=tuple(
                ClassArea(label=labels[k], index=k, share=s)
                for s, k in zip(values, largest, strict=True)
                if s
            ),
            map=requested_map(draw, i, query),
        )
        for i, (values, largest, query) in enumerate(
            zip(ordered.tolist(), order.tolist(), queries, strict=True)
        )
    ]
