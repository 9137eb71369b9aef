"""A map (B, 1, H, W) in metres -> nearest, median and farthest. What is no positive number is unknown."""

from __future__ import annotations

from collections.abc import Sequence

import torch
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
from shared.kinds.depth import DepthResult, depth_array, depth_png
from shared.kinds.kind import Result
from shared.maps import Map
from shared.types import Maps, TaskQuery


class Depth(Postprocess):
    def check_output(self, shape: Shape, labels: Labels, image: tuple[int, int]) -> None:
        check_map(shape, 1, "depth", image)

    def results(
        self, output: Tensor, labels: Labels, queries: Sequence[TaskQuery], options: Options
    ) -> list[Result]:
        return in_pieces(output, queries, _results)


def _results(output: Tensor, queries: Sequence[TaskQuery]) -> list[DepthResult]:
    metres = output[:, 0].float().nan_to_num(0.0, 0.0, 0.0).clamp_min(0.0)
    ordered = metres.flatten(1).sort(1).values
    pixels = ordered.shape[1]
    unknown = (ordered == 0).sum(1)
    # In ascending order the known ones begin behind the unknown. With none known all three are 0, as the last is.
    first = unknown.clamp_max(pixels - 1)
    middle = (first + pixels - 1) // 2
    last = torch.full_like(first, pixels - 1)
    numbers = ordered.gather(1, torch.stack((first, middle, last), 1))
    known = 1 - unknown.double() / pixels

    def draw(i: int, form: Maps) -> Map:
        values = metres[i].cpu().numpy()
        return depth_png(values) if form == "png" else depth_array(values)

    return [
        DepthResult(min_m=near, median_m=median, max_m=far, known=share, map=requested_map(draw, i, query))
        for i, ((near, median, far), share, query) in enumerate(
            zip(numbers.tolist(), known.tolist(), queries, strict=True)
        )
    ]
