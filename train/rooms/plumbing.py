"""Kitchens and bathrooms; see `furniture`."""

from __future__ import annotations

from train.rooms import texture as tx
from train.rooms.furniture import DARK, STEEL, WHITE
from train.rooms.parts import (
    APPLIANCE,
    CABINET,
    DECOR,
    SANITARY,
    Materials,
    Stream,
    Thing,
    hue,
    turn,
)


def kitchen_run(st: Stream, m: Materials, w: float) -> Thing:
    """A run of kitchen units: fridge, sink, oven with hob and hood, wall cabinets."""
    front = hue(st, (0.0, 0.6), (0.25, 0.85))
    door = m.add(front, STEEL, tx.DRAWERS, 0.5, gloss=0.15, key=0.0)
    top = m.add(hue(st, (0.0, 0.25), (0.15, 0.7)), (0.2, 0.2, 0.2), tx.PLASTER, 0.02, gloss=0.3)
    steel, dark = m.add(STEEL, gloss=0.6), m.add(DARK, gloss=0.6)
    h, d = 0.9, 0.6
    side = st.pick((-1.0, 1.0))
    fridge = st.u(0.6, 0.75)
    run = w - fridge
    t = Thing(size=(w, d + 0.03, 2.1))
    x0 = -side * fridge * 0.5
    t.box(x0, 0.02, 0, run, d - 0.06, 0.1, dark, CABINET)
    t.box(x0, 0, 0.1, run, d, h - 0.14, door, CABINET)
    t.box(x0, 0, h - 0.04, run, d + 0.04, 0.045, top, CABINET)
    tall, skin = st.u(1.7, 2.0), m.grey(0.5, 0.9, 0.4)
    fx = side * (w - fridge) * 0.5
    t.box(fx, 0, 0, fridge - 0.02, d + 0.05, tall, skin, APPLIANCE)
    t.box(fx, -d * 0.5 - 0.03, tall * 0.62, fridge - 0.03, 0.015, 0.02, dark, APPLIANCE)
    for z in (tall * 0.35, tall * 0.68):
        t.box(fx - side * fridge * 0.38, -d * 0.5 - 0.05, z, 0.03, 0.03, tall * 0.2, steel, APPLIANCE)
    ox = x0 + run * st.u(-0.25, 0.25)
    t.box(ox, -d * 0.5 - 0.005, 0.14, 0.58, 0.03, 0.62, steel, APPLIANCE)
    t.box(ox, -d * 0.5 - 0.02, 0.24, 0.46, 0.02, 0.32, dark, APPLIANCE)
    t.box(ox, -d * 0.5 - 0.04, 0.62, 0.48, 0.03, 0.03, m.add(WHITE), APPLIANCE)
    t.box(ox, 0, h, 0.58, 0.5, 0.02, dark, APPLIANCE)
    for dx in (-0.14, 0.14):
        for dy in (-0.12, 0.12):
            t.tube(ox + dx, dy, h + 0.02, 0.085, 0.012, m.add((0.25, 0.05, 0.03)), APPLIANCE)
    t.tube(ox - 0.14, 0.12, h + 0.03, 0.1, 0.14, m.paint(0.5), DECOR)
    t.box(ox, 0.08, 1.5, 0.6, 0.44, 0.22, steel, APPLIANCE, taper=-0.35)
    t.box(ox, 0.16, 1.7, 0.22, 0.24, 0.5, steel, APPLIANCE)
    gaps = ((x0 - run * 0.5, ox - 0.32), (ox + 0.32, x0 + run * 0.5))
    upper = m.add(front, STEEL, tx.DRAWERS, 0.45, gloss=0.15, key=0.0)
    for a, b in gaps:
        if b - a > 0.25:
            t.box((a + b) * 0.5, 0.13, 1.42, b - a, 0.34, 0.68, upper, CABINET)
    a, b = max(gaps, key=lambda g: g[1] - g[0])
    sx = (a + b) * 0.5
    t.box(sx, -0.02, h, 0.5, 0.4, 0.012, steel, SANITARY)
    t.box(sx, -0.02, h + 0.004, 0.42, 0.32, 0.012, m.add((0.2, 0.2, 0.21)), SANITARY)
    t.tube(sx, 0.2, h, 0.018, 0.26, steel, SANITARY)
    t.tube(sx, 0.12, h + 0.26, 0.016, 0.18, steel, SANITARY, axis=1)
    for _ in range(st.n(1, 3)):
        t.tube(st.u(a, b), 0.18, h, st.u(0.04, 0.07), st.u(0.12, 0.25), m.paint(), DECOR)
    return t


def bathtub(st: Stream, m: Materials) -> Thing:
    """A white tub with water and a tap."""
    w, d, h = st.u(1.5, 1.8), st.u(0.72, 0.85), st.u(0.52, 0.6)
    white = m.add(WHITE, gloss=0.6)
    t = Thing(size=(w, d, h + 0.2))
    t.box(0, 0, 0, w, d, h - 0.03, white, SANITARY)
    for s in (-1, 1):
        t.box(0, s * (d - 0.1) * 0.5, h - 0.05, w + 0.02, 0.1, 0.07, white, SANITARY)
        t.box(s * (w - 0.14) * 0.5, 0, h - 0.05, 0.14, d + 0.02, 0.07, white, SANITARY)
    t.box(0, 0, h - 0.03, w - 0.28, d - 0.2, 0.006, m.add((0.3, 0.6, 0.68), gloss=0.8), SANITARY)
    side = st.pick((-1, 1))
    t.tube(side * (w * 0.5 - 0.07), 0.1, h, 0.025, 0.2, m.add(STEEL, gloss=0.8), SANITARY)
    t.tube(side * (w * 0.5 - 0.14), 0.1, h + 0.18, 0.02, 0.16, m.add(STEEL, gloss=0.8), SANITARY, axis=0)
    return t


