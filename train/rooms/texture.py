"""Surface patterns: colour and glow of a point of a part, from exact arithmetic and integer hashes only.

numba's cache of a function looks at the time of its own file, not of the files it calls: after a change here or in
`raycast`, delete `__pycache__/*.nb*` of this folder, or the old code stays inlined in `shading`.
"""

from __future__ import annotations

from math import floor

import numpy as np
from numba import njit

_JIT = {"nogil": True, "cache": True, "error_model": "numpy"}

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
    emit = materials[index, 9]
    if pattern == 0:
        return materials[index, 0], materials[index, 1], materials[index, 2], emit
    # u, v in metres; un, vn in [-1, 1] over the face.
    if face == 0 or face == 1:
        u, v, hu, hv = py, pz, hy, hz
    elif face == 2 or face == 3:
        u, v, hu, hv = px, pz, hx, hz
    elif face == 4 or face == 5:
        u, v, hu, hv = px, py, hx, hy
    else:
        # A rational stand-in for the angle: monotone around the axis, exact.
        w = abs(px) + abs(py) + 1e-9
        u, v, hu, hv = (px / w if py < 0.0 else 2.0 - px / w) * hx * 1.57, pz, hx * 3.14, hz
    un, vn = u / hu, v / hv
    s = materials[index, 7]
    seed = int(materials[index, 10])
    mix = 0.0  # share of colour B
    tone = 1.0
    if pattern == 1:  # planks
        row = floor(v / s)
        long = s * 7.0
        u2 = u + hash01(seed, int(row), 1) * long
        col = floor(u2 / long)
        mix = 0.75 * hash01(seed, int(row), int(col) + 7)
        tone = 0.82 + 0.3 * _noise(u2 / s * 0.7, v / s * 9.0, seed)
        if v - row * s < 0.03 * s or u2 - col * long < 0.02 * s:
            tone *= 0.55
    elif pattern == 2 or pattern == 12:  # tiles, bricks
        row = floor(v / s)
        wide = s if pattern == 2 else 2.6 * s
        u2 = u if pattern == 2 or int(row) & 1 == 0 else u + 0.5 * wide
        col = floor(u2 / wide)
        if v - row * s < 0.06 * s or u2 - col * wide < 0.06 * s:
            mix = 1.0
        else:
            tone = 0.9 + (0.12 if pattern == 2 else 0.3) * hash01(seed, int(row), int(col))
    elif pattern == 3:
        mix = 1.0 if floor(u / s) & 1 else 0.0
    elif pattern == 4:
        mix = 1.0 if (floor(u / s) + floor(v / s)) & 1 else 0.0
    elif pattern == 5:
        mix = 0.6 * _noise(u / s, v / s, seed) + 0.4 * _noise(u / s * 3.7, v / s * 3.7, seed + 1)
    elif pattern == 6:
        mix = 0.5 * hash01(seed, floor(u * 90.0), floor(v * 90.0)) + 0.5 * _noise(u / s, v / s, seed)
    elif pattern == 7:  # spines of books
        col = floor(u / s)
        r, g, b = hash01(seed, col, 1), hash01(seed, col, 2), hash01(seed, col, 3)
        if hv - v > 2.0 * hv * (0.72 + 0.28 * hash01(seed, col, 4)) or vn > 0.55 + 0.45 * hash01(
            seed, col, 4
        ):
            return 0.02, 0.015, 0.01, emit
        edge = u / s - col
        tone = 0.35 if edge < 0.08 else 1.0
        if abs(vn - 0.2) < 0.09 and hash01(seed, col, 5) > 0.5:
            return 0.7 * tone, 0.6 * tone, 0.3 * tone, emit
        tone *= 0.75
        return (0.08 + r * r) * tone, (0.06 + 0.8 * g * g) * tone, (0.06 + 0.8 * b * b) * tone, emit
    elif pattern == 8:  # a computer's screen: a bar, lines of text, a coloured block
        if vn > 0.78:
            mix = 1.0
        elif un < -0.55 and un > -0.9:
            mix = 0.5
        else:
            line = floor(v / s)
            ends = 0.2 + 0.7 * hash01(seed, line, 3)
            if line & 1 and un > -0.4 and un < ends:
                mix = 1.0 if hash01(seed, line, floor(u / s)) > 0.25 else 0.0
    elif pattern == 9:  # an abstract picture
        x, y = un - 0.8 * (hash01(seed, 1, 1) - 0.5), vn - 0.8 * (hash01(seed, 1, 2) - 0.5)
        if x * x + y * y < 0.1 + 0.3 * hash01(seed, 1, 3):
            mix = 1.0
        elif vn < -0.3 + 0.5 * un * (hash01(seed, 1, 4) - 0.5):
            return 1.0 - materials[index, 0], 0.6 * materials[index, 4], 1.0 - materials[index, 2], emit
    elif pattern == 10:  # sky over a line of trees
        trees = -0.55 + 0.5 * _noise(u * 2.2, 0.0, seed) + 0.15 * _noise(u * 11.0, 0.0, seed)
        if vn < trees:
            t = 0.5 + 0.5 * _noise(u * 15.0, v * 15.0, seed)
            return 0.16 * t, 0.3 * t, 0.1 * t, emit * 0.8
        mix = 0.5 - 0.5 * vn
    elif pattern == 11:  # slots of a rack with lights
        row = floor(v / s)
        inside = v / s - row
        if inside < 0.1 or abs(un) > 0.9:
            return 0.01, 0.01, 0.012, 0.0
        if hash01(seed, row, 0) < 0.15:
            return materials[index, 3] * 0.5, materials[index, 4] * 0.5, materials[index, 5] * 0.5, 0.0
        cell = floor((u + hu) / (s * 0.45))
        h = hash01(seed, row, cell + 1)
        if inside > 0.35 and inside < 0.75 and h < 0.55 and hash01(seed, row, 99) > 0.2:
            if h < 0.3:
                return 0.05, 0.95, 0.25, 1.6
            if h < 0.46:
                return 0.08, 0.4, 1.0, 1.8
            return 1.0, 0.5, 0.05, 1.6
        tone = 0.8 + 0.4 * hash01(seed, row, 2)
    elif pattern == 13:  # piano keys: v runs along a key
        cell = floor(u / s)
        at = u / s - cell
        key = int(cell) % 7
        black = key != 2 and key != 6
        if vn > -0.25 and (
            (black and at > 0.68) or (int(cell - 1) % 7 != 2 and int(cell - 1) % 7 != 6 and at < 0.32)
        ):
            mix = 1.0
        elif at < 0.07:
            tone = 0.4
    elif pattern == 14:
        x, y = u / s - floor(u / s) - 0.5, v / s - floor(v / s) - 0.5
        mix = 1.0 if x * x + y * y < 0.06 else 0.0
    elif pattern == 15:  # a rug: borders
        e = min(hu - abs(u), hv - abs(v)) / s
        if (e > 0.5 and e < 1.0) or (e > 1.5 and e < 1.75):
            mix = 1.0
        tone = 0.85 + 0.3 * hash01(seed, floor(u * 80.0), floor(v * 80.0))
    elif pattern == 16:  # a carton: tape along the middle, a label
        if abs(u) < 0.03:
            mix = 1.0
        elif un > 0.3 and un < 0.8 and vn > -0.7 and vn < -0.2 and hash01(seed, 2, 2) > 0.4:
            return 0.75, 0.75, 0.72, emit
        tone = 0.92 + 0.12 * _noise(u * 6.0, v * 25.0, seed)
    elif pattern == 17:  # fronts of drawers or doors: gaps and a handle
        cols = max(1.0, floor(2.0 * hu / s + 0.5))
        w = 2.0 * hu / cols
        at = (u + hu) / w - floor((u + hu) / w)
        tall = (
            2.0 * hv / max(1.0, floor(2.0 * hv / materials[index, 10] + 0.5))
            if materials[index, 10] > 0.0
            else 2.0 * hv
        )
        up = (v + hv) / tall - floor((v + hv) / tall)
        if at * w < 0.018 or up * tall < 0.018:
            tone = 0.3
        elif abs(at - 0.5) * w < 0.07 and up > 0.76 and up * tall < tall * 0.76 + 0.03:
            mix = 1.0
    elif pattern == 18:  # chalk on a board
        line = floor(v / s)
        inside = v / s - line
        if line & 1 and inside > 0.25 and inside < 0.8 and abs(un) < 0.9 and hash01(seed, line, 0) > 0.25:
            part = floor(u / s * 1.6)
            slope = u / s * 1.6 - part
            if un < 0.9 * hash01(seed, line, 1) + 0.1 and hash01(seed, line, part) > 0.25:
                at = slope if hash01(seed, line, part + 500) > 0.5 else 1.0 - slope
                if abs(inside - 0.25 - 0.55 * at) < 0.14:
                    mix = 1.0
        tone = 0.9 + 0.2 * _noise(u * 4.0, v * 4.0, seed)
    elif pattern == 19:  # a mirror: cool gradient with a slanting streak
        mix = 0.5 + 0.5 * vn
        at = un + 0.7 * vn
        if (at > -0.2 and at < 0.1) or (at > 0.2 and at < 0.28):
            tone = 1.25
    elif pattern == 20:  # rings: the door of a washing machine, a target
        r2 = un * un + vn * vn
        if r2 < 0.42:
            return 0.03, 0.05, 0.08, emit
        if r2 < 0.7:
            mix = 1.0
    elif pattern == 21:  # a film: a landscape in wide screen, with bars above and below
        if abs(vn) > 0.88:
            return 0.01, 0.01, 0.01, 0.0
        ridge = -0.35 + 0.7 * _noise(un * 2.5, 0.5, seed) * (0.5 + 0.5 * hash01(seed, 5, 5))
        x, y = un - 1.2 * (hash01(seed, 1, 1) - 0.5), vn - 0.35
        if vn < ridge:
            t = 0.12 + 0.25 * _noise(un * 12.0, vn * 12.0, seed)
            return (
                t * (0.3 + materials[index, 3]),
                t * (0.3 + materials[index, 4]),
                t * (0.3 + materials[index, 5]),
                emit,
            )
        if x * x * 3.0 + y * y < 0.05:
            return 1.0, 0.95, 0.7, emit
        mix = 0.5 - 0.5 * vn
    k = 1.0 - mix
    return (
        (materials[index, 0] * k + materials[index, 3] * mix) * tone,
        (materials[index, 1] * k + materials[index, 4] * mix) * tone,
        (materials[index, 2] * k + materials[index, 5] * mix) * tone,
        emit,
    )
