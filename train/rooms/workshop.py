"""Workshops and laundries; see `furniture`."""

from __future__ import annotations

from train.rooms import texture as tx
from train.rooms.furniture import DARK, STEEL, WHITE
from train.rooms.parts import (
    APPLIANCE,
    CABINET,
    DECOR,
    SHELF,
    TABLE,
    Materials,
    Stream,
    Thing,
    hue,
    scaled,
    turn,
)


def washers(st: Stream, m: Materials, count: int, stacked: bool) -> Thing:
    """A row of front-loading machines, one or two high, with detergent on top."""
    w, d, h = 0.64, 0.62, 0.88
    skin = st.pick((WHITE, WHITE, (0.35, 0.36, 0.38), (0.6, 0.6, 0.62)))
    body, steel, glass = m.add(skin, gloss=0.4), m.add(STEEL, gloss=0.7), m.add((0.03, 0.05, 0.08), gloss=0.9)
    panel, linen = m.add(scaled(skin, 0.6)), m.fabric()
    t = Thing(size=(count * w, d + 0.1, h * (2 if stacked else 1) + 0.3))
    for i in range(count):
        x = (i - (count - 1) * 0.5) * w
        for level in range(2 if stacked else 1):
            z = level * h
            t.box(x, 0, z + 0.02, w - 0.02, d, h - 0.03, body, APPLIANCE)
            t.box(x, -d * 0.5, z + h - 0.17, w - 0.03, 0.02, 0.13, panel, APPLIANCE)
            t.tube(x + 0.18, -d * 0.5 - 0.01, z + h - 0.1, 0.04, 0.05, steel, APPLIANCE, axis=1)
            t.box(
                x - 0.16,
                -d * 0.5 - 0.005,
                z + h - 0.13,
                0.16,
                0.02,
                0.05,
                m.add((0.1, 0.5, 0.4), glow=0.7),
                APPLIANCE,
            )
            t.tube(x, -d * 0.5 - 0.02, z + 0.4, 0.25, 0.06, steel, APPLIANCE, axis=1)
            t.tube(x, -d * 0.5 - 0.035, z + 0.4, 0.19, 0.06, glass, APPLIANCE, axis=1)
            if st.chance(0.6):
                t.put(1, (x, -d * 0.5 - 0.066, z + 0.34), (0.13, 0.01, 0.08), linen, DECOR)
        if not stacked and st.chance(0.7):
            t.tube(x + st.u(-0.15, 0.15), 0.05, h, 0.08, 0.24, m.add(hue(st, (0.6, 0.9), (0.4, 0.8))), DECOR)
    return t


def laundry_basket(st: Stream, m: Materials) -> Thing:
    """A basket heaped with linen."""
    t = Thing(size=(0.6, 0.45, 0.6))
    t.put(
        2,
        (0, 0, 0.22),
        (0.25, 0.19, 0.22),
        m.add(hue(st, (0.1, 0.7), (0.4, 0.8)), DARK, tx.HOLES, 0.05),
        DECOR,
        taper=0.15,
    )
    for i in range(4):
        t.ball(-0.12 + 0.08 * i, 0.05 * (i % 2) - 0.03, 0.46, 0.13, 0.12, 0.1, m.fabric(), DECOR)
    return t


def clothes_rack(st: Stream, m: Materials) -> Thing:
    """A drying rack with washing hung over its rails."""
    w, h = st.u(1.2, 1.6), st.u(1.1, 1.35)
    steel = m.add(WHITE, gloss=0.3)
    t = Thing(size=(w, 0.6, h))
    for x in (-w * 0.5, w * 0.5):
        t.put(0, (x, 0, h * 0.5), (0.015, 0.015, h * 0.56), steel, DECOR, spin=turn(0, 0.2))
        t.put(0, (x, 0, h * 0.5), (0.015, 0.015, h * 0.56), steel, DECOR, spin=turn(0, -0.2))
    for y in (-0.22, 0.0, 0.22):
        t.tube(0, y, h - 0.02, 0.01, w, steel, DECOR, axis=0)
        x = -w * 0.5 + 0.05
        while x < w * 0.5 - 0.3:
            cw, drop = st.u(0.2, 0.4), st.u(0.3, 0.75)
            if st.chance(0.8):
                t.box(x + cw * 0.5, y, h - drop, cw, 0.035, drop, m.fabric(), DECOR)
            x += cw + 0.06
    return t


