"""Curves of bytes against quality, read at equal quality or at equal bytes. Knows no codec."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import bjontegaard
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from bench.report.sections import UNDETERMINED


class Read(NamedTuple):
    """A value read off a curve. Beyond the curve's ends it is the end's, and side says where the true one lies."""

    value: float
    side: Literal["", "<", ">"] = ""

    def text(self, digits: int = 1) -> str:
        return f"{self.side}{' ' if self.side else ''}{self.value:.{digits}f}"


@dataclass(frozen=True)
class Curve:
    """Bytes and quality, both strictly rising; in between, monotone cubics (PCHIP) of the logarithm of the bytes."""

    sizes: NDArray[np.float64]
    qualities: NDArray[np.float64]

    @classmethod
    def of(cls, points: Iterable[tuple[float, float]]) -> Curve:
        """points: (bytes, quality), more is better. One that costs more than another and is no better is left out."""
        best: list[tuple[float, float]] = []
        for size, quality in sorted(points, key=lambda point: (point[0], -point[1])):
            if not best or quality > best[-1][1]:
                best.append((size, quality))
        sizes, qualities = zip(*best, strict=True)
        return cls(np.array(sizes), np.array(qualities))

    def bytes_at(self, quality: float) -> Read:
        """Bytes that this quality costs."""
        read = _read(self.qualities, np.log(self.sizes), quality)
        return Read(float(np.exp(read.value)), read.side)

    def quality_at(self, size: float) -> Read:
        """Quality that this many bytes give."""
        return _read(np.log(self.sizes), self.qualities, float(np.log(size)))


def _read(x: NDArray[np.float64], y: NDArray[np.float64], at: float) -> Read:
    if at < x[0]:
        return Read(float(y[0]), "<")
    if at > x[-1]:
        return Read(float(y[-1]), ">")
    return Read(float(PchipInterpolator(x, y)(at)) if len(x) > 1 else float(y[0]))


def bd_rate(reference: Curve, other: Curve) -> float | None:
    """Bytes of `other` over those of `reference` at equal quality, less one (Bjontegaard's rate, with PCHIP).

    The mean of the logarithms over the range of quality that both have; None where they share no range.
    """
    low = max(reference.qualities[0], other.qualities[0])
    high = min(reference.qualities[-1], other.qualities[-1])
    if high <= low:
        return None
    curves = reference.sizes, reference.qualities, other.sizes, other.qualities
    percent = bjontegaard.bd_rate(*curves, method="pchip", require_matching_points=False, min_overlap=0)
    return float(percent) / 100


class Saving(NamedTuple):
    """How many bytes are saved, as text; met: whether that is as much as was wanted, None where it is undetermined."""

    text: str
    met: bool | None


def saving_of(size: float, reads: Sequence[Read], least: float = 0.3) -> Saving:
    """The share of bytes that one stream of `size` saves over others that are needed together.

    least: the share that is wanted. Where a read lies beyond its curve only a bound is known; it decides if it can.
    """
    sides = {read.side for read in reads} - {""}
    share = 1 - size / sum(read.value for read in reads)
    if not sides:
        return Saving(f"{share:.1%}", share >= least)
    if sides == {">"}:
        return Saving(f"at least {share:.1%}", True if share >= least else None)
    if sides == {"<"}:
        return Saving(f"at most {share:.1%}", False if share < least else None)
    return Saving(UNDETERMINED, None)
