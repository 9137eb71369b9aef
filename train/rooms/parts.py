"""The random stream and the builder that furniture is made with. Every number here is exact on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from train.rooms import texture as tx

T = TypeVar("T")
Rgb = tuple[float, float, float]
Xyz = tuple[float, float, float]
Spin = tuple[float, ...]  # a rotation, 3 by 3, row-major
# kind, centre, rotation (part to thing), half sizes, taper, material, semantic, casts a shadow
Part = tuple[int, Xyz, Spin, Xyz, float, int, int, bool]

SEMANTIC_CLASSES: tuple[str, ...] = (
    "wall",
    "floor",
    "ceiling",
    "door",
    "window",
    "bed",
    "sofa",
    "chair",
    "table",
    "cabinet",
    "shelf",
    "appliance",
    "sanitary",
    "screen",
    "lamp",
    "plant",
    "decor",
)
(
    WALL,
    FLOOR,
    CEILING,
    DOOR,
    WINDOW,
    BED,
    SOFA,
    CHAIR,
    TABLE,
    CABINET,
    SHELF,
    APPLIANCE,
    SANITARY,
    SCREEN,
    LAMP,
) = range(15)
PLANT, DECOR = 15, 16

_MASK = (1 << 64) - 1


def mix64(x: int) -> int:
    """The finaliser of splitmix64: a bijection of 64-bit integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


class Stream:
    """splitmix64, named: streams of one seed with different names are independent of each other."""

    def __init__(self, seed: int, name: str, attempt: int = 0) -> None:
        state = mix64(seed + 0x9E3779B97F4A7C15)
        for byte in name.encode():
            state = mix64((state ^ byte) + 0x9E3779B97F4A7C15 & _MASK)
        self._state = mix64(state + attempt * 0xD1342543DE82EF95 & _MASK)

    def bits(self) -> int:
        """The next 64 bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        return mix64(self._state)

    def u(self, low: float = 0.0, high: float = 1.0) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * ((self.bits() >> 11) * (1.0 / 9007199254740992.0))

    def n(self, low: int, high: int) -> int:
        """Uniform among low, ..., high."""
        return low + self.bits() % (high - low + 1)

    def chance(self, p: float) -> bool:
        """True with probability p."""
        return self.u() < p

    def pick(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[self.bits() % len(items)]


def hue(stream: Stream, saturation: tuple[float, float], value: tuple[float, float]) -> Rgb:
    """A linear RGB colour of any hue."""
    h, s, v = stream.u(0.0, 6.0), stream.u(*saturation), stream.u(*value)
    c = []
    for shift in (0.0, 4.0, 2.0):
        x = h + shift
        x = x - 6.0 if x >= 6.0 else x
        k = min(1.0, max(0.0, abs(x - 3.0) - 1.0))
        c.append(v * (1.0 - s + s * k))
    return c[0], c[1], c[2]


def scaled(rgb: Rgb, k: float) -> Rgb:
    """A colour times k, at most 1."""
    return min(1.0, rgb[0] * k), min(1.0, rgb[1] * k), min(1.0, rgb[2] * k)


_WOODS: tuple[Rgb, ...] = (
    (0.45, 0.25, 0.11),
    (0.6, 0.4, 0.2),
    (0.22, 0.1, 0.045),
    (0.68, 0.52, 0.33),
    (0.35, 0.15, 0.07),
)
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def turn(axis: int, t: float) -> Spin:
    """Row-major rotation about an axis by the angle whose half has tangent t: rational, so no sine is needed."""
    k = 1.0 / (1.0 + t * t)
    c, s = (1.0 - t * t) * k, 2.0 * t * k
    if axis == 0:
        return (1.0, 0.0, 0.0, 0.0, c, -s, 0.0, s, c)
    if axis == 1:
        return (c, 0.0, s, 0.0, 1.0, 0.0, -s, 0.0, c)
    return (c, -s, 0.0, s, c, 0.0, 0.0, 0.0, 1.0)


@dataclass
class Materials:
    """The material rows of one scene."""

    stream: Stream
    rows: list[tuple[float, ...]] = field(default_factory=list)

    def add(
        self,
        a: Rgb,
        b: Rgb = (0.0, 0.0, 0.0),
        pattern: int = tx.PLAIN,
        scale: float = 1.0,
        gloss: float = 0.0,
        glow: float = 0.0,
        key: float | None = None,
    ) -> int:
        """Adds a material; `key` is the pattern's hash seed (for DRAWERS: the height of a front in metres)."""
        seed = float(self.stream.n(0, 1 << 30)) if key is None else key
        self.rows.append((*a, *b, float(pattern), scale, gloss, glow, seed))
        return len(self.rows) - 1

    def wood(self) -> int:
        """A kind of wood."""
        c = scaled(self.stream.pick(_WOODS), self.stream.u(0.7, 1.25))
        return self.add(c, scaled(c, 0.7), tx.PLASTER, 0.08, gloss=0.1)

    def fabric(self) -> int:
        """Upholstery of any hue, plain, striped or checked."""
        c = hue(self.stream, (0.15, 0.8), (0.15, 0.8))
        kind = self.stream.pick((tx.PLAIN, tx.PLAIN, tx.CARPET, tx.STRIPES, tx.CHECKS))
        return self.add(c, scaled(c, self.stream.pick((0.6, 0.75, 1.3))), kind, self.stream.u(0.05, 0.12))

    def paint(self, gloss: float = 0.15) -> int:
        """Any plain colour."""
        return self.add(hue(self.stream, (0.1, 0.85), (0.2, 0.85)), gloss=gloss)

    def grey(self, low: float, high: float, gloss: float = 0.25) -> int:
        """A neutral grey."""
        v = self.stream.u(low, high)
        return self.add((v, v, v * self.stream.u(0.95, 1.05)), gloss=gloss)


