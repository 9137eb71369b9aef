"""Colours of the surfaces that `raycast` found: soft light, patterns, exposure and the sensor's noise.

Shadows and ambient occlusion are traced with one jittered ray per light on every second pixel, smoothed along
surfaces; colours are averaged over four rays where a pixel holds an edge. The rules of exactness are `raycast`'s.

Letters: H, W image size; h, w the coarse grid of shadows; L lights.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, sqrt

import numpy as np
from numba import njit

from train.rooms.parts import LAMP
from train.rooms.raycast import JIT, SceneArrays, blocked, group_bounds, rasterise, surface
from train.rooms.texture import hash01, texture

_SHELL_SEMANTIC = np.array([0, 0, 0, 0, 1, 2], dtype=np.uint8)  # x=0, x=W, y=0, y=D, floor, ceiling


@njit(**JIT)
def _visibility(depth, code, part_f, part_i, room, shell, lights, camera, reach, seed):
    """Share of each light seen, and openness to ambient light: (h, w, L + 1) on every fourth ray of the fine grid."""
    raw = _trace_lights(depth, code, part_f, part_i, room, shell, lights, camera, reach, seed)
    return _smooth(_smooth(raw, code, 0), code, 1)


@njit(**JIT)
def _trace_lights(depth, code, part_f, part_i, room, shell, lights, camera, reach, seed):
    """One jittered ray to each light and one about the normal, each 0 or 1 (or less, where it leaves the room)."""
    height, width = (code.shape[0] + 3) // 4, (code.shape[1] + 3) // 4
    n_lights = lights.shape[0]
    bounds = group_bounds(part_f, part_i)
    raw = np.empty((height, width, n_lights + 1))
    for i in range(height):
        for j in range(width):
            x, y, z, nx, ny, nz, _, _, _, _, _, _, _, _ = surface(
                4 * i, 4 * j, depth, code, part_f, part_i, room, shell, camera
            )
            x, y, z = x + 2e-3 * nx, y + 2e-3 * ny, z + 2e-3 * nz
            # Stratified over 4 by 4 neighbours, which the smoothing below averages.
            cell = (4 * (i & 3) + (j & 3)) * 7 & 15
            pixel = i * 65536 + j
            for n in range(n_lights):
                turned = (cell + 5 * n) & 15
                ja = ((turned & 3) + hash01(seed, pixel, 2 * n)) * 0.5 - 1.0
                jb = ((turned >> 2) + hash01(seed, pixel, 2 * n + 1)) * 0.5 - 1.0
                tx = lights[n, 0] + lights[n, 3] * ja - x
                ty = lights[n, 1] + lights[n, 4] * jb - y
                tz = lights[n, 2] + lights[n, 5] * (ja if lights[n, 3] == 0.0 else jb) - z
                if nx * tx + ny * ty + nz * tz <= 0.0:
                    raw[i, j, n] = 0.0
                else:
                    raw[i, j, n] = 0.0 if blocked(x, y, z, tx, ty, tz, 0.999, part_f, part_i, bounds) else 1.0
            ja = ((cell & 3) + hash01(seed, pixel, 98)) * 0.6 - 1.2
            jb = ((cell >> 2) + hash01(seed, pixel, 99)) * 0.6 - 1.2
            ax, ay, az = _about_normal(nx, ny, nz, ja, jb, reach)
            open_ = 0.0 if blocked(x, y, z, ax, ay, az, 1.0, part_f, part_i, bounds) else 1.0
            if x + ax < 0.0 or x + ax > room[0] or y + ay < 0.0 or y + ay > room[1]:
                open_ *= 0.45
            if z + az < 0.0 or z + az > room[2]:
                open_ *= 0.45
            raw[i, j, n_lights] = open_
    return raw


@njit(**JIT)
def _about_normal(nx, ny, nz, ja, jb, reach):
    """A ray about the normal, through (ja, jb) of a square on the tangent plane: near enough to cosine weighting."""
    if abs(nz) < 0.9:
        ux, uy, uz = ny, -nx, 0.0
    else:
        ux, uy, uz = 0.0, nz, -ny
    s = 1.0 / sqrt(ux * ux + uy * uy + uz * uz)
    ux, uy, uz = ux * s, uy * s, uz * s
    ax = nx + ja * ux + jb * (ny * uz - nz * uy)
    ay = ny + ja * uy + jb * (nz * ux - nx * uz)
    az = nz + ja * uz + jb * (nx * uy - ny * ux)
    s = reach / sqrt(ax * ax + ay * ay + az * az)
    return ax * s, ay * s, az * s


@njit(**JIT)
def _smooth(raw, code, axis):
    """Five taps along an axis (0: x, 1: y), never across an edge."""
    height, width, layers = raw.shape
    out = np.empty_like(raw)
    for i in range(height):
        for j in range(width):
            here = code[4 * i, 4 * j]
            total = 0.0
            out[i, j, :] = 0.0
            for o in range(-2, 3):
                a, b = (i, j + o) if axis == 0 else (i + o, j)
                if a < 0 or b < 0 or a >= height or b >= width or code[4 * a, 4 * b] != here:
                    continue
                w = 3.0 - abs(o)
                total += w
                for n in range(layers):
                    out[i, j, n] += w * raw[a, b, n]
            for n in range(layers):
                out[i, j, n] /= total
    return out


@njit(**JIT)
def _light(i, j, x, y, z, nx, ny, nz, gloss, code, visibility, lights, camera, sensor, acc, lamp):
    """Adds up the light on a surface point into acc: 0..2 diffuse rgb, 3 highlight, from 4 on the lights seen.

    lamp: what of acc[0:4] lamps give, that is, lights that shine everywhere.
    """
    lamp[:] = 0.0
    n_lights = lights.shape[0]
    height, width = visibility.shape[0], visibility.shape[1]
    here = code[i, j]
    a0, b0 = i // 4, j // 4
    for n in range(n_lights + 1):
        acc[4 + n] = 0.0
    total = 0.0
    for a in range(a0, min(a0 + 2, height)):
        for b in range(b0, min(b0 + 2, width)):
            w = (4.0 - abs(i - 4 * a)) * (4.0 - abs(j - 4 * b)) + 0.01
            if code[4 * a, 4 * b] != here:
                w *= 0.001
            total += w
            for n in range(n_lights + 1):
                acc[4 + n] += w * visibility[a, b, n]
    inv = 1.0 / total
    ambient = acc[4 + n_lights] * inv * (0.8 + 0.2 * nz)
    acc[0], acc[1], acc[2], acc[3] = sensor[0] * ambient, sensor[1] * ambient, sensor[2] * ambient, 0.0
    ex, ey, ez = camera[0] - x, camera[1] - y, camera[2] - z
    es = 1.0 / sqrt(ex * ex + ey * ey + ez * ez + 1e-9)
    for n in range(n_lights):
        v = acc[4 + n] * inv
        if v <= 0.0:
            continue
        lx, ly, lz = lights[n, 0] - x, lights[n, 1] - y, lights[n, 2] - z
        d2 = lx * lx + ly * ly + lz * lz
        s = 1.0 / sqrt(d2 + 1e-9)
        lx, ly, lz = lx * s, ly * s, lz * s
        cosine = nx * lx + ny * ly + nz * lz
        if cosine < 0.06:  # an area light is not cut off where its centre sets
            cosine = 0.06 * 0.5
        v *= cosine / (0.6 + d2)
        directed = lights[n, 9] != 0.0 or lights[n, 10] != 0.0 or lights[n, 11] != 0.0
        if directed:
            v *= max(0.0, -(lights[n, 9] * lx + lights[n, 10] * ly + lights[n, 11] * lz))
        acc[0] += v * lights[n, 6]
        acc[1] += v * lights[n, 7]
        acc[2] += v * lights[n, 8]
        if not directed:
            lamp[0] += v * lights[n, 6]
            lamp[1] += v * lights[n, 7]
            lamp[2] += v * lights[n, 8]
        if gloss > 0.0:
            h = _gleam(nx, ny, nz, lx + ex * es, ly + ey * es, lz + ez * es)
            if h > 0.0:
                power = lights[n, 6] + lights[n, 7] + lights[n, 8]
                shine = gloss * h * acc[4 + n] * inv * power / (3.0 * (0.6 + d2))
                acc[3] += shine
                if not directed:
                    lamp[3] += shine


@njit(**JIT)
def _gleam(nx, ny, nz, bx, by, bz):
    """How much of a light a glossy surface reflects, given the sum of the directions to light and eye: 0 to 1."""
    h = (nx * bx + ny * by + nz * bz) / sqrt(bx * bx + by * by + bz * bz + 1e-9)
    if h <= 0.0:
        return 0.0
    h = h * h
    h = h * h
    h = h * h
    h = h * h
    return h * h


@njit(**JIT)
def _shade(depth, code, part_f, part_i, materials, room, shell, shell_semantic, lights, camera, sensor, seed):
    """Linear colour (H, W, 3) with its exposure mean, what of it lamps give, normals and semantic class per pixel."""
    height, width = code.shape[0] // 2, code.shape[1] // 2
    normals = np.empty((height, width, 3), dtype=np.float32)
    semantic = np.empty((height, width), dtype=np.uint8)
    linear = np.empty((height, width, 3))
    lamps = np.empty((height, width, 3))
    visibility = _visibility(depth, code, part_f, part_i, room, shell, lights, camera, sensor[9], seed)
    acc = np.zeros(4 + lights.shape[0] + 1)
    lamp = np.zeros(4)
    mean = 0.0
    for i in range(height):
        for j in range(width):
            c = code[2 * i, 2 * j]
            semantic[i, j] = shell_semantic[-1 - c] if c < 0 else part_i[c >> 3, 2]
            flat = (
                c == code[2 * i, 2 * j + 1]
                and c == code[2 * i + 1, 2 * j]
                and c == code[2 * i + 1, 2 * j + 1]
            )
            r, g, b = 0.0, 0.0, 0.0
            lr, lg, lb = 0.0, 0.0, 0.0
            count = 0.0
            for sub in range(4):
                # Inside one surface the light is smooth: one sample of it serves, and two of the texture.
                if flat and (sub == 1 or sub == 2):
                    continue
                a, e = 2 * i + (sub >> 1), 2 * j + (sub & 1)
                x, y, z, nx, ny, nz, px, py, pz, hx, hy, hz, m, face = surface(
                    a, e, depth, code, part_f, part_i, room, shell, camera
                )
                if sub == 0:
                    normals[i, j, 0] = nx * camera[3] + ny * camera[4] + nz * camera[5]
                    normals[i, j, 1] = nx * camera[6] + ny * camera[7] + nz * camera[8]
                    normals[i, j, 2] = -(nx * camera[9] + ny * camera[10] + nz * camera[11])
                if sub == 0 or not flat:
                    gloss = materials[m, 8]
                    _light(
                        a, e, x, y, z, nx, ny, nz, gloss, code, visibility, lights, camera, sensor, acc, lamp
                    )
                tr, tg, tb, emit = texture(materials, m, px, py, pz, hx, hy, hz, face)
                r += tr * (acc[0] + emit) + acc[3]
                g += tg * (acc[1] + emit) + acc[3]
                b += tb * (acc[2] + emit) + acc[3]
                hit = code[a, e]
                own = emit if hit >= 0 and part_i[hit >> 3, 2] == LAMP else 0.0
                lr += tr * (lamp[0] + own) + lamp[3]
                lg += tg * (lamp[1] + own) + lamp[3]
                lb += tb * (lamp[2] + own) + lamp[3]
                count += 1.0
                if flat and materials[m, 6] == 0.0:
                    break
            linear[i, j, 0], linear[i, j, 1], linear[i, j, 2] = r / count, g / count, b / count
            lamps[i, j, 0], lamps[i, j, 1], lamps[i, j, 2] = lr / count, lg / count, lb / count
            lum = (r + g + b) / (3.0 * count)
            mean += lum / (1.0 + lum)  # so that a window does not set the exposure alone
    return linear, mean / (height * width), lamps, normals, semantic


@njit(**JIT)
def expose(linear, mean, sensor, seed):
    """The image (H, W, 3) uint8 of linear colours: exposure, white balance, vignetting, tone curve and noise."""
    height, width = linear.shape[0], linear.shape[1]
    image = np.empty((height, width, 3), dtype=np.uint8)
    # Auto-exposure, as cameras have: the mean sets the gain, the sensor's exposure varies it.
    gain = sensor[3] / max(mean, 0.02)
    short = min(height, width)
    for i in range(height):
        v = (2.0 * i + 1.0 - height) / short
        for j in range(width):
            u = (2.0 * j + 1.0 - width) / short
            fall = gain / (1.0 + sensor[7] * (u * u + v * v))
            for n in range(3):
                x = linear[i, j, n] * fall * sensor[4 + n]
                x = x * (1.0 + 0.16 * x) / (1.0 + x)  # a soft shoulder
                x = sqrt(x)
                k = 7 + n * 5
                noise = hash01(seed, i * 65536 + j, k) + hash01(seed, i * 65536 + j, k + 1) - 1.0
                x = 255.0 * (x * 1.12 + sensor[8] * noise) + 0.5
                image[i, j, n] = np.uint8(min(255.0, max(0.0, floor(x))))
    return image


@dataclass(frozen=True)
class Shaded:
    """A scene as a camera meets it, before exposure and noise.

    linear: (H, W, 3) float64, linear colour; lamps: what of it lamps give, their own glow included
    mean: what auto-exposure measures
    normals: (H, W, 3) float32; semantic: (H, W) uint8; depth: (H, W) float32
    """

    linear: np.ndarray
    lamps: np.ndarray
    mean: float
    normals: np.ndarray
    semantic: np.ndarray
    depth: np.ndarray


def shade_arrays(scene: SceneArrays, height: int, width: int) -> Shaded:
    """Traces and lights a scene; `expose` makes an image of it."""
    depth, code = rasterise(scene.part_f, scene.part_i, scene.room, scene.camera, 2 * height, 2 * width)
    linear, mean, lamps, normals, semantic = _shade(
        depth,
        code,
        scene.part_f,
        scene.part_i,
        scene.materials,
        scene.room,
        scene.shell,
        _SHELL_SEMANTIC,
        scene.lights,
        scene.camera,
        scene.sensor,
        scene.noise_seed,
    )
    return Shaded(linear, lamps, mean, normals, semantic, depth[::2, ::2].astype(np.float32))


def render_arrays(
    scene: SceneArrays, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Image (H, W, 3) uint8, normals (H, W, 3) float32, semantic (H, W) uint8, depth (H, W) float32 of a scene."""
    shaded = shade_arrays(scene, height, width)
    image = expose(shaded.linear, shaded.mean, scene.sensor, scene.noise_seed)
    return image, shaded.normals, shaded.semantic, shaded.depth
