"""Surface patterns: colour and glow of a point of a part, from exact arithmetic and integer hashes only.

Each pattern is a function of the point on a face. Most return how much of colour B to mix into colour A, and a factor
of brightness (`_mixed`); others have colours of their own (`_painted`).

numba's cache of a function looks at the time of its own file, not of the files it calls: after a change here or in
`raycast`, delete `__pycache__/*.nb*` of this folder, or the old code stays inlined in `shading`.

Letters: m, materials (M, 11); i, the material's row; u, v, position on the face in metres from its middle; hu, hv, half
its sizes; un, vn, u and v from -1 to 1; s, the pattern's scale in metres.
"""

from __future__ import annotations

from math import floor
from typing import Any

import numpy as np
from numba import njit

_JIT: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}

# A material row holds colour A 3, colour B 3, pattern, scale in metres, gloss, glow, hash seed.
(
    PLAIN,
    PLANKS,
    TILES,
    STRIPES,
    CHECKS,
    PLASTER,
    CARPET,
    BOOKS,
    SCREEN,
    PICTURE,
    SKY,
    LEDS,
    BRICK,
    KEYS,
    HOLES,
) = range(15)
RUG, CARTON, DRAWERS, CHALK, MIRROR, RINGS, FILM = range(15, 22)
_PAINTED = (BOOKS, PICTURE, SKY, LEDS, CARTON, RINGS, FILM)


