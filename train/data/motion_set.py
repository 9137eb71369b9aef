"""Sequences made from photographs: one of them as a fixed camera sees it, and pieces of others that move across.

What a codec learns from a few clips holds for what moved in those. Here each sequence has a place, light, noise and
movers of its own. In some nothing moves; in some the light is switched, or the camera is knocked. Knows no codec.

Legend: T images of a sequence, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from shared.bundle import Preprocess
from shared.errors import DataError, ImageError
from shared.image import fit
from shared.placement import letterbox
from train.data.views import draw_piece

Random = np.random.Generator

# width / height of cameras, where the network takes pictures in a letterbox
ASPECTS = (1.0, 4 / 3, 4 / 3, 16 / 9, 16 / 9, 9 / 16)
MOVERS = (0, 1, 1, 2, 3)  # things that move in a sequence
MARGIN = 0.08  # of the larger side: as far as a knock may turn the camera
KNOCKED, SWITCHED = 0.06, 0.08  # shares of the sequences
NOISE = (0.05, 3.0)  # deviation of a pixel, of 255
GROWN_MAX = 4.0  # times its first size that a mover comes to have; only long sequences get there
KEPT = 16  # decoded photographs


@dataclass(frozen=True)
class _Mover:
    """A piece of a photograph with soft edges. Places and sizes are in pixels, speeds in pixels an image."""

    picture: Image.Image
    mask: Image.Image
    at: tuple[float, float]
    speed: tuple[float, float]
    leaves: float  # stands until then
    growth: float
    sway: float
    shown: tuple[float, float]  # first and last image

    def paste(self, canvas: Image.Image, t: int) -> None:
        if not self.shown[0] <= t <= self.shown[1]:
            return
        gone = max(0.0, t - self.leaves)
        scale, wide = min(self.growth**gone, GROWN_MAX), 1 + self.sway * math.sin(2.2 * gone)
        size = (
            max(1, round(self.picture.width * scale * wide)),
            max(1, round(self.picture.height * scale)),
        )
        x, y = (p + v * gone - s / 2 for p, v, s in zip(self.at, self.speed, size, strict=True))
        canvas.paste(self.picture.resize(size), (round(x), round(y)), self.mask.resize(size))


class MotionSet:
    """Sequences of `frames` images, without labels: image i is image i % frames of sequence i // frames.

    readers: give the photographs, RGB images of any size. The sequences go through them in order, so that the last
    sequences show other places than the first. Everything random follows from the seed and a sequence's number.

    Raises DataError.
    """

    form = None
    names: tuple[str, ...] = ()

    def __init__(
        self,
        readers: Sequence[Callable[[], Image.Image]],
        preprocess: Preprocess,
        *,
        sequences: int,
        frames: int = 8,
        seed: int = 0,
    ) -> None:
        if len(readers) < 2:
            raise DataError("sequences are made of two photographs or more", setting="data")
        self.size, self.frames = (preprocess.height, preprocess.width), frames
        self._readers, self._preprocess, self._count, self._seed = readers, preprocess, sequences, seed
        self._photograph = lru_cache(KEPT)(self._read)
        self._sequence = lru_cache(4)(self._drawn)

    def __len__(self) -> int:
        return self._count * self.frames

    def images(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """RGB (B, H, W, 3). Raises DataError."""
        return np.stack([self._sequence(i // self.frames)[i % self.frames] for i in indices.tolist()])

    def labels(self, indices: NDArray[np.int64], flip: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Raises DataError."""
        raise DataError("sequences of photographs have no labels")

    def _drawn(self, number: int) -> NDArray[np.uint8]:
        first = number * len(self._readers) // self._count
        near = [(first - k) % len(self._readers) for k in range(min(8, len(self._readers)))]
        random = np.random.default_rng((self._seed, number))
        return draw_sequence([self._photograph(k) for k in near], self._preprocess, self.frames, random)

    def _read(self, number: int) -> Image.Image:
        try:
            return self._readers[number]()
        except ImageError as error:
            raise DataError(f"{error}; it was sound when the set was opened") from None


