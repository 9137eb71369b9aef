"""The empty room: geometry, surfaces, door, windows, lights, camera and sensor, drawn without knowing the category."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import sqrt

from train.rooms import texture as tx
from train.rooms.parts import (
    CEILING,
    DOOR,
    LAMP,
    WALL,
    WINDOW,
    Materials,
    Rgb,
    Stream,
    Thing,
    hue,
    scaled,
)

Rect = tuple[float, float, float, float]  # x0, y0, x1, y1 in metres
LEFT, RIGHT, BACK = 0, 1, 2
LEAF = (0, 1, 2, 6)  # parts of a door: leaf, two panels, handle; the hinge is on the side of negative x
QUARTER = {LEFT: 1, RIGHT: 3, BACK: 0}  # turns a thing's back to the wall


@dataclass
class Shell:
    """An empty room with its camera.

    room: width, depth, height in metres; the camera stands near y = 0 and looks towards y = depth
    surfaces: material rows' indices of x=0, x=W, y=0, y=D, floor, ceiling
    fixed: things of the building with place (x, y) and quarter turns
    blocked: footprints where nothing may stand; openings: windows as (wall, from, to) along the wall
    lights: rows of `raycast.SceneArrays.lights`; camera and sensor likewise
    door: the place of the door in `fixed`, if there is one; its parts LEAF are those that open
    """

    room: tuple[float, float, float]
    materials: Materials
    surfaces: tuple[int, ...] = ()
    fixed: list[tuple[Thing, float, float, int]] = field(default_factory=list)
    blocked: list[Rect] = field(default_factory=list)
    openings: list[tuple[int, float, float]] = field(default_factory=list)
    lights: list[tuple[float, ...]] = field(default_factory=list)
    camera: tuple[float, ...] = ()
    sensor: tuple[float, ...] = ()
    door: int | None = None

    def on_wall(self, wall: int, along: float, away: float) -> tuple[float, float]:
        """The point `along` metres along a wall and `away` metres from it."""
        w, d, _ = self.room
        return ((away, along), (w - away, along), (along, d - away))[wall]

    def length(self, wall: int) -> float:
        """The length of a wall in metres."""
        return self.room[0] if wall == BACK else self.room[1]

    def project(self, x: float, y: float, z: float) -> tuple[float, float, float]:
        """Where a point appears: right and up in [-1, 1] inside a square view, and depth in metres."""
        c = self.camera
        x, y, z = x - c[0], y - c[1], z - c[2]
        q = c[9] * x + c[10] * y + c[11] * z
        k = 1.0 / (max(q, 1e-3) * c[12])
        return (c[3] * x + c[4] * y + c[5] * z) * k, (c[6] * x + c[7] * y + c[8] * z) * k, q


def sample_shell(seed: int, attempt: int = 0) -> Shell:
    """The empty room of a seed; takes no category, so nothing in it can hint at one."""
    st = Stream(seed, "shell", attempt)
    room = (st.u(3.8, 6.0), st.u(4.2, 6.2), st.u(2.35, 3.1))
    shell = Shell(room, Materials(Stream(seed, "shell materials", attempt)))
    shell.surfaces = _surfaces(st, shell.materials)
    shell.camera = _camera(st, room)
    _structure(st, shell)
    for wall in (LEFT, RIGHT, BACK):
        if st.chance(0.4):
            _window(st, shell, wall)
    if st.chance(0.6):
        _door(st, shell)
    _ceiling_lights(st, shell)
    warm = st.u(-0.08, 0.08)
    level = st.u(0.22, 0.45)
    balance = (1.0 + warm, 1.0 + st.u(-0.03, 0.03), 1.0 - warm)
    ambient = tuple(level * (1.0 + st.u(-0.08, 0.08)) for _ in range(3))
    shell.sensor = (*ambient, st.u(0.2, 0.32), *balance, st.u(0.0, 0.22), st.u(0.006, 0.028), st.u(0.6, 1.1))
    return shell


def _surfaces(st: Stream, m: Materials) -> tuple[int, ...]:
    a = hue(st, (0.0, 0.55), (0.12, 0.7))
    b = scaled(a, st.u(0.55, 0.85))
    kind = st.n(0, 6)
    if kind <= 1:
        wood = st.pick(
            ((0.45, 0.25, 0.11), (0.6, 0.4, 0.2), (0.25, 0.12, 0.05), (0.65, 0.5, 0.32), (0.3, 0.28, 0.25))
        )
        floor = m.add(wood, scaled(wood, 0.65), tx.PLANKS, st.u(0.08, 0.2), gloss=st.u(0.0, 0.35))
    elif kind == 2:
        floor = m.add(a, scaled(a, st.pick((0.5, 1.4))), tx.TILES, st.u(0.25, 0.6), gloss=st.u(0.1, 0.4))
    elif kind == 3:
        floor = m.add(a, b, tx.CARPET, st.u(0.2, 0.6))
    elif kind == 4:
        floor = m.add(a, scaled(a, st.pick((0.45, 1.6))), tx.CHECKS, st.u(0.25, 0.5), gloss=st.u(0.1, 0.4))
    elif kind == 5:
        floor = m.add(a, b, tx.PLASTER, st.u(0.3, 0.8), gloss=st.u(0.0, 0.3))
    else:
        floor = m.add(a, b, tx.STRIPES, st.u(0.15, 0.4))

    def wall(c: Rgb) -> int:
        kind = st.n(0, 7)
        if kind <= 2:
            return m.add(c)
        if kind <= 4:
            return m.add(c, scaled(c, 0.88), tx.PLASTER, st.u(0.1, 0.6))
        if kind == 5:
            return m.add(c, scaled(c, st.u(0.75, 0.9)), tx.STRIPES, st.u(0.08, 0.3))
        if kind == 6:
            return m.add(c, scaled(c, 1.25), tx.BRICK, st.u(0.08, 0.12))
        return m.add(c, scaled(c, st.pick((0.7, 1.3))), tx.TILES, st.u(0.12, 0.35), gloss=0.2)

    c = hue(st, (0.0, 0.5), (0.25, 0.88))
    main = wall(c)
    walls = [main] * 4
    if st.chance(0.35):
        walls[st.pick((0, 1, 3))] = wall(hue(st, (0.0, 0.65), (0.12, 0.85)))
    top = scaled(hue(st, (0.0, 0.15), (0.6, 0.9)), 1.0)
    if st.chance(0.2):
        ceiling = m.add(scaled(top, 0.6), scaled(top, 0.4), tx.PLANKS, st.u(0.1, 0.2))
    elif st.chance(0.2):
        ceiling = m.add(top, scaled(top, 0.6), tx.TILES, 0.6)
    else:
        ceiling = m.add(top)
    return (*walls, floor, ceiling)


def _camera(st: Stream, room: tuple[float, float, float]) -> tuple[float, ...]:
    eye = (room[0] * st.u(0.15, 0.85), st.u(0.2, 0.7), st.u(1.3, 2.05))
    aim = (room[0] * st.u(0.3, 0.7), room[1] * st.u(0.62, 0.85), st.u(0.5, 0.95))
    f = [aim[i] - eye[i] for i in range(3)]
    n = 1.0 / sqrt(f[0] * f[0] + f[1] * f[1] + f[2] * f[2])
    f = [v * n for v in f]
    n = 1.0 / sqrt(f[0] * f[0] + f[1] * f[1])
    r = [f[1] * n, -f[0] * n, 0.0]
    u = [r[1] * f[2] - r[2] * f[1], r[2] * f[0] - r[0] * f[2], r[0] * f[1] - r[1] * f[0]]
    t = st.u(-0.03, 0.03)  # roll, as the tangent of its half
    k = 1.0 / (1.0 + t * t)
    c, s = (1.0 - t * t) * k, 2.0 * t * k
    right = [c * r[i] + s * u[i] for i in range(3)]
    up = [c * u[i] - s * r[i] for i in range(3)]
    return (*eye, *right, *up, *f, st.u(0.52, 0.76))


def _structure(st: Stream, shell: Shell) -> None:
    """Skirting boards, and sometimes a corner built out (an L-shaped room), a column, or beams."""
    w, d, h = shell.room
    m = shell.materials
    wall = shell.surfaces[0]
    skirt = m.add(scaled(hue(st, (0.0, 0.4), (0.2, 0.9)), 1.0))
    if st.chance(0.7):
        t = Thing()
        tall = st.u(0.06, 0.14)
        t.box(w * 0.5, d - 0.01, 0, w, 0.02, tall, skirt, WALL, shadow=False)
        t.box(0.01, d * 0.5, 0, 0.02, d, tall, skirt, WALL, shadow=False)
        t.box(w - 0.01, d * 0.5, 0, 0.02, d, tall, skirt, WALL, shadow=False)
        shell.fixed.append((t, 0.0, 0.0, 0))
    kind = st.n(0, 5)
    if kind == 0:  # a corner built out
        cw, cd = st.u(0.5, 1.0), st.u(0.5, 1.2)
        x = cw * 0.5 if st.chance(0.5) else w - cw * 0.5
        t = Thing()
        t.box(x, d - cd * 0.5, 0, cw, cd, h, wall, WALL)
        shell.fixed.append((t, 0.0, 0.0, 0))
        shell.blocked.append((x - cw * 0.5, d - cd, x + cw * 0.5, d))
    elif kind == 1:  # pilasters on a side wall
        t = Thing()
        x = st.pick((0.09, w - 0.09))
        for y in (d * 0.5, d * 0.85):
            t.box(x, y, 0, 0.18, 0.3, h, wall, WALL)
            shell.blocked.append((x - 0.09, y - 0.15, x + 0.09, y + 0.15))
        shell.fixed.append((t, 0.0, 0.0, 0))
    if st.chance(0.2):  # beams
        t = Thing()
        beam = m.wood() if st.chance(0.6) else shell.surfaces[5]
        for i in range(1, 4):
            t.box(w * 0.5, d * i * 0.25, h - 0.16, w, 0.14, 0.16, beam, CEILING)
        shell.fixed.append((t, 0.0, 0.0, 0))


def _window(st: Stream, shell: Shell, wall: int) -> None:
    m = shell.materials
    n, h = shell.length(wall), shell.room[2]
    w, tall, sill = st.u(0.8, 1.6), st.u(0.9, 1.3), st.u(0.85, 1.05)
    tall = min(tall, h - 0.3 - sill)
    at = st.u(0.5 * w + 0.3, n - 0.5 * w - 0.3) if wall == BACK else st.u(0.35 * n, n - 0.5 * w - 0.2)
    frame = m.add((0.8, 0.8, 0.78)) if st.chance(0.6) else m.wood()
    day = st.u(0.5, 1.8)
    sky = m.add((0.25, 0.45, 0.8), (0.8, 0.85, 0.9), tx.SKY, glow=day)
    t = Thing()
    t.box(0, 0, sill, w, 0.02, tall, sky, WINDOW, shadow=False)
    for x in (-w * 0.5, 0.0, w * 0.5):
        t.box(x, -0.02, sill, 0.06, 0.06, tall, frame, WINDOW, shadow=False)
    for z in (sill - 0.03, sill + tall * 0.62, sill + tall - 0.03):
        t.box(0, -0.02, z, w + 0.06, 0.06, 0.06, frame, WINDOW, shadow=False)
    t.box(0, -0.06, sill - 0.06, w + 0.16, 0.16, 0.04, frame, WINDOW)
    x, y = shell.on_wall(wall, at, 0.01)
    shell.fixed.append((t, x, y, QUARTER[wall]))
    shell.openings.append((wall, at - w * 0.5, at + w * 0.5))
    if len(shell.lights) < 2:
        x, y = shell.on_wall(wall, at, 0.12)
        inward = ((1.0, 0.0, 0.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0))[wall]
        half = (w * 0.45, 0.0, tall * 0.45) if wall == BACK else (0.0, w * 0.45, tall * 0.45)
        k = day * st.u(2.0, 4.0)
        shell.lights.append((x, y, sill + tall * 0.5, *half, k * 0.92, k, k * 1.1, *inward))


def _door(st: Stream, shell: Shell) -> None:
    m = shell.materials
    wall = st.pick((LEFT, RIGHT, BACK))
    w = st.u(0.78, 0.95)
    at = st.u(0.6, shell.length(wall) - 0.6)
    for other, a, b in shell.openings:
        if other == wall and a - 0.15 < at + w * 0.5 and at - w * 0.5 < b + 0.15:
            return
    leaf = m.wood() if st.chance(0.5) else m.paint()
    frame = m.add((0.8, 0.8, 0.78)) if st.chance(0.6) else m.wood()
    t = Thing()
    t.box(0, 0, 0, w, 0.05, 2.0, leaf, DOOR)
    for z, tall in ((0.2, 0.65), (1.0, 0.8)):
        t.box(0, -0.03, z, w * 0.66, 0.02, tall, leaf, DOOR)
    for s in (-1, 1):
        t.box(s * (w * 0.5 + 0.04), -0.01, 0, 0.08, 0.07, 2.08, frame, DOOR)
    t.box(0, -0.01, 2.0, w + 0.16, 0.07, 0.08, frame, DOOR)
    t.box(w * 0.38, -0.06, 1.0, 0.12, 0.04, 0.03, m.add((0.5, 0.5, 0.5), gloss=0.7), DOOR)
    x, y = shell.on_wall(wall, at, 0.03)
    shell.door = len(shell.fixed)
    shell.fixed.append((t, x, y, QUARTER[wall]))
    (x0, y0), (x1, y1) = shell.on_wall(wall, at - w * 0.6, 0.0), shell.on_wall(wall, at + w * 0.6, 0.6)
    shell.blocked.append((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)))


def _ceiling_lights(st: Stream, shell: Shell) -> None:
    w, d, h = shell.room
    m = shell.materials
    count = st.n(1, 2)
    tint = (1.0, st.u(0.86, 1.0), st.u(0.7, 1.0))
    style = st.n(0, 2)
    for i in range(count):
        x, y = w * st.u(0.3, 0.7), d * (st.u(0.35, 0.7) if count == 1 else (0.25, 0.65)[i] + st.u(0.0, 0.1))
        glow = m.add(tint, glow=st.u(1.2, 2.5))
        t = Thing()
        if style == 0:
            t.tube(0, 0, h - 0.08, st.u(0.15, 0.28), 0.08, glow, LAMP, taper=0.1, shadow=False)
        elif style == 1:
            t.box(0, 0, h - 0.05, st.u(0.5, 1.2), 0.25, 0.05, glow, LAMP, shadow=False)
        else:
            drop = st.u(0.15, 0.35)
            t.tube(0, 0, h - drop, 0.01, drop, m.grey(0.02, 0.4), LAMP, shadow=False)
            t.ball(0, 0, h - drop - 0.05, 0.14, 0.14, 0.12, glow, LAMP, shadow=False)
        shell.fixed.append((t, x, y, 0))
        k = st.u(3.5, 7.0) / count
        shell.lights.append(
            (x, y, h - 0.3, 0.22, 0.22, 0.05, k * tint[0], k * tint[1], k * tint[2], 0.0, 0.0, 0.0)
        )
