"""People, made of ellipsoids and cylinders like furniture; each stands or walks. Knows no room, no camera and no time.

There is no class for people among the 17: every part of one is clutter, DECOR.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor

from train.rooms.parts import DECOR, Materials, Rgb, Stream, Thing, hue, scaled, turn
from train.rooms.raycast import CYLINDER, ELLIPSOID
from train.rooms.venues import carton

_SKINS: tuple[Rgb, ...] = ((0.75, 0.5, 0.38), (0.6, 0.37, 0.25), (0.4, 0.23, 0.14), (0.16, 0.085, 0.05))
_HAIR: tuple[Rgb, ...] = ((0.02, 0.015, 0.01), (0.1, 0.05, 0.02), (0.45, 0.3, 0.12), (0.4, 0.4, 0.4))


def wave(x: float) -> float:
    """A stand-in for sin(2 pi x) made of two parabolas: exact on every machine."""
    x -= floor(x)
    return 16.0 * x * (0.5 - x) if x < 0.5 else -16.0 * (x - 0.5) * (1.0 - x)


def _bent(a: float, b: float) -> float:
    """The tangent of half the sum of two angles, given the tangents of their halves."""
    return (a + b) / (1.0 - a * b)


@dataclass(frozen=True)
class Person:
    """One person; sizes in metres, materials by index.

    height: of the whole; build: of 1, how broad; load: what is carried before the chest, if anything
    """

    height: float
    build: float
    skin: int
    hair: int
    top: int
    legs: int
    shoes: int
    coat: bool
    load: Thing | None

    def pose(self, phase: float) -> Thing:
        """The person in the middle of a step, facing -y; `phase` counts double steps."""
        h, broad = self.height, self.build
        t = Thing(size=(0.5, 0.5, h))
        thigh, shin, sole = 0.245 * h, 0.245 * h, 0.045 * h
        swings = []
        for lead in (0.0, 0.5):
            a = -0.19 * wave(phase + lead)
            b = _bent(
                a, 0.3 * max(0.0, wave(phase + lead + 0.25))
            )  # the knee bends while the leg swings forward
            swings.append((a, b))
        # The lower foot stands on the floor.
        hip = max(thigh * turn(0, a)[4] + shin * turn(0, b)[4] for a, b in swings) + sole
        for side, (a, b) in zip((-1, 1), swings, strict=True):
            x = side * 0.055 * h * broad
            knee = self._limb(t, (x, 0.0, hip), thigh, 0.05 * h * broad, a, self.legs)
            ankle = self._limb(t, knee, shin, 0.037 * h * broad, b, self.legs)
            t.ball(
                x,
                ankle[1] - 0.03 * h,
                ankle[2] - 0.01 * h,
                0.028 * h,
                0.075 * h,
                0.035 * h,
                self.shoes,
                DECOR,
            )
        self._torso(t, hip)
        for side, (a, _) in zip((-1, 1), swings, strict=True):
            shoulder = (side * 0.125 * h * broad, 0.0, hip + 0.285 * h)
            upper, lower = (-0.1, -0.75) if self.load else (-0.7 * a, _bent(-0.7 * a, -0.13))
            elbow = self._limb(t, shoulder, 0.165 * h, 0.028 * h * broad, upper, self.top)
            hand = self._limb(t, elbow, 0.15 * h, 0.023 * h * broad, lower, self.top)
            t.ball(*hand, 0.022 * h, 0.027 * h, 0.03 * h, self.skin, DECOR)
        if self.load:
            t.join(self.load, 0.0, -0.21 * h, hip + 0.07 * h)
        return t

    def _limb(
        self, t: Thing, at: tuple[float, float, float], long: float, r: float, swing: float, material: int
    ) -> tuple[float, float, float]:
        """Adds a limb that hangs from a joint, swung about x. Returns its other end."""
        spin = turn(0, swing)
        dy, dz = -spin[5], -spin[4]  # where the rotation takes (0, 0, -1)
        x, y, z = at
        middle = (x, y + 0.5 * long * dy, z + 0.5 * long * dz)
        t.put(ELLIPSOID, middle, (r, r, 0.62 * long), material, DECOR, spin=spin)
        return x, y + long * dy, z + long * dz

    def _torso(self, t: Thing, hip: float) -> None:
        """Hips, chest, neck and head on hips of that height."""
        h, broad = self.height, self.build
        half = (0.1 * h * broad, 0.065 * h * broad)
        t.ball(0.0, 0.0, hip + 0.02 * h, 0.095 * h * broad, *(0.07 * h * broad, 0.08 * h), self.legs, DECOR)
        t.put(CYLINDER, (0.0, 0.0, hip + 0.15 * h), (*half, 0.12 * h), self.top, DECOR, taper=0.1)
        t.ball(0.0, 0.0, hip + 0.27 * h, 0.13 * h * broad, 0.068 * h * broad, 0.06 * h, self.top, DECOR)
        if self.coat:
            t.put(CYLINDER, (0.0, 0.0, hip - 0.06 * h), (*half, 0.14 * h), self.top, DECOR, taper=-0.25)
        t.tube(0.0, 0.0, hip + 0.3 * h, 0.03 * h, 0.06 * h, self.skin, DECOR)
        t.ball(0.0, -0.01 * h, hip + 0.41 * h, 0.046 * h, 0.056 * h, 0.068 * h, self.skin, DECOR)
        t.ball(0.0, 0.008 * h, hip + 0.43 * h, 0.051 * h, 0.058 * h, 0.062 * h, self.hair, DECOR)


def person(st: Stream, m: Materials) -> Person:
    """Anybody."""
    load = carton(st, m, st.u(0.3, 0.45), st.u(0.2, 0.3), st.u(0.2, 0.32)) if st.chance(0.15) else None
    return Person(
        height=st.u(1.52, 1.9),
        build=st.u(0.9, 1.2),
        skin=m.add(scaled(st.pick(_SKINS), st.u(0.85, 1.1))),
        hair=m.add(st.pick(_HAIR), gloss=0.1),
        top=m.fabric(),
        legs=m.fabric() if st.chance(0.3) else m.add(hue(st, (0.0, 0.5), (0.03, 0.35))),
        shoes=m.grey(0.02, 0.5, 0.3),
        coat=st.chance(0.25),
        load=load,
    )