@njit(**_JIT)
def hash01(a, b, c):
    """A number in [0, 1) from three integers; 53 bits, so float64 holds it exactly."""
    x = np.uint64(a) * np.uint64(0x9E3779B97F4A7C15)
    x ^= np.uint64(b) * np.uint64(0xC2B2AE3D27D4EB4F) + np.uint64(c) * np.uint64(0x165667B19E3779F9)
    x ^= x >> np.uint64(29)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(32)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return np.float64(x >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@njit(**_JIT)
def _noise(u, v, seed):
    """Value noise in [0, 1) with a lattice of pitch 1."""
    fu, fv = floor(u), floor(v)
    i, j = int(fu), int(fv)
    a, b = u - fu, v - fv
    a, b = a * a * (3.0 - 2.0 * a), b * b * (3.0 - 2.0 * b)
    top = hash01(seed, i, j) * (1.0 - a) + hash01(seed, i + 1, j) * a
    low = hash01(seed, i, j + 1) * (1.0 - a) + hash01(seed, i + 1, j + 1) * a
    return top * (1.0 - b) + low * b


@njit(**_JIT)
def texture(materials, index, px, py, pz, hx, hy, hz, face):
    """Red, green, blue (linear, 0..1) and glow of point p of a part with half sizes h, hit on `face`."""
    pattern = int(materials[index, 6])
    if pattern == PLAIN:
        return materials[index, 0], materials[index, 1], materials[index, 2], materials[index, 9]
    u, v, hu, hv = _on_face(px, py, pz, hx, hy, hz, face)
    s = materials[index, 7]
    seed = int(materials[index, 10])
    if pattern in _PAINTED:
        return _painted(pattern, materials, index, u, v, hu, hv, s, seed)
    mix, tone = _mixed(pattern, u, v, hu, hv, s, seed, materials[index, 10])
    return _blend(materials, index, mix, tone)


@njit(**_JIT)
def _on_face(px, py, pz, hx, hy, hz, face):
    """u, v and half the face's sizes, in metres."""
    if face == 0 or face == 1:
        return py, pz, hy, hz
    if face == 2 or face == 3:
        return px, pz, hx, hz
    if face == 4 or face == 5:
        return px, py, hx, hy
    # A rational stand-in for the angle: monotone around the axis, exact.
    w = abs(px) + abs(py) + 1e-9
    return (px / w if py < 0.0 else 2.0 - px / w) * hx * 1.57, pz, hx * 3.14, hz


@njit(**_JIT)
def _blend(m, i, mix, tone):
    """Colours A and B mixed, and the material's glow."""
    k = 1.0 - mix
    return (
        (m[i, 0] * k + m[i, 3] * mix) * tone,
        (m[i, 1] * k + m[i, 4] * mix) * tone,
        (m[i, 2] * k + m[i, 5] * mix) * tone,
        m[i, 9],
    )


@njit(**_JIT)
def _mixed(pattern, u, v, hu, hv, s, seed, drawer):
    """The share of colour B, and a factor of brightness. drawer: height of a drawer in metres, for that pattern."""
    un, vn = u / hu, v / hv
    if pattern == PLANKS:
        return _planks(u, v, s, seed)
    if pattern in (TILES, BRICK):
        return _tiles(u, v, s, seed, pattern == BRICK)
    if pattern == STRIPES:
        return 1.0 if floor(u / s) & 1 else 0.0, 1.0
    if pattern == CHECKS:
        return 1.0 if (floor(u / s) + floor(v / s)) & 1 else 0.0, 1.0
    if pattern == PLASTER:
        return 0.6 * _noise(u / s, v / s, seed) + 0.4 * _noise(u / s * 3.7, v / s * 3.7, seed + 1), 1.0
    if pattern == CARPET:
        return 0.5 * hash01(seed, floor(u * 90.0), floor(v * 90.0)) + 0.5 * _noise(u / s, v / s, seed), 1.0
    if pattern == SCREEN:
        return _screen(u, v, un, vn, s, seed), 1.0
    if pattern == KEYS:
        return _keys(u, vn, s)
    if pattern == HOLES:
        x, y = u / s - floor(u / s) - 0.5, v / s - floor(v / s) - 0.5
        return 1.0 if x * x + y * y < 0.06 else 0.0, 1.0
    if pattern == RUG:  # a rug: borders
        e = min(hu - abs(u), hv - abs(v)) / s
        border = (e > 0.5 and e < 1.0) or (e > 1.5 and e < 1.75)
        return 1.0 if border else 0.0, 0.85 + 0.3 * hash01(seed, floor(u * 80.0), floor(v * 80.0))
    if pattern == DRAWERS:
        return _drawers(u, v, hu, hv, s, drawer)
    if pattern == CHALK:
        return _chalk(u, v, un, s, seed), 0.9 + 0.2 * _noise(u * 4.0, v * 4.0, seed)
    if pattern == MIRROR:  # a mirror: cool gradient with a slanting streak
        at = un + 0.7 * vn
        streak = (at > -0.2 and at < 0.1) or (at > 0.2 and at < 0.28)
        return 0.5 + 0.5 * vn, 1.25 if streak else 1.0
    return 0.0, 1.0


@njit(**_JIT)
def _planks(u, v, s, seed):
    row = floor(v / s)
    long = s * 7.0
    u2 = u + hash01(seed, int(row), 1) * long
    col = floor(u2 / long)
    mix = 0.75 * hash01(seed, int(row), int(col) + 7)
    tone = 0.82 + 0.3 * _noise(u2 / s * 0.7, v / s * 9.0, seed)
    if v - row * s < 0.03 * s or u2 - col * long < 0.02 * s:
        tone *= 0.55
    return mix, tone


@njit(**_JIT)
def _tiles(u, v, s, seed, bricks):
    row = floor(v / s)
    wide = 2.6 * s if bricks else s
    u2 = u + 0.5 * wide if bricks and int(row) & 1 else u
    col = floor(u2 / wide)
    if v - row * s < 0.06 * s or u2 - col * wide < 0.06 * s:
        return 1.0, 1.0
    return 0.0, 0.9 + (0.3 if bricks else 0.12) * hash01(seed, int(row), int(col))


@njit(**_JIT)
def _screen(u, v, un, vn, s, seed):
    """A computer's screen: a bar, lines of text, a coloured block."""
    if vn > 0.78:
        return 1.0
    if un < -0.55 and un > -0.9:
        return 0.5
    line = floor(v / s)
    ends = 0.2 + 0.7 * hash01(seed, line, 3)
    if line & 1 and un > -0.4 and un < ends:
        return 1.0 if hash01(seed, line, floor(u / s)) > 0.25 else 0.0
    return 0.0


@njit(**_JIT)
def _keys(u, vn, s):
    """A piano's keys; v runs along a key."""
    cell = floor(u / s)
    at = u / s - cell
    key = int(cell) % 7
    black = key != 2 and key != 6
    before = int(cell - 1) % 7 != 2 and int(cell - 1) % 7 != 6
    if vn > -0.25 and ((black and at > 0.68) or (before and at < 0.32)):
        return 1.0, 1.0
    return 0.0, 0.4 if at < 0.07 else 1.0


@njit(**_JIT)
def _drawers(u, v, hu, hv, s, drawer):
    """Fronts of drawers or doors: gaps and a handle."""
    cols = max(1.0, floor(2.0 * hu / s + 0.5))
    w = 2.0 * hu / cols
    at = (u + hu) / w - floor((u + hu) / w)
    tall = 2.0 * hv / max(1.0, floor(2.0 * hv / drawer + 0.5)) if drawer > 0.0 else 2.0 * hv
    up = (v + hv) / tall - floor((v + hv) / tall)
    if at * w < 0.018 or up * tall < 0.018:
        return 0.0, 0.3
    if abs(at - 0.5) * w < 0.07 and up > 0.76 and up * tall < tall * 0.76 + 0.03:
        return 1.0, 1.0
    return 0.0, 1.0


@njit(**_JIT)
def _chalk(u, v, un, s, seed):
    """Chalk on a board: lines of strokes that slant one way or the other."""
    line = floor(v / s)
    inside = v / s - line
    if line & 1 and inside > 0.25 and inside < 0.8 and abs(un) < 0.9 and hash01(seed, line, 0) > 0.25:
        part = floor(u / s * 1.6)
        slope = u / s * 1.6 - part
        if un < 0.9 * hash01(seed, line, 1) + 0.1 and hash01(seed, line, part) > 0.25:
            at = slope if hash01(seed, line, part + 500) > 0.5 else 1.0 - slope
            if abs(inside - 0.25 - 0.55 * at) < 0.14:
                return 1.0
    return 0.0


@njit(**_JIT)
def _painted(pattern, m, i, u, v, hu, hv, s, seed):
    """Red, green, blue and glow of a pattern that has more colours than two."""
    un, vn = u / hu, v / hv
    if pattern == BOOKS:
        return _books(m, i, u, v, vn, hv, s, seed)
    if pattern == PICTURE:
        return _picture(m, i, un, vn, seed)
    if pattern == SKY:
        return _sky(m, i, u, v, vn, seed)
    if pattern == LEDS:
        return _rack(m, i, u, v, un, hu, s, seed)
    if pattern == CARTON:
        return _carton(m, i, u, v, un, vn, seed)
    if pattern == RINGS:
        return _rings(m, i, un, vn)
    return _film(m, i, un, vn, seed)


@njit(**_JIT)
def _books(m, i, u, v, vn, hv, s, seed):
    """Spines of books on a shelf."""
    emit = m[i, 9]
    col = floor(u / s)
    r, g, b = hash01(seed, col, 1), hash01(seed, col, 2), hash01(seed, col, 3)
    if hv - v > 2.0 * hv * (0.72 + 0.28 * hash01(seed, col, 4)) or vn > 0.55 + 0.45 * hash01(seed, col, 4):
        return 0.02, 0.015, 0.01, emit
    edge = u / s - col
    tone = 0.35 if edge < 0.08 else 1.0
    if abs(vn - 0.2) < 0.09 and hash01(seed, col, 5) > 0.5:
        return 0.7 * tone, 0.6 * tone, 0.3 * tone, emit
    tone *= 0.75
    return (0.08 + r * r) * tone, (0.06 + 0.8 * g * g) * tone, (0.06 + 0.8 * b * b) * tone, emit


@njit(**_JIT)
def _picture(m, i, un, vn, seed):
    """An abstract picture on a wall."""
    x, y = un - 0.8 * (hash01(seed, 1, 1) - 0.5), vn - 0.8 * (hash01(seed, 1, 2) - 0.5)
    if x * x + y * y < 0.1 + 0.3 * hash01(seed, 1, 3):
        return _blend(m, i, 1.0, 1.0)
    if vn < -0.3 + 0.5 * un * (hash01(seed, 1, 4) - 0.5):
        return 1.0 - m[i, 0], 0.6 * m[i, 4], 1.0 - m[i, 2], m[i, 9]
    return _blend(m, i, 0.0, 1.0)


@njit(**_JIT)
def _sky(m, i, u, v, vn, seed):
    """Sky over a line of trees."""
    trees = -0.55 + 0.5 * _noise(u * 2.2, 0.0, seed) + 0.15 * _noise(u * 11.0, 0.0, seed)
    if vn < trees:
        t = 0.5 + 0.5 * _noise(u * 15.0, v * 15.0, seed)
        return 0.16 * t, 0.3 * t, 0.1 * t, m[i, 9] * 0.8
    return _blend(m, i, 0.5 - 0.5 * vn, 1.0)


@njit(**_JIT)
def _rack(m, i, u, v, un, hu, s, seed):
    """Slots of a computer rack with lights."""
    row = floor(v / s)
    inside = v / s - row
    if inside < 0.1 or abs(un) > 0.9:
        return 0.01, 0.01, 0.012, 0.0
    if hash01(seed, row, 0) < 0.15:
        return m[i, 3] * 0.5, m[i, 4] * 0.5, m[i, 5] * 0.5, 0.0
    cell = floor((u + hu) / (s * 0.45))
    h = hash01(seed, row, cell + 1)
    if inside > 0.35 and inside < 0.75 and h < 0.55 and hash01(seed, row, 99) > 0.2:
        if h < 0.3:
            return 0.05, 0.95, 0.25, 1.6
        if h < 0.46:
            return 0.08, 0.4, 1.0, 1.8
        return 1.0, 0.5, 0.05, 1.6
    return _blend(m, i, 0.0, 0.8 + 0.4 * hash01(seed, row, 2))


@njit(**_JIT)
def _carton(m, i, u, v, un, vn, seed):
    """A carton: tape along the middle, a label."""
    mix = 0.0
    if abs(u) < 0.03:
        mix = 1.0
    elif un > 0.3 and un < 0.8 and vn > -0.7 and vn < -0.2 and hash01(seed, 2, 2) > 0.4:
        return 0.75, 0.75, 0.72, m[i, 9]
    return _blend(m, i, mix, 0.92 + 0.12 * _noise(u * 6.0, v * 25.0, seed))


@njit(**_JIT)
def _rings(m, i, un, vn):
    """The door of a washing machine, a target."""
    r2 = un * un + vn * vn
    if r2 < 0.42:
        return 0.03, 0.05, 0.08, m[i, 9]
    return _blend(m, i, 1.0 if r2 < 0.7 else 0.0, 1.0)


@njit(**_JIT)
def _film(m, i, un, vn, seed):
    """A landscape in wide screen, with bars above and below."""
    if abs(vn) > 0.88:
        return 0.01, 0.01, 0.01, 0.0
    ridge = -0.35 + 0.7 * _noise(un * 2.5, 0.5, seed) * (0.5 + 0.5 * hash01(seed, 5, 5))
    x, y = un - 1.2 * (hash01(seed, 1, 1) - 0.5), vn - 0.35
    if vn < ridge:
        t = 0.12 + 0.25 * _noise(un * 12.0, vn * 12.0, seed)
        return t * (0.3 + m[i, 3]), t * (0.3 + m[i, 4]), t * (0.3 + m[i, 5]), m[i, 9]
    if x * x * 3.0 + y * y < 0.05:
        return 1.0, 0.95, 0.7, m[i, 9]
    return _blend(m, i, 0.5 - 0.5 * vn, 1.0)
