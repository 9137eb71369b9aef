"""Many different views of few large photographs: crops, scales, mirror images and light. Knows no network.

Legend: P photographs, V views of each, M = P * V; B images of a batch, H x W pixels.

A training on few photographs learns them by heart. A view shows a part of one, at a size and in a light of its own, so
that a few hundred photographs give as many thousand images. All that is random in a view follows from the seed and its
number, so that its features can be cached, and a run resumed.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from pydantic import Field

from shared.bundle import Preprocess
from shared.errors import DataError, ImageError
from shared.image import fit
from shared.placement import letterbox
from shared.types import Frozen

PIECE_MIN = 0.35  # shorter side of the smallest piece, of the photograph's
ASPECT_MAX = 4 / 3  # of a piece to the network's image
LIGHT = 0.3  # brightness and contrast, up and down
COLOUR = 0.4  # saturation, up and down
FRAMED = 0.5  # share of the views with bars, for a network that sees whole photographs so
FRAME_MAX = 16 / 9  # longer side of such a piece to its shorter one
VIEWS_MAX = 10_000  # of a photograph
KEPT_BYTES = 1 << 30  # of decoded photographs, in each process
MANY = 16  # views that are worth more than one process
CORES_MIN = 4


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
        self._readers, self._preprocess, self._views, self.files = readers, preprocess, views, files
        self.size = preprocess.height, preprocess.width
        self._kept: dict[int, Image.Image] = {}
        self._room = KEPT_BYTES
        self._pool: ProcessPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self._readers) * self._views.count

    def images(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """RGB (B, H, W, 3) of the views `indices` (B,). Raises DataError."""
        pool = self._processes() if len(indices) >= MANY else None
        draw: Callable[..., Any] = map if pool is None else pool.map
        return np.stack(list(draw(self._drawn if pool is None else _drawn, indices.tolist())))

    def labels(self, indices: NDArray[np.int64], flip: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Raises DataError."""
        raise DataError("views of photographs have no labels")

    def _drawn(self, index: int) -> NDArray[np.uint8]:
        photograph = self._photograph(index % len(self._readers))
        random = np.random.default_rng((self._views.seed, index))
        return np.asarray(draw_view(photograph, self._preprocess, random))

    def _processes(self) -> ProcessPoolExecutor | None:
        """Processes that draw views, where there are more cores than a front on a CPU keeps busy."""
        cores = len(os.sched_getaffinity(0))
        if self._pool is None and cores >= CORES_MIN:
            # Forked, since a set may read from anything; the children touch no GPU.
            self._pool = ProcessPoolExecutor(cores, get_context("fork"), _adopt, (self,))
        return self._pool

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


_adopted: ViewSet | None = None  # in a process that draws views: the set that they are of


def _adopt(views: ViewSet) -> None:
    global _adopted
    _adopted = views
    # Ctrl-C reaches all processes of a terminal; the training ends these itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _drawn(index: int) -> NDArray[np.uint8]:
    assert _adopted is not None
    return _adopted._drawn(index)


def draw_view(image: Image.Image, preprocess: Preprocess, random: np.random.Generator) -> Image.Image:
    """A random view of an RGB image, of the network's size.

    Where the network takes photographs in a letterbox, some views are pieces of any shape in one.
    """
    size, aspect = (preprocess.width, preprocess.height), preprocess.width / preprocess.height
    framed = preprocess.fit == "letterbox" and random.random() < FRAMED
    if framed:
        aspect *= FRAME_MAX ** random.uniform(-1, 1)
    box = draw_piece(image.size, aspect, random)
    if framed:
        left, top, right, bottom = letterbox((math.ceil(box[2] - box[0]), math.ceil(box[3] - box[1])), size)
        size = (right - left, bottom - top)
    view = image.resize(size, Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    if random.random() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhance, most in (
        (ImageEnhance.Brightness, LIGHT),
        (ImageEnhance.Contrast, LIGHT),
        (ImageEnhance.Color, COLOUR),
    ):
        view = enhance(view).enhance(1 + most * random.uniform(-1, 1))
    return fit(view, preprocess)


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
