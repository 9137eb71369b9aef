"""What happens in a room while a fixed camera looks on: one event, as the changes that each frame shows.

An event is a function of a layout, a random stream and the clock. It returns a script (frame -> `Changes`), or None in
a room that cannot show it. Frame 0 is the room as its seed made it, except that a person may be walking there already.
Knows no light levels, no noise and no pixels. The rules of exactness are `raycast`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from math import floor, sqrt

from train.rooms import furniture as fu
from train.rooms import texture as tx
from train.rooms.layout import Layout, Placed
from train.rooms.parts import DOOR, IDENTITY, LAMP, Materials, Stream, Thing, rotated, turn
from train.rooms.people import person
from train.rooms.raycast import BOX
from train.rooms.shell import LEAF, Rect, Shell
from train.rooms.venues import carton

Point = tuple[float, float]


@dataclass(frozen=True)
class Changes:
    """What differs from the room as its seed made it.

    replaced: (place in `Layout.all_placed`, what is there now, or None for nothing); added: further things
    off: lights that are switched off; camera: its new row, if it is another
    """

    replaced: tuple[tuple[int, Placed | None], ...] = ()
    added: tuple[Placed, ...] = ()
    off: tuple[int, ...] = ()
    camera: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Clock:
    """The frames of a sequence: how many, and how many a second."""

    frames: int
    fps: float

    def start(self, st: Stream) -> int:
        """The first frame that an event shows in: 1 to two thirds of the sequence."""
        return st.n(1, max(1, 2 * self.frames // 3))

    def share(self, frame: int, start: int, seconds: float) -> float:
        """How far something has gone that starts to show in frame `start` and takes so long: 0 to 1."""
        return min(1.0, max(0.0, (frame - start + 1) / max(1.0, seconds * self.fps)))


Script = Callable[[int], Changes]
Event = Callable[[Layout, Stream, Materials, Clock], Script | None]
STILL = Changes()


# A person.


def walk(layout: Layout, st: Stream, m: Materials, clock: Clock) -> Script:
    """A person comes from out of view, walks through the room and leaves; in view in one frame at least."""
    who, speed = person(st, m), st.u(0.7, 1.4)
    route, in_view = _route(layout, st)
    frame_seen = st.n(min(1, clock.frames - 1), clock.frames - 1)
    seen_at = st.pick(in_view)  # metres along the route in that frame

    def script(frame: int) -> Changes:
        along = seen_at + speed * (frame - frame_seen) / clock.fps
        left = along
        for a, b, length in _legs(route):
            if 0.0 <= left <= length:
                dx, dy = (b[0] - a[0]) / length, (b[1] - a[1]) / length
                thing = who.pose(along / (0.8 * who.height))
                return Changes(added=((thing, a[0] + dx * left, a[1] + dy * left, -dy, dx),))
            left -= length
        return STILL

    return script


def _legs(route: list[Point]) -> list[tuple[Point, Point, float]]:
    """From corner to corner, with the distance in metres."""
    return [
        (a, b, max(1e-3, sqrt((a[0] - b[0]) * (a[0] - b[0]) + (a[1] - b[1]) * (a[1] - b[1]))))
        for a, b in pairwise(route)
    ]


def _route(layout: Layout, st: Stream) -> tuple[list[Point], list[float]]:
    """A way through the room, of several the one that meets least, by its corners; and where on it one is seen, m."""
    best: tuple[int, list[Point], list[float]] | None = None
    for _ in range(24):
        route = [_out_of_view(layout, st)]
        route += [_in_view(layout, st) for _ in range(st.n(1, 2))]
        route.append(_out_of_view(layout, st))
        met, in_view, before = 0, [], 0.0
        for a, b, length in _legs(route):
            for i in range(1 + floor(length / 0.2)):
                k = 0.2 * i / length
                x, y = a[0] + k * (b[0] - a[0]), a[1] + k * (b[1] - a[1])
                met += not layout.fits((x - 0.2, y - 0.2, x + 0.2, y + 0.2), 0.0, near=0.6)
                if layout.seen(x, y, 1.0):
                    in_view.append(before + 0.2 * i)
            before += length
        met += 0 if in_view else 1000
        if best is None or met < best[0]:
            best = met, route, in_view or [0.5 * before]
    assert best is not None
    return best[1], best[2]


def _in_view(layout: Layout, st: Stream) -> Point:
    """A place in view, free where one is found."""
    w, d, _ = layout.shell.room
    place = w * 0.5, d * 0.6
    for _ in range(48):
        x, y = st.u(0.3, w - 0.3), st.u(d * 0.3, d - 0.3)
        if layout.seen(x, y, 1.0):
            place = x, y
            if layout.fits((x - 0.22, y - 0.22, x + 0.22, y + 0.22), near=1.2):
                break
    return place


def _out_of_view(layout: Layout, st: Stream) -> Point:
    """A place in the room where nobody is seen by a square view: next to the camera or behind it."""
    w, d, _ = layout.shell.room
    tangent = layout.shell.camera[12]
    best: tuple[float, Point] = (-1e9, (0.3, 0.3))
    for _ in range(32):
        x, y = st.u(0.3, w - 0.3), st.u(0.25, d * 0.6)
        u, _, q = layout.shell.project(x, y, 1.0)
        sideways = abs(u) * max(q, 1e-3) * tangent  # metres from the camera's axis
        margin = max(sideways - max(q, 0.0) * tangent, -q)
        best = max(best, (margin, (x, y)))
        if margin > 0.45:
            break
    return best[1]


# Things.


def move_thing(layout: Layout, st: Stream, m: Materials, clock: Clock) -> Script | None:
    """A chair, a carton or the like is moved, is taken away, or appears (and perhaps goes again)."""
    start = clock.start(st)
    movable = [i for i, placed in enumerate(layout.all_placed()) if _is_movable(layout, i, placed)]
    if not movable or st.chance(0.4):
        return _appears(layout, st, m, clock, start)
    place = st.pick(movable)
    thing, x, y, c, s = layout.all_placed()[place]
    to = _free_place(layout, st, thing, x, y) if st.chance(0.6) else None
    if to is None:
        return lambda frame: Changes(replaced=((place, None),)) if frame >= start else STILL
    seconds, (dx, dy) = st.u(0.4, 2.0), (to[0] - x, to[1] - y)

    def script(frame: int) -> Changes:
        k = clock.share(frame, start, seconds)
        return Changes(replaced=((place, (thing, x + k * dx, y + k * dy, c, s)),)) if k else STILL

    return script


def _appears(layout: Layout, st: Stream, m: Materials, clock: Clock, start: int) -> Script | None:
    thing = (
        carton(st, m, st.u(0.3, 0.55), st.u(0.3, 0.45), st.u(0.25, 0.5))
        if st.chance(0.6)
        else fu.plain_chair(st, m)
    )
    layout.st = st
    if not layout.free(thing):
        return None
    placed = layout.placed.pop()
    end = st.n(start + 1, max(start + 1, clock.frames)) if st.chance(0.4) else clock.frames
    return lambda frame: Changes(added=(placed,)) if start <= frame < end else STILL


def _is_movable(layout: Layout, place: int, placed: Placed) -> bool:
    """Whether somebody could carry it: it stands on the floor, in view, gives no light and no hint of the category."""
    thing, x, y, _, _ = placed
    return (
        place >= len(layout.shell.fixed)
        and not thing.signature
        and 0.2 < thing.size[2] < 1.3
        and min(part[1][2] - part[3][2] for part in thing.parts) < 0.1
        and all(part[6] != LAMP for part in thing.parts)
        and layout.seen(x, y, thing.size[2] * 0.5)
    )


def _free_place(layout: Layout, st: Stream, thing: Thing, x: float, y: float) -> Point | None:
    """Another place for a thing, 0.4 m to 1.7 m away, with nothing there or half-way; None if none is found."""
    r = 0.5 * max(thing.size[0], thing.size[1])
    kept = layout.taken
    layout.taken = [b for b in kept if not (b[0] < x < b[2] and b[1] < y < b[3])]
    try:
        for _ in range(48):
            dx, dy = st.u(-1.2, 1.2), st.u(-1.2, 1.2)
            if dx * dx + dy * dy < 0.16:
                continue
            ways: list[Rect] = [
                (x + k * dx - r, y + k * dy - r, x + k * dx + r, y + k * dy + r) for k in (0.5, 1.0)
            ]
            if all(layout.fits(rect) for rect in ways):
                return x + dx, y + dy
    finally:
        layout.taken = kept
    return None


# The door, the lamps, the camera.


def open_door(layout: Layout, st: Stream, m: Materials, clock: Clock) -> Script | None:
    """The door opens into the room, and is perhaps closed again. None where no door is in view."""
    place = layout.shell.door
    if place is None:
        return None
    closed = layout.all_placed()[place]
    thing, x, y, c, s = closed
    if not layout.seen(x, y, 1.0):
        return None
    beyond = (
        m.grey(0.05, 0.6) if st.chance(0.5) else m.add((0.5, 0.48, 0.42), (0.4, 0.38, 0.33), tx.PLASTER, 0.5)
    )
    m.rows[beyond] = (*m.rows[beyond][:9], st.u(0.0, 0.5), m.rows[beyond][10])  # dark, or lit
    half = thing.parts[LEAF[0]][3]
    # The tangent of half the angle: as wide as there is room, at least what the free floor before a door allows.
    widest = 0.3
    for tangent in (1.0, 0.6):
        sine, cosine = (
            2 * tangent / (1 + tangent * tangent),
            (1 - tangent * tangent) / (1 + tangent * tangent),
        )
        edge = -half[0] + 2 * half[0] * cosine, -2 * half[0] * sine
        tip = (x + c * edge[0] - s * edge[1], y + s * edge[0] + c * edge[1])
        if layout.fits((tip[0] - 0.05, tip[1] - 0.05, tip[0] + 0.05, tip[1] + 0.05)):
            widest = tangent
            break
    start, seconds = clock.start(st), st.u(0.4, 1.5)
    end = st.n(start + 1, max(start + 1, clock.frames)) if st.chance(0.4) else clock.frames

    def script(frame: int) -> Changes:
        k = clock.share(frame, start, seconds) - clock.share(frame, end, seconds)
        if k <= 0.0:
            return STILL
        return Changes(replaced=((place, (_opened(thing, k * widest, beyond), x, y, c, s)),))

    return script


def _opened(door: Thing, tangent: float, beyond: int) -> Thing:
    """A door whose leaf is turned about its hinge by the angle whose half has that tangent."""
    spin = turn(2, -tangent)
    (_, (_, y, z), _, (w, d, h), *_) = door.parts[LEAF[0]]
    hinge = -w, y - d
    parts = list(door.parts)
    for i in LEAF:
        kind, at, own, half, taper, material, semantic, shadow = parts[i]
        px, py = at[0] - hinge[0], at[1] - hinge[1]
        moved = (
            hinge[0] + spin[0] * px + spin[1] * py,
            hinge[1] + spin[3] * px + spin[4] * py,
            at[2],
        )
        parts[i] = (kind, moved, rotated(spin[0], spin[3], own), half, taper, material, semantic, shadow)
    parts.append((BOX, (0.0, y + d * 0.8, z), IDENTITY, (w, d * 0.1, h), 0.0, beyond, DOOR, False))
    return Thing(parts, door.size)


def switch_lamp(layout: Layout, st: Stream, m: Materials, clock: Clock) -> Script | None:
    """A lamp goes out, perhaps with all the others of the ceiling, and is perhaps lit again."""
    lights = layout.shell.lights
    lamps = [i for i, light in enumerate(lights) if not any(light[9:12])]
    if not lamps:
        return None
    chosen = st.pick(lamps)
    off: tuple[int, ...] = (chosen,)
    if st.chance(0.6):
        off = tuple(i for i in lamps if lights[i][2] == lights[chosen][2])
    start = clock.start(st)
    end = st.n(start + 1, max(start + 1, clock.frames)) if st.chance(0.4) else clock.frames
    return lambda frame: Changes(off=off) if start <= frame < end else STILL


def knock_camera(layout: Layout, st: Stream, m: Materials, clock: Clock) -> Script:
    """The camera is knocked: it jumps by one or a few degrees and some millimetres, and stays."""
    start = clock.start(st)
    eye, axes, rest = layout.shell.camera[:3], layout.shell.camera[3:12], layout.shell.camera[12:]
    for axis, low, high in ((1, 0.006, 0.03), (0, 0.004, 0.025), (2, 0.0, 0.015)):
        spin = turn(axis, st.pick((-1.0, 1.0)) * st.u(low, high))
        axes = tuple(
            spin[i] * axes[j] + spin[i + 1] * axes[3 + j] + spin[i + 2] * axes[6 + j]
            for i in (0, 3, 6)
            for j in range(3)
        )
    knocked = (*(v + st.u(-0.02, 0.02) for v in eye), *axes, *rest)
    return lambda frame: Changes(camera=knocked) if frame >= start else STILL


def nothing(layout: Layout, st: Stream, m: Materials, clock: Clock) -> Script:
    """Nothing happens."""
    return lambda frame: STILL


EVENTS: dict[str, Event] = {
    "none": nothing,
    "person": walk,
    "thing": move_thing,
    "door": open_door,
    "lamp": switch_lamp,
    "knock": knock_camera,
    "dark": nothing,
}


# Applying changes.


def changed(layout: Layout, changes: Changes) -> tuple[Shell, list[Placed]]:
    """The shell and everything in the room with the changes made; the layout itself stays as it is."""
    shell = layout.shell
    things: list[Placed | None] = list(layout.all_placed())
    rows, lights = list(shell.materials.rows), list(shell.lights)
    for light in changes.off:
        lights[light] = (*lights[light][:6], 0.0, 0.0, 0.0, *lights[light][9:])
        for material in _shades(layout, shell.lights[light]):
            rows[material] = (*rows[material][:9], 0.0, rows[material][10])
    for place, placed in changes.replaced:
        things[place] = placed
    shell = replace(
        shell,
        materials=Materials(shell.materials.stream, rows),
        lights=lights,
        camera=changes.camera or shell.camera,
        sensor=_dimmed(shell, changes.off),
    )
    return shell, [placed for placed in things if placed is not None] + list(changes.added)


def _shades(layout: Layout, light: tuple[float, ...]) -> set[int]:
    """The materials of the lamp that gives a light."""
    return {
        part[5]
        for thing, x, y, _, _ in layout.all_placed()
        if (x, y) == light[:2]
        for part in thing.parts
        if part[6] == LAMP
    }


def _dimmed(shell: Shell, off: tuple[int, ...]) -> tuple[float, ...]:
    """The sensor's row, with less ambient light for lights that are off, because half of it comes from them."""
    if not off:
        return shell.sensor
    gone, total = 0.0, 0.0
    for i, light in enumerate(shell.lights):
        total += light[7]
        gone += light[7] if i in off else 0.0
    k = 1.0 - 0.5 * gone / total
    return (*(k * v for v in shell.sensor[:3]), *shell.sensor[3:])