def draw_sequence(
    photographs: Sequence[Image.Image], preprocess: Preprocess, frames: int, random: Random
) -> NDArray[np.uint8]:
    """RGB (T, H, W, 3) in front of the first photograph; movers are pieces of the others."""
    size = preprocess.width, preprocess.height
    if preprocess.fit == "letterbox":
        aspect = random.choice(ASPECTS)
        left, top, right, bottom = letterbox((round(1000 * aspect), 1000), size)
        size = right - left, bottom - top
    margin = math.ceil(MARGIN * max(size))
    whole = size[0] + 2 * margin, size[1] + 2 * margin
    box = draw_piece(photographs[0].size, whole[0] / whole[1], random)
    place = photographs[0].resize(whole, Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    others = random.integers(1, len(photographs), random.choice(MOVERS))
    movers = [_draw_mover(photographs[k], whole, frames, random) for k in others]
    turns, light = _turns(frames, margin, random), _light(frames, random)
    noise = _log_uniform(random, *NOISE)
    out = []
    for t in range(frames):
        canvas = place.copy()
        for mover in movers:
            mover.paste(canvas, t)
        x, y = margin + turns[t]
        seen = canvas.resize(size, Image.Resampling.BILINEAR, box=(x, y, x + size[0], y + size[1]))
        values = np.asarray(seen, np.float32) * light[t] + noise * random.standard_normal((*size[::-1], 3))
        image = Image.fromarray(values.clip(0, 255).round().astype(np.uint8))
        out.append(np.asarray(fit(image, preprocess)))
    return np.stack(out)


def _draw_mover(photograph: Image.Image, whole: tuple[int, int], frames: int, random: Random) -> _Mover:
    """From a person far away to a car nearby, walking or driving through, standing at first or coming suddenly."""
    high = whole[1] * _log_uniform(random, 0.08, 0.7)
    size = max(4, round(high * _log_uniform(random, 0.3, 2.5))), max(4, round(high))
    box = draw_piece(photograph.size, size[0] / size[1], random)
    picture = photograph.resize(size, Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    corners = int(random.integers(6, 25))  # from an edged shape to a round one
    reach = 1 - 0.5 * random.random() * random.random(corners)
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    outline = [
        (size[0] / 2 * (1 + r * math.cos(a)), size[1] / 2 * (1 + r * math.sin(a)))
        for r, a in zip(reach, angles, strict=True)
    ]
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).polygon(outline, fill=255)
    mask = mask.filter(ImageFilter.GaussianBlur(random.uniform(0.5, 2)))
    speed, way = whole[0] * _log_uniform(random, 0.003, 0.2), random.uniform(0, 2 * np.pi)
    leaves = random.uniform(0, frames) if random.random() < 0.4 else 0.0
    comes, goes = (random.uniform(0, frames) if random.random() < 0.2 else edge for edge in (0, frames))
    start = (random.uniform(-0.1, 1.1) * whole[0], random.uniform(0.1, 0.9) * whole[1])
    return _Mover(
        picture,
        mask,
        at=start,
        speed=(speed * math.cos(way), 0.4 * speed * math.sin(way)),
        leaves=leaves,
        growth=random.uniform(0.94, 1.06),
        sway=random.uniform(0, 0.15),
        shown=(comes, goes),
    )


def _turns(frames: int, margin: int, random: Random) -> NDArray[np.float64]:
    """How far the camera is turned in each image, (T, 2) pixels."""
    out = np.zeros((frames, 2))
    if random.random() < KNOCKED:
        out[int(random.integers(1, frames)) :] = margin * random.uniform(-1, 1, 2)
    return out


def _light(frames: int, random: Random) -> NDArray[np.float64]:
    """A factor for each image: flicker, a slow change, and sometimes a lamp that is switched."""
    flicker = _log_uniform(random, 2e-4, 1e-2) * random.standard_normal(frames)
    out = 1 + flicker + np.arange(frames) * random.normal(0, 2e-3)
    if random.random() < SWITCHED:
        out[int(random.integers(1, frames)) :] *= random.uniform(0.6, 1.4)
    return out


def _log_uniform(random: Random, low: float, high: float) -> float:
    return float(low * (high / low) ** random.random())
