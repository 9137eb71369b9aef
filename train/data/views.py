"""Many different views of few large photographs: crops, scales, mirror images and light. Knows no network.

Legend: P photographs, V views of each, M = P * V; B images of a batch, H x W pixels.

A training on few photographs learns them by heart. A view shows a part of one, at a size and in a light of its own, so
that a few hundred photographs give as many thousand images. All that is random in a view follows from the seed and its
number, so that its features can be cached, and a run resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from pydantic import Field

from shared.bundle import Preprocess
from shared.errors import DataError, ImageError
from shared.types import Frozen

PIECE_MIN = 0.35  # shorter side of the smallest piece, of the photograph's
ASPECT_MAX = 4 / 3  # of a piece to the network's image
LIGHT = 0.3  # brightness and contrast, up and down
COLOUR = 0.4  # saturation, up and down
VIEWS_MAX = 10_000  # of a photograph
KEPT_BYTES = 1 << 30  # of decoded photographs, in each process


class Views(Frozen):
    """How many views there are of each photograph, and the seed of all that is random in them."""

    count: int = Field(ge=1, le=VIEWS_MAX)
    seed: int = Field(0, ge=0, lt=2**32)


class ViewSet:
    """M = P * V views, without labels: number i shows photograph i % P for the (i // P)th time. size: H and W.

    readers: give the P photographs, RGB images of any size. files: their names, without folders.
    """

    form = None
    names: tuple[str, ...] = ()

    def __init__(
        self,
        readers: Sequence[Callable[[], Image.Image]],
        preprocess: Preprocess,
        views: Views,
        files: tuple[str, ...] = (),
    ) -> None:
        self._readers, self._views, self.files = readers, views, files
        self.size = preprocess.height, preprocess.width
        self._kept: dict[int, Image.Image] = {}
        self._room = KEPT_BYTES

    def __len__(self) -> int:
        return len(self._readers) * self._views.count

    def images(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """RGB (B, H, W, 3) of the views `indices` (B,). Raises DataError."""
        views = [self._view(int(index)) for index in indices]
        return np.stack([np.asarray(view) for view in views])

    def labels(self, indices: NDArray[np.int64], flip: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Raises DataError."""
        raise DataError("views of photographs have no labels")

    def _view(self, index: int) -> Image.Image:
        photograph = self._photograph(index % len(self._readers))
        return draw_view(photograph, self.size, np.random.default_rng((self._views.seed, index)))

    def _photograph(self, number: int) -> Image.Image:
        """A decoded photograph, kept while there is room. Raises DataError."""
        if number in self._kept:
            return self._kept[number]
        try:
            image = self._readers[number]()
        except ImageError as error:
            raise DataError(f"{error}; it was sound when the set was opened") from None
        size = 3 * image.width * image.height
        if size <= self._room:
            self._kept[number] = image
            self._room -= size
        return image


def draw_view(image: Image.Image, size: tuple[int, int], random: np.random.Generator) -> Image.Image:
    """A random view of an RGB image. size: its H and W."""
    height, width = size
    box = draw_piece(image.size, width / height, random)
    view = image.resize((width, height), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    if random.random() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhance, most in (
        (ImageEnhance.Brightness, LIGHT),
        (ImageEnhance.Contrast, LIGHT),
        (ImageEnhance.Color, COLOUR),
    ):
        view = enhance(view).enhance(1 + most * random.uniform(-1, 1))
    return view


def draw_piece(
    size: tuple[int, int], aspect: float, random: np.random.Generator
) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a piece of an image. size: the image's width and height, in pixels.

    aspect: width / height that the piece is stretched to. The piece's own is drawn around it; its scale is drawn
    evenly in octaves, from PIECE_MIN to the largest that fits.
    """
    wide, high = size
    aspect *= ASPECT_MAX ** random.uniform(-1, 1)
    largest = min(wide / aspect, high)  # height
    height = largest * PIECE_MIN ** random.random()
    width = height * aspect
    left, top = random.random() * (wide - width), random.random() * (high - height)
    return left, top, min(left + width, float(wide)), min(top + height, float(high))
