"""Ray casting of one scene: which surface each ray meets, and what blocks a ray. Knows no light and no rooms.

Exactness: every value comes from + - * / sqrt floor and comparisons in float64, in a fixed order, and from integer
hashes, so that one scene gives the same bytes on every CPU and numpy version. Hence no sin, cos, exp or pow, no
fastmath (it would reassociate and fuse) and no parallel loops.

Method: the scene is made of convex parts; each is tested only against the rays of its screen rectangle, nearest first
by a depth buffer, on a grid of twice the image's resolution.

Letters: P parts; G groups (a piece of furniture, the unit of shadow culling); M materials; L lights.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, sqrt
from typing import Any

import numpy as np
from numba import njit

BOX, ELLIPSOID, CYLINDER, FRUSTUM = 0, 1, 2, 3
JIT: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
_MISS = 1e30


@dataclass(frozen=True)
class SceneArrays:
    """A scene as plain arrays. World axes: x right, y away from the front wall, z up, in metres.

    part_f: (P, 16) float64: centre 3, world-to-part rotation 9 (row-major), half sizes 3, taper 1
    part_i: (P, 5) int64: kind, material, semantic class, casts a shadow, group; sorted by group
    materials: (M, 11) float64: see `texture.texture`
    room: (3,) float64 width, depth, height; the inside of [0, room]
    shell: (6,) int64 materials of x=0, x=W, y=0, y=D, floor, ceiling
    lights: (L, 12) float64: position 3, half extent 3, rgb 3, direction 3 (zero: shines everywhere)
    camera: (13,) float64: eye 3, right 3, up 3, forward 3, tangent of half the field of view of the short side
    sensor: (10,) float64: ambient rgb 3, exposure, white balance rgb 3, vignetting, noise, occlusion reach in metres
    noise_seed: hash seed of sensor noise and jitter
    """

    part_f: np.ndarray
    part_i: np.ndarray
    materials: np.ndarray
    room: np.ndarray
    shell: np.ndarray
    lights: np.ndarray
    camera: np.ndarray
    sensor: np.ndarray
    noise_seed: int


@njit(**JIT)
def _intersect(kind, ox, oy, oz, dx, dy, dz, hx, hy, hz, k):
    """First hit beyond t = 1e-4 of a ray with a part, in the part's frame: (t, face). Faces 0..5 flat, 6 curved."""
    X, Y, Z = ox / hx, oy / hy, oz / hz
    U, V, Q = dx / hx, dy / hy, dz / hz
    if kind == ELLIPSOID:
        return _meet_ellipsoid(X, Y, Z, U, V, Q)
    if kind == CYLINDER:
        return _meet_cylinder(X, Y, Z, U, V, Q, k)
    return _meet_flat(X, Y, Z, U, V, Q, k)


@njit(**JIT)
def _meet_ellipsoid(X, Y, Z, U, V, Q):
    a = U * U + V * V + Q * Q
    b = X * U + Y * V + Z * Q
    c = X * X + Y * Y + Z * Z - 1.0
    disc = b * b - a * c
    if disc <= 0.0:
        return _MISS, 6
    t = (-b - sqrt(disc)) / a
    return (t, 6) if t > 1e-4 else (_MISS, 6)


@njit(**JIT)
def _meet_cylinder(X, Y, Z, U, V, Q, k):
    """A cylinder, or a cone that is cut off, with its two caps."""
    t_best, face = _MISS, 6
    r0 = 1.0 + k * Z
    a = U * U + V * V - k * k * Q * Q
    b = X * U + Y * V - k * Q * r0
    c = X * X + Y * Y - r0 * r0
    disc = b * b - a * c
    if disc > 0.0 and (a > 1e-12 or a < -1e-12):
        s = sqrt(disc)
        for sign in (-1.0, 1.0):
            t = (-b + sign * s) / a
            z = Z + t * Q
            if t > 1e-4 and t < t_best and z >= -1.0 and z <= 1.0:
                t_best = t
    if Q > 1e-12 or Q < -1e-12:
        for cap in (-1.0, 1.0):
            t = (cap - Z) / Q
            if t > 1e-4 and t < t_best:
                x, y, r = X + t * U, Y + t * V, 1.0 + k * cap
                if x * x + y * y <= r * r:
                    t_best = t
                    face = 4 if cap < 0.0 else 5
    return t_best, face