def toilet(st: Stream, m: Materials) -> Thing:
    """A toilet with its cistern."""
    white, lid = m.add(WHITE, gloss=0.6), m.add(WHITE, gloss=0.6)
    t = Thing(size=(0.45, 0.72, 0.85))
    t.box(0, 0.26, 0.38, 0.42, 0.18, 0.44, white, SANITARY)
    t.box(0, 0.26, 0.82, 0.45, 0.2, 0.03, lid, SANITARY)
    t.put(2, (0, -0.08, 0.2), (0.17, 0.24, 0.2), white, SANITARY, taper=0.25)
    t.put(2, (0, -0.08, 0.42), (0.21, 0.29, 0.025), lid, SANITARY)
    t.box(0, 0.12, 0, 0.2, 0.2, 0.4, white, SANITARY)
    if st.chance(0.5):
        t.put(2, (0, 0.13, 0.66), (0.2, 0.24, 0.02), lid, SANITARY, spin=turn(0, 0.85))
    return t


def washbasin(st: Stream, m: Materials) -> Thing:
    """A basin on a pedestal or a cabinet, with a mirror above."""
    w = st.u(0.6, 0.9)
    white, steel = m.add(WHITE, gloss=0.6), m.add(STEEL, gloss=0.8)
    t = Thing(size=(w, 0.5, 1.85))
    if st.chance(0.5):
        t.tube(0, 0.05, 0, 0.11, 0.75, white, SANITARY, taper=-0.15)
    else:
        t.box(
            0,
            0.03,
            0.25,
            w - 0.06,
            0.42,
            0.5,
            m.add(hue(st, (0, 0.5), (0.3, 0.8)), STEEL, tx.DRAWERS, 0.4, key=0.0),
            CABINET,
        )
    t.box(0, 0, 0.74, w, 0.48, 0.13, white, SANITARY, taper=0.06)
    t.put(2, (0, -0.03, 0.875), (w * 0.36, 0.17, 0.006), m.add((0.55, 0.57, 0.6), gloss=0.5), SANITARY)
    t.tube(0, 0.18, 0.86, 0.02, 0.17, steel, SANITARY)
    t.tube(0, 0.1, 1.02, 0.016, 0.16, steel, SANITARY, axis=1)
    t.box(0, 0.23, 1.08, w, 0.03, 0.75, steel, DECOR)
    t.box(
        0,
        0.215,
        1.1,
        w - 0.04,
        0.02,
        0.71,
        m.add((0.45, 0.6, 0.68), (0.75, 0.85, 0.9), tx.MIRROR, gloss=0.5),
        DECOR,
    )
    return t


def shower(st: Stream, m: Materials) -> Thing:
    """A shower cabin: tray, tiled back, steel frame, a curtain half drawn, the shower head."""
    w, d, h = st.u(0.9, 1.1), 0.9, 2.05
    white, steel = m.add(WHITE, gloss=0.6), m.add(STEEL, gloss=0.8)
    tiles = m.add(
        st.pick(((0.35, 0.6, 0.7), (0.8, 0.82, 0.8), (0.3, 0.55, 0.5))), WHITE, tx.TILES, 0.12, gloss=0.5
    )
    t = Thing(size=(w, d, h))
    t.box(0, 0, 0, w, d, 0.14, white, SANITARY)
    t.box(0, d * 0.5 - 0.02, 0.14, w, 0.03, h - 0.14, tiles, SANITARY)
    for x in (-w * 0.5 + 0.02, w * 0.5 - 0.02):
        t.box(x, -d * 0.5 + 0.02, 0.14, 0.035, 0.035, h - 0.14, steel, SANITARY)
        t.box(x, 0, h - 0.03, 0.035, d, 0.035, steel, SANITARY)
    t.box(0, -d * 0.5 + 0.02, h - 0.03, w, 0.035, 0.035, steel, SANITARY)
    side = st.pick((-1, 1))
    c = hue(st, (0.1, 0.7), (0.4, 0.9))
    t.box(
        side * w * 0.3,
        -d * 0.5 + 0.03,
        0.2,
        w * 0.36,
        0.05,
        h - 0.26,
        m.add(c, WHITE, tx.STRIPES, 0.05),
        SANITARY,
    )
    t.tube(-side * w * 0.1, d * 0.5 - 0.06, 0.9, 0.015, 1.0, steel, SANITARY)
    t.tube(-side * w * 0.1, d * 0.5 - 0.2, 1.86, 0.11, 0.03, steel, SANITARY)
    t.box(-side * w * 0.1, d * 0.5 - 0.06, 0.95, 0.18, 0.06, 0.05, steel, SANITARY)
    return t