@dataclass
class Thing:
    """A piece of furniture: parts about its own origin on the floor; x to its right, its back towards +y, z up."""

    parts: list[Part] = field(default_factory=list)
    size: tuple[float, float, float] = (0.5, 0.5, 0.5)
    signature: bool = False

    def put(
        self,
        kind: int,
        at: Xyz,
        half: Xyz,
        material: int,
        semantic: int,
        taper: float = 0.0,
        spin: Spin = IDENTITY,
        shadow: bool = True,
    ) -> None:
        """Adds a part by centre and half sizes (at least half a millimetre)."""
        self.parts.append((kind, at, spin, half, taper, material, semantic, shadow))

    def box(
        self,
        x: float,
        y: float,
        z: float,
        w: float,
        d: float,
        h: float,
        material: int,
        semantic: int,
        *,
        taper: float = 0.0,
        spin: Spin = IDENTITY,
        shadow: bool = True,
    ) -> None:
        """A box w by d by h metres whose base is centred at (x, y, z)."""
        kind = 3 if taper else 0
        self.put(
            kind, (x, y, z + h * 0.5), (w * 0.5, d * 0.5, h * 0.5), material, semantic, taper, spin, shadow
        )

    def tube(
        self,
        x: float,
        y: float,
        z: float,
        r: float,
        h: float,
        material: int,
        semantic: int,
        *,
        taper: float = 0.0,
        axis: int = 2,
        shadow: bool = True,
    ) -> None:
        """An upright cylinder on (x, y, z), or one centred there lying along axis 0 or 1."""
        if axis == 2:
            self.put(2, (x, y, z + h * 0.5), (r, r, h * 0.5), material, semantic, taper, IDENTITY, shadow)
        else:
            spin = turn(1, 1.0) if axis == 0 else turn(0, 1.0)
            self.put(2, (x, y, z), (r, r, h * 0.5), material, semantic, taper, spin, shadow)

    def ball(
        self,
        x: float,
        y: float,
        z: float,
        rx: float,
        ry: float,
        rz: float,
        material: int,
        semantic: int,
        *,
        shadow: bool = True,
    ) -> None:
        """An ellipsoid centred at (x, y, z)."""
        self.put(1, (x, y, z), (rx, ry, rz), material, semantic, 0.0, IDENTITY, shadow)

    def legs(
        self,
        w: float,
        d: float,
        h: float,
        r: float,
        material: int,
        semantic: int,
        x: float = 0.0,
        y: float = 0.0,
        z: float = 0.0,
    ) -> None:
        """Four square legs at the corners of a w by d rectangle."""
        for sx in (-0.5, 0.5):
            for sy in (-0.5, 0.5):
                self.box(x + sx * (w - r), y + sy * (d - r), z, r, r, h, material, semantic)

    def join(self, other: Thing, x: float, y: float, z: float = 0.0, quarter: int = 0) -> None:
        """Adds another thing's parts, moved and turned by quarters anticlockwise."""
        c, s = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[quarter % 4]
        for kind, at, spin, half, taper, material, semantic, shadow in other.parts:
            moved = (x + c * at[0] - s * at[1], y + s * at[0] + c * at[1], z + at[2])
            self.parts.append((kind, moved, rotated(c, s, spin), half, taper, material, semantic, shadow))


def rotated(c: float, s: float, m: Sequence[float]) -> Spin:
    """The rotation (c, s) about z times a row-major 3 by 3 matrix."""
    return (
        c * m[0] - s * m[3],
        c * m[1] - s * m[4],
        c * m[2] - s * m[5],
        s * m[0] + c * m[3],
        s * m[1] + c * m[4],
        s * m[2] + c * m[5],
        m[6],
        m[7],
        m[8],
    )
