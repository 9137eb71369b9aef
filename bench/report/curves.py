"""Curves of bytes against quality: reading them at equal quality or at equal bytes. Knows no codec."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import bjontegaard
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator


class Read(NamedTuple):
    """A value read off a curve; beyond its ends, that of the end, and the side on which the true one lies."""

    value: float
    side: Literal["", "<", ">"] = ""


@dataclass(frozen=True)
class Curve:
    """Bytes and quality, both strictly rising; between the points monotone cubics (PCHIP) of the bytes' logarithm."""

    sizes: NDArray[np.float64]
    qualities: NDArray[np.float64]

    @classmethod
    def of(cls, points: Iterable[tuple[float, float]]) -> Curve:
        """points: (bytes, quality), more is better. One that costs more than another and is no better is left out."""
        kept: list[tuple[float, float]] = []
        for size, quality in sorted(points, key=lambda point: (point[0], -point[1])):
            if not kept or quality > kept[-1][1]:
                kept.append((size, quality))
        sizes, qualities = zip(*kept, strict=True)
        return cls(np.array(sizes), np.array(qualities))

    def bytes_at(self, quality: float) -> Read:
        """Bytes that this quality costs."""
        read = _read(self.qualities, np.log(self.sizes), quality)
        return Read(float(np.exp(read.value)), read.side)

    def quality_at(self, size: float) -> Read:
        """Quality at so many bytes."""
        return _read(np.log(self.sizes), self.qualities, float(np.log(size)))


def _read(x: NDArray[np.float64], y: NDArray[np.float64], at: float) -> Read:
    if at < x[0]:
        return Read(float(y[0]), "<")
    if at > x[-1]:
        return Read(float(y[-1]), ">")
    return Read(float(PchipInterpolator(x, y)(at)) if len(x) > 1 else float(y[0]))


def bd_rate(reference: Curve, other: Curve) -> float | None:
    """Bytes of `other` over those of `reference` at equal quality, less one: the mean of the logarithms over the range
    of quality that both have (Bjontegaard's, with PCHIP). None where they share no range."""
    low = max(reference.qualities[0], other.qualities[0])
    high = min(reference.qualities[-1], other.qualities[-1])
    if high <= low:
        return None
    curves = reference.sizes, reference.qualities, other.sizes, other.qualities
    percent = bjontegaard.bd_rate(*curves, method="pchip", require_matching_points=False, min_overlap=0)
    return float(percent) / 100