@njit(**JIT)
def _meet_flat(X, Y, Z, U, V, Q, k):
    """A box, or a frustum whose x and y extents shrink with height by the taper: the planes of six faces."""
    t_in, t_out, face = -_MISS, _MISS, 0
    for i in range(6):
        if i == 0:
            n, v = -X - 1.0 - k * Z, -U - k * Q
        elif i == 1:
            n, v = X - 1.0 - k * Z, U - k * Q
        elif i == 2:
            n, v = -Y - 1.0 - k * Z, -V - k * Q
        elif i == 3:
            n, v = Y - 1.0 - k * Z, V - k * Q
        elif i == 4:
            n, v = -Z - 1.0, -Q
        else:
            n, v = Z - 1.0, Q
        if v < -1e-12:
            t = -n / v
            if t > t_in:
                t_in = t
                face = i
        elif v > 1e-12:
            t = -n / v
            if t < t_out:
                t_out = t
        elif n > 0.0:
            return _MISS, 0
        if t_in > t_out:
            return _MISS, 0
    if t_in > 1e-4:
        return t_in, face
    return _MISS, 0


@njit(**JIT)
def group_bounds(part_f, part_i):
    """(G, 8): axis-aligned bounds 6, first part, last part + 1; of the parts that cast shadows."""
    n_groups = 0
    for p in range(part_i.shape[0]):
        n_groups = max(n_groups, part_i[p, 4] + 1)
    out = np.zeros((n_groups, 8))
    for g in range(n_groups):
        out[g, 0:3] = _MISS
        out[g, 3:6] = -_MISS
        out[g, 6] = -1.0
    for p in range(part_i.shape[0]):
        g = part_i[p, 4]
        if out[g, 6] < 0.0:
            out[g, 6] = p
        out[g, 7] = p + 1
        if part_i[p, 3] == 0:
            continue
        grow = 1.0 + abs(part_f[p, 15])
        for axis in range(3):
            e = 0.0
            for row in range(3):
                e += abs(part_f[p, 3 + 3 * row + axis]) * part_f[p, 12 + row] * grow
            out[g, axis] = min(out[g, axis], part_f[p, axis] - e)
            out[g, 3 + axis] = max(out[g, 3 + axis], part_f[p, axis] + e)
    return out


@njit(**JIT)
def blocked(x, y, z, dx, dy, dz, t_max, part_f, part_i, bounds):
    """Whether any shadow-casting part meets the ray before t_max (in lengths of d)."""
    ix = 1.0 / dx if abs(dx) > 1e-12 else 1e12
    iy = 1.0 / dy if abs(dy) > 1e-12 else 1e12
    iz = 1.0 / dz if abs(dz) > 1e-12 else 1e12
    for g in range(bounds.shape[0]):
        a, b = (bounds[g, 0] - x) * ix, (bounds[g, 3] - x) * ix
        lo, hi = (a, b) if a < b else (b, a)
        a, b = (bounds[g, 1] - y) * iy, (bounds[g, 4] - y) * iy
        if a > b:
            a, b = b, a
        lo, hi = max(lo, a), min(hi, b)
        a, b = (bounds[g, 2] - z) * iz, (bounds[g, 5] - z) * iz
        if a > b:
            a, b = b, a
        lo, hi = max(lo, a), min(hi, b)
        if lo > hi or hi < 0.0 or lo > t_max:
            continue
        for p in range(int(bounds[g, 6]), int(bounds[g, 7])):
            if part_i[p, 3] == 0:
                continue
            cx, cy, cz = x - part_f[p, 0], y - part_f[p, 1], z - part_f[p, 2]
            t, _ = _intersect(
                part_i[p, 0],
                part_f[p, 3] * cx + part_f[p, 4] * cy + part_f[p, 5] * cz,
                part_f[p, 6] * cx + part_f[p, 7] * cy + part_f[p, 8] * cz,
                part_f[p, 9] * cx + part_f[p, 10] * cy + part_f[p, 11] * cz,
                part_f[p, 3] * dx + part_f[p, 4] * dy + part_f[p, 5] * dz,
                part_f[p, 6] * dx + part_f[p, 7] * dy + part_f[p, 8] * dz,
                part_f[p, 9] * dx + part_f[p, 10] * dy + part_f[p, 11] * dz,
                part_f[p, 12],
                part_f[p, 13],
                part_f[p, 14],
                part_f[p, 15],
            )
            if t < t_max:
                return True
    return False


