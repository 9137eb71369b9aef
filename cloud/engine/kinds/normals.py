"""Vectors (B, 3, H, W) of any length -> which ways the surfaces face."""

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
from cloud.engine.kinds.reductions import best, shares
from shared.kinds.kind import Result
from shared.kinds.normals import Facing, NormalsResult, normals_array, normals_png
from shared.maps import Map
from shared.types import Maps, TaskQuery

_NOWHERE = 6  # behind +x, -x, +y, -y, +z, -z


class Normals(Postprocess):
    def check_output(self, shape: Shape, labels: Labels, image: tuple[int, int]) -> None:
        check_map(shape, 3, "normals", image)

    def results(
        self, output: Tensor, labels: Labels, queries: Sequence[TaskQuery], options: Options
    ) -> list[Result]:
        return in_pieces(output, queries, _results)


def _results(output: Tensor, queries: Sequence[TaskQuery]) -> list[NormalsResult]:
    # As F.normalize, whose reduction over an axis in the middle takes 30 times as long on a CPU.
    output = output.float()
    length = output.square().sum(1, keepdim=True).sqrt_().clamp_min_(1e-12)
    # What is no number, or too large for a length, is no normal: (0, 0, 0), which faces nowhere.
    normals = (output / length).nan_to_num_(0.0)
    means = normals.mean((2, 3)).clamp(-1, 1).tolist()
    signed = torch.stack((normals, -normals), 2).flatten(1, 2)  # (B, 6, H, W)
    face, value = best(signed)
    face = face.where(value > 0, _NOWHERE)
    facing = shares(face.flatten(1), _NOWHERE + 1).tolist()

    def draw(i: int, form: Maps) -> Map:
        pixels = normals[i].permute(1, 2, 0).cpu().numpy()
        return normals_png(pixels) if form == "png" else normals_array(pixels)

    return [
        NormalsResult(
            mean=tuple(mean),
            facing=Facing(right=s[0], left=s[1], up=s[2], down=s[3], towards=s[4], away=s[5]),
            map=requested_map(draw, i, query),
        )
        for i, (mean, s, query) in enumerate(zip(means, facing, queries, strict=True))
    ]
