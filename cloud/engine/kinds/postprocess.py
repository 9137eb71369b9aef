"""From a tail's output to results: the Protocol that each kind's file fulfils, and what kinds share.

Reductions run where the output is, for the whole batch except on a CPU; only requested maps leave the device.

Legend: B images, K labels, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from shared.kinds.kind import Result
from shared.maps import Map
from shared.types import Maps, TaskQuery

Shape = Sequence[int]
Labels = tuple[str, ...]
Options = Mapping[str, Any]


class Postprocess(Protocol):
    """A kind's last step in the cloud."""

    def check_output(self, shape: Shape, labels: Labels, image: tuple[int, int]) -> None:
        """Raises ValueError if a tail of this kind cannot output this.

        shape: of one image's output. image: its rows and columns.
        """

    def results(
        self, output: Tensor, labels: Labels, queries: Sequence[TaskQuery], options: Options
    ) -> Sequence[Result]:
        """One result per image.

        output: (B, ...). queries: B of them. options: the task's.
        """


def check_vector(shape: Shape, labels: Labels) -> None:
    """Raises ValueError if there is not one number per label, whatever the axes of length 1."""
    if math.prod(shape) != len(labels):
        raise ValueError(f"{math.prod(shape)} outputs for {len(labels)} labels")


def check_map(shape: Shape, channels: int, kind: str, image: tuple[int, int]) -> None:
    """Raises ValueError if it is no map (channels, H, W), or larger than the image."""
    if len(shape) != 3 or math.prod(shape[1:]) > math.prod(image):
        raise ValueError(f"an output of {list(shape)} is no map of the image")
    if shape[0] != channels:
        raise ValueError(f"{shape[0]} channels of a map of {kind}, not {channels}")


def in_pieces(
    output: Tensor,
    queries: Sequence[TaskQuery],
    results: Callable[[Tensor, Sequence[TaskQuery]], Sequence[Result]],
) -> list[Result]:
    """The results of maps (B, C, H, W): image by image on a CPU, whose cache holds one map; otherwise all at once."""
    size = 1 if output.device.type == "cpu" else len(output)
    return [
        result
        for start in range(0, len(output), size)
        for result in results(output[start:][:size], queries[start:][:size])
    ]


def requested_map(draw: Callable[[int, Maps], Map], image: int, query: TaskQuery) -> Map | None:
    """The map of an image of the batch in the requested form, drawn only if there is one."""
    return None if query.maps == "none" else draw(image, query.maps)