@njit(**JIT)
def rasterise(part_f, part_i, room, camera, height, width):
    """Nearest surface of each ray: depth (height, width) float64 and code int32 (part * 8 + face; -1 - face: shell)."""
    depth = np.empty((height, width))
    code = np.empty((height, width), dtype=np.int32)
    short = min(height, width)
    kx, ky = camera[12] * width / short, camera[12] * height / short
    _cast_at_shell(room, camera, kx, ky, depth, code)
    for p in range(part_i.shape[0]):
        x0, x1, y0, y1 = _screen_rectangle(part_f[p], camera, kx, ky)
        if x0 > x1 or y0 > y1:
            continue
        j0 = max(0, floor((x0 + 1.0) * 0.5 * width - 1.0))
        j1 = min(width, floor((x1 + 1.0) * 0.5 * width + 2.0))
        i0 = max(0, floor((1.0 - y1) * 0.5 * height - 1.0))
        i1 = min(height, floor((1.0 - y0) * 0.5 * height + 2.0))
        _cast_at_part(p, part_f[p], part_i[p, 0], camera, kx, ky, i0, i1, j0, j1, depth, code)
    return depth, code


@njit(**JIT)
def _cast_at_shell(room, camera, kx, ky, depth, code):
    """Fills depth and code with the room's own faces."""
    height, width = code.shape
    for i in range(height):
        sy = (1.0 - (2.0 * i + 1.0) / height) * ky
        for j in range(width):
            sx = ((2.0 * j + 1.0) / width - 1.0) * kx
            best, face = _MISS, 0
            for axis in range(3):
                d = camera[9 + axis] + sx * camera[3 + axis] + sy * camera[6 + axis]
                if d > 1e-9:
                    t = (room[axis] - camera[axis]) / d
                    if t < best:
                        best, face = t, 2 * axis + 1
                elif d < -1e-9:
                    t = -camera[axis] / d
                    if t < best:
                        best, face = t, 2 * axis
            depth[i, j] = best
            code[i, j] = -1 - face


@njit(**JIT)
def _screen_rectangle(f, camera, kx, ky):
    """The part of the screen, -1 to 1 in x and y, that holds a part; x0 > x1 where it is out of sight."""
    hx, hy, hz = f[12], f[13], f[14]
    rx, ry, rz = f[0] - camera[0], f[1] - camera[1], f[2] - camera[2]
    grow = 1.0 + abs(f[15])
    x0, x1, y0, y1 = _MISS, -_MISS, _MISS, -_MISS
    behind = 0
    for corner in range(8):
        a = hx * grow if corner & 1 else -hx * grow
        b = hy * grow if corner & 2 else -hy * grow
        c = hz if corner & 4 else -hz
        wx = rx + f[3] * a + f[6] * b + f[9] * c
        wy = ry + f[4] * a + f[7] * b + f[10] * c
        wz = rz + f[5] * a + f[8] * b + f[11] * c
        q = camera[9] * wx + camera[10] * wy + camera[11] * wz
        if q < 0.05:
            behind += 1
            continue
        u = (camera[3] * wx + camera[4] * wy + camera[5] * wz) / (q * kx)
        v = (camera[6] * wx + camera[7] * wy + camera[8] * wz) / (q * ky)
        x0, x1, y0, y1 = min(x0, u), max(x1, u), min(y0, v), max(y1, v)
    if behind == 8:
        return 1.0, -1.0, 1.0, -1.0
    if behind > 0:
        x0, x1, y0, y1 = -1.0, 1.0, -1.0, 1.0
    return max(x0, -1.1), min(x1, 1.1), max(y0, -1.1), min(y1, 1.1)