def workbench(st: Stream, m: Materials, w: float) -> Thing:
    """A heavy bench with a vice and a drill press, and tools on a board of pegs above."""
    wood, iron, steel = m.wood(), m.add(hue(st, (0.4, 0.9), (0.15, 0.5)), gloss=0.3), m.add(STEEL, gloss=0.6)
    d, h = 0.7, 0.88
    t = Thing(size=(w, d, 2.0))
    t.box(0, 0, h - 0.09, w, d, 0.09, wood, TABLE)
    t.legs(w - 0.1, d - 0.06, h - 0.09, 0.11, wood, TABLE)
    t.box(0, 0, 0.18, w - 0.15, d - 0.15, 0.04, wood, TABLE)
    t.box(
        -w * 0.2,
        0,
        0.22,
        0.5,
        0.4,
        0.3,
        m.add((0.6, 0.05, 0.04), STEEL, tx.DRAWERS, 0.5, gloss=0.4, key=0.1),
        CABINET,
    )
    t.box(w * 0.22, 0, 0.22, 0.45, 0.4, 0.34, m.add((0.55, 0.38, 0.2), (0.7, 0.6, 0.4), tx.CARTON), DECOR)
    board = m.add(st.pick(((0.6, 0.45, 0.28), (0.75, 0.72, 0.65), (0.25, 0.35, 0.45))), DARK, tx.HOLES, 0.06)
    t.box(0, d * 0.5 - 0.02, 1.05, w - 0.1, 0.03, 0.95, board, SHELF)
    y = d * 0.5 - 0.06
    x = -w * 0.5 + 0.18
    while x < w * 0.5 - 0.15:
        z, grip = st.u(1.65, 1.85), m.add(hue(st, (0.7, 0.95), (0.3, 0.8)))
        kind = st.n(0, 3)
        if kind == 0:  # hammer
            t.box(x, y, z - 0.36, 0.045, 0.03, 0.36, m.wood(), DECOR)
            t.box(x, y - 0.01, z - 0.02, 0.2, 0.05, 0.07, steel, DECOR)
        elif kind == 1:  # saw
            t.box(x, y, z - 0.5, 0.14, 0.012, 0.42, steel, DECOR, taper=0.4)
            t.box(x, y - 0.01, z - 0.1, 0.15, 0.03, 0.13, grip, DECOR)
        elif kind == 2:  # screwdriver
            t.tube(x, y, z - 0.15, 0.03, 0.15, grip, DECOR)
            t.tube(x, y, z - 0.38, 0.01, 0.24, steel, DECOR)
        else:  # spanner
            t.box(x, y, z - 0.34, 0.045, 0.02, 0.34, steel, DECOR)
            t.tube(x, y, z, 0.055, 0.025, steel, DECOR, axis=1)
            t.tube(x, y, z - 0.36, 0.05, 0.025, steel, DECOR, axis=1)
        x += st.u(0.2, 0.27)
    side = st.pick((-1, 1))
    vx = -side * w * 0.32
    t.box(vx, -0.22, h, 0.2, 0.22, 0.08, iron, APPLIANCE)
    t.box(vx, -0.12, h + 0.08, 0.22, 0.08, 0.12, iron, APPLIANCE)
    t.box(vx, -0.32, h + 0.04, 0.22, 0.07, 0.16, iron, APPLIANCE)
    t.tube(vx, -0.42, h + 0.1, 0.02, 0.2, steel, APPLIANCE, axis=1)
    px = side * w * 0.33
    t.box(px, 0, h, 0.28, 0.36, 0.05, iron, APPLIANCE)
    t.tube(px, 0.1, h, 0.04, 0.75, steel, APPLIANCE)
    t.box(px, 0, h + 0.5, 0.2, 0.42, 0.22, iron, APPLIANCE)
    t.tube(px, -0.1, h + 0.28, 0.025, 0.24, steel, APPLIANCE)
    t.box(px, -0.08, h + 0.2, 0.24, 0.24, 0.03, steel, APPLIANCE)
    return t


def sawhorse(st: Stream, m: Materials) -> Thing:
    """Two trestles with planks across."""
    wood = m.wood()
    t = Thing(size=(1.7, 0.7, 0.85))
    for x in (-0.5, 0.5):
        t.box(x, 0, 0.68, 0.1, 0.7, 0.1, wood, TABLE)
        for s in (-1, 1):
            t.put(0, (x, s * 0.24, 0.34), (0.04, 0.04, 0.36), wood, TABLE, spin=turn(0, -s * 0.1))
    for i in range(st.n(2, 3)):
        t.box(st.u(-0.08, 0.08), -0.22 + i * 0.2, 0.78, 1.65, 0.16, 0.05, m.wood(), DECOR)
    return t