@njit(**JIT)
def _cast_at_part(p, f, kind, camera, kx, ky, i0, i1, j0, j1, depth, code):
    """Tests part p against the rays of rows i0..i1 and columns j0..j1, and keeps its hits that are nearest so far."""
    height, width = code.shape
    rx, ry, rz = f[0] - camera[0], f[1] - camera[1], f[2] - camera[2]
    ox = -(f[3] * rx + f[4] * ry + f[5] * rz)
    oy = -(f[6] * rx + f[7] * ry + f[8] * rz)
    oz = -(f[9] * rx + f[10] * ry + f[11] * rz)
    # The camera's axes in the part's frame: a ray's direction is then three multiply-adds.
    ax = np.empty(9)
    for n in range(3):
        for m in range(3):
            ax[3 * n + m] = (
                f[3 + 3 * m] * camera[3 + 3 * n]
                + f[4 + 3 * m] * camera[4 + 3 * n]
                + f[5 + 3 * m] * camera[5 + 3 * n]
            )
    for i in range(i0, i1):
        sy = (1.0 - (2.0 * i + 1.0) / height) * ky
        for j in range(j0, j1):
            sx = ((2.0 * j + 1.0) / width - 1.0) * kx
            dx = ax[6] + sx * ax[0] + sy * ax[3]
            dy = ax[7] + sx * ax[1] + sy * ax[4]
            dz = ax[8] + sx * ax[2] + sy * ax[5]
            t, face = _intersect(kind, ox, oy, oz, dx, dy, dz, f[12], f[13], f[14], f[15])
            if t < depth[i, j]:
                depth[i, j] = t
                code[i, j] = p * 8 + face


@njit(**JIT)
def surface(i, j, depth, code, part_f, part_i, room, shell, camera):
    """World point, world normal, part-frame point and half sizes, material and face of one ray's hit."""
    height, width = code.shape
    short = min(height, width)
    sx = ((2.0 * j + 1.0) / width - 1.0) * (camera[12] * width / short)
    sy = (1.0 - (2.0 * i + 1.0) / height) * (camera[12] * height / short)
    t = depth[i, j]
    x = camera[0] + t * (camera[9] + sx * camera[3] + sy * camera[6])
    y = camera[1] + t * (camera[10] + sx * camera[4] + sy * camera[7])
    z = camera[2] + t * (camera[11] + sx * camera[5] + sy * camera[8])
    c = code[i, j]
    if c < 0:
        face = -1 - c
        n = 1.0 if face & 1 == 0 else -1.0
        nx = n if face < 2 else 0.0
        ny = n if face == 2 or face == 3 else 0.0
        nz = n if face > 3 else 0.0
        hx, hy, hz = room[0] * 0.5, room[1] * 0.5, room[2] * 0.5
        return x, y, z, nx, ny, nz, x - hx, y - hy, z - hz, hx, hy, hz, shell[face], face
    p, face = c >> 3, c & 7
    px = (
        part_f[p, 3] * (x - part_f[p, 0])
        + part_f[p, 4] * (y - part_f[p, 1])
        + part_f[p, 5] * (z - part_f[p, 2])
    )
    py = (
        part_f[p, 6] * (x - part_f[p, 0])
        + part_f[p, 7] * (y - part_f[p, 1])
        + part_f[p, 8] * (z - part_f[p, 2])
    )
    pz = (
        part_f[p, 9] * (x - part_f[p, 0])
        + part_f[p, 10] * (y - part_f[p, 1])
        + part_f[p, 11] * (z - part_f[p, 2])
    )
    hx, hy, hz, k = part_f[p, 12], part_f[p, 13], part_f[p, 14], part_f[p, 15]
    a, b, c2 = 0.0, 0.0, 0.0
    if face == 6:
        a, b = px / (hx * hx), py / (hy * hy)
        c2 = pz / (hz * hz) if part_i[p, 0] == 1 else -k * (1.0 + k * pz / hz) / hz
    elif face == 0:
        a, c2 = -1.0 / hx, -k / hz
    elif face == 1:
        a, c2 = 1.0 / hx, -k / hz
    elif face == 2:
        b, c2 = -1.0 / hy, -k / hz
    elif face == 3:
        b, c2 = 1.0 / hy, -k / hz
    elif face == 4:
        c2 = -1.0
    else:
        c2 = 1.0
    nx = part_f[p, 3] * a + part_f[p, 6] * b + part_f[p, 9] * c2
    ny = part_f[p, 4] * a + part_f[p, 7] * b + part_f[p, 10] * c2
    nz = part_f[p, 5] * a + part_f[p, 8] * b + part_f[p, 11] * c2
    s = 1.0 / sqrt(nx * nx + ny * ny + nz * nz)
    return x, y, z, nx * s, ny * s, nz * s, px, py, pz, hx, hy, hz, part_i[p, 1], face
