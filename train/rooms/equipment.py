"""Equipment of rooms that are not for living: schools, sport, nurseries, music; see `furniture`."""

from __future__ import annotations

from train.rooms import texture as tx
from train.rooms.furniture import DARK, STEEL, WHITE
from train.rooms.parts import (
    APPLIANCE,
    BED,
    CABINET,
    CHAIR,
    DECOR,
    SCREEN,
    SHELF,
    TABLE,
    Materials,
    Stream,
    Thing,
    hue,
    scaled,
    turn,
)

_BLACK = (0.012, 0.012, 0.014)


def chalkboard(st: Stream, m: Materials) -> Thing:
    """A wide green, black or white board with writing."""
    w, h = st.u(2.0, 2.8), st.u(1.05, 1.25)
    ground, ink = st.pick(
        (
            ((0.02, 0.13, 0.07), WHITE),
            ((0.02, 0.13, 0.07), WHITE),
            ((0.025, 0.03, 0.03), WHITE),
            (WHITE, (0.05, 0.1, 0.5)),
        )
    )
    t = Thing(size=(w, 0.12, 2.1))
    t.box(0, 0.02, 0.85, w, 0.04, h, m.wood(), DECOR)
    t.box(0, -0.01, 0.89, w - 0.09, 0.03, h - 0.08, m.add(ground, ink, tx.CHALK, 0.075), DECOR)
    t.box(0, -0.04, 0.83, w, 0.1, 0.03, m.wood(), DECOR)
    return t


def school_desk(st: Stream, m: Materials, top: int, frame: int, seat: int) -> Thing:
    """A pupil's desk with its chair; the pupil would face +y."""
    t = Thing(size=(0.66, 0.95, 0.85))
    t.box(0, 0.2, 0.68, 0.62, 0.44, 0.04, top, TABLE)
    t.box(0, 0.2, 0.56, 0.54, 0.36, 0.02, frame, TABLE)
    t.legs(0.6, 0.42, 0.68, 0.035, frame, TABLE, y=0.2)
    t.legs(0.36, 0.36, 0.42, 0.03, frame, CHAIR, y=-0.22)
    t.box(0, -0.22, 0.41, 0.38, 0.38, 0.03, seat, CHAIR)
    t.put(0, (0, -0.4, 0.68), (0.19, 0.02, 0.13), seat, CHAIR, spin=turn(0, 0.06))
    if st.chance(0.5):
        t.box(st.u(-0.1, 0.1), 0.2, 0.72, 0.2, 0.26, 0.02, m.paint(), DECOR)
    return t


def treadmill(st: Stream, m: Materials) -> Thing:
    """A running machine, its console at the back."""
    dark, steel, trim = m.add(_BLACK, gloss=0.3), m.add(STEEL, gloss=0.5), m.paint()
    t = Thing(size=(0.85, 1.8, 1.4))
    t.box(0, -0.1, 0.06, 0.8, 1.6, 0.12, steel, APPLIANCE)
    t.box(0, -0.12, 0.17, 0.52, 1.5, 0.03, dark, APPLIANCE)
    t.box(0, 0.68, 0.1, 0.8, 0.3, 0.2, trim, APPLIANCE)
    for x in (-0.36, 0.36):
        t.put(0, (x, 0.62, 0.68), (0.035, 0.05, 0.6), steel, APPLIANCE, spin=turn(0, -0.06))
        t.box(x, 0.3, 1.0, 0.05, 0.7, 0.05, dark, APPLIANCE)
    t.put(0, (0, 0.6, 1.26), (0.4, 0.04, 0.17), dark, SCREEN, spin=turn(0, -0.2))
    t.put(
        0,
        (0, 0.565, 1.28),
        (0.2, 0.02, 0.1),
        m.add((0.1, 0.4, 0.7), WHITE, tx.SCREEN, 0.03, glow=0.9),
        SCREEN,
        spin=turn(0, -0.2),
    )
    return t


def dumbbell_rack(st: Stream, m: Materials) -> Thing:
    """Three tiers of dumb-bells."""
    w = st.u(1.4, 2.0)
    steel, iron = m.add(STEEL, gloss=0.4), m.add(_BLACK, gloss=0.3)
    ends = iron if st.chance(0.6) else m.paint()
    t = Thing(size=(w, 0.6, 1.05))
    for x in (-w * 0.5 + 0.05, w * 0.5 - 0.05):
        t.put(0, (x, 0.05, 0.5), (0.04, 0.05, 0.55), steel, SHELF, spin=turn(0, -0.12))
        t.box(x, 0, 0, 0.08, 0.6, 0.06, steel, SHELF)
    for tier in range(3):
        z, y = 0.2 + 0.35 * tier, -0.14 + 0.12 * tier
        t.box(0, y, z, w, 0.26, 0.04, steel, SHELF)
        count = int((w - 0.2) / 0.24)
        r = 0.095 - 0.015 * tier
        for i in range(count):
            x = (i - (count - 1) * 0.5) * 0.24
            t.tube(x, y, z + 0.12, 0.02, 0.3, steel, DECOR, axis=1)
            t.tube(x, y - 0.12, z + 0.12, r, 0.1, ends, DECOR, axis=1)
    return t


def weight_bench(st: Stream, m: Materials) -> Thing:
    """A bench with a loaded barbell in its stand."""
    pad, steel, iron = (
        m.add(hue(st, (0.0, 0.9), (0.02, 0.4))),
        m.add(STEEL, gloss=0.5),
        m.add(_BLACK, gloss=0.3),
    )
    plate = iron if st.chance(0.5) else m.add(hue(st, (0.7, 0.9), (0.3, 0.7)), gloss=0.3)
    t = Thing(size=(1.75, 1.3, 1.2))
    t.box(0, -0.1, 0.4, 0.32, 1.15, 0.1, pad, APPLIANCE)
    t.box(0, -0.1, 0.3, 0.1, 1.1, 0.1, steel, APPLIANCE)
    for y in (-0.55, 0.35):
        t.box(0, y, 0, 0.4, 0.08, 0.32, steel, APPLIANCE)
    for x in (-0.5, 0.5):
        t.box(x, 0.4, 0, 0.07, 0.07, 1.05, steel, APPLIANCE)
        t.box(x, 0.4, 0, 0.08, 0.5, 0.06, steel, APPLIANCE)
    t.box(0, 0.42, 0.3, 1.0, 0.06, 0.07, steel, APPLIANCE)
    t.tube(0, 0.36, 1.05, 0.018, 1.75, steel, DECOR, axis=0)
    for s in (-1, 1):
        t.tube(s * 0.66, 0.36, 1.05, 0.23, 0.06, plate, DECOR, axis=0)
        t.tube(s * 0.74, 0.36, 1.05, 0.19, 0.06, iron, DECOR, axis=0)
    return t


def exercise_ball(st: Stream, m: Materials) -> Thing:
    """A big ball."""
    r = st.u(0.28, 0.36)
    t = Thing(size=(2 * r, 2 * r, 2 * r))
    t.ball(0, 0, r, r, r, r, m.add(hue(st, (0.5, 0.9), (0.3, 0.8)), gloss=0.4), DECOR)
    return t


def crib(st: Stream, m: Materials) -> Thing:
    """A cot with bars, bedding, a teddy bear, and a mobile above it."""
    w, d, h = st.u(1.2, 1.4), 0.72, st.u(0.95, 1.1)
    wood = m.add(WHITE) if st.chance(0.5) else m.wood()
    t = Thing(size=(w, d, 1.8))
    t.legs(w, d, h, 0.06, wood, BED)
    for s in (-1, 1):
        for z in (0.28, h - 0.06):
            t.box(0, s * d * 0.5, z, w, 0.04, 0.06, wood, BED)
            t.box(s * w * 0.5, 0, z, 0.04, d, 0.06, wood, BED)
        bars = int(w / 0.11)
        for i in range(1, bars):
            t.box(-w * 0.5 + i * w / bars, s * d * 0.5, 0.3, 0.025, 0.025, h - 0.32, wood, BED)
        for i in range(1, 6):
            t.box(s * w * 0.5, -d * 0.5 + i * d / 6, 0.3, 0.025, 0.025, h - 0.32, wood, BED)
    t.box(0, 0, 0.3, w - 0.06, d - 0.06, 0.16, m.add(WHITE), BED)
    t.box(-w * 0.1, 0, 0.44, w * 0.6, d - 0.06, 0.06, m.fabric(), BED)
    t.join(teddy(st, m, 0.8), w * 0.3, 0, 0.46)
    stick = m.add(WHITE)
    t.box(w * 0.5, 0.3, h, 0.03, 0.03, 0.7, stick, DECOR)
    t.tube(w * 0.25, 0.3, h + 0.7, 0.014, w * 0.5, stick, DECOR, axis=0)
    for i in range(5):
        x, y = (-0.25, -0.12, 0.0, 0.13, 0.26)[i], (0.1, -0.14, 0.14, -0.1, 0.12)[i]
        z = h + 0.3 + 0.07 * (i % 3)
        t.box(x, y * 1.5 + 0.15, z, 0.006, 0.006, h + 0.7 - z, stick, DECOR)
        r = st.u(0.06, 0.08)
        t.ball(x, y * 1.5 + 0.15, z, r, r, r, m.add(hue(st, (0.5, 0.8), (0.6, 0.9))), DECOR)
    return t


def teddy(st: Stream, m: Materials, k: float) -> Thing:
    """A sitting teddy bear, k times half a metre tall."""
    fur = st.pick(((0.4, 0.22, 0.08), (0.6, 0.42, 0.22), (0.75, 0.7, 0.6), (0.7, 0.35, 0.4)))
    a, b, dark = m.add(fur), m.add(scaled(fur, 1.4)), m.add(DARK)
    t = Thing(size=(0.4 * k, 0.4 * k, 0.5 * k))
    t.ball(0, 0, 0.15 * k, 0.13 * k, 0.11 * k, 0.15 * k, a, DECOR)
    t.ball(0, -0.02 * k, 0.36 * k, 0.11 * k, 0.1 * k, 0.1 * k, a, DECOR)
    t.ball(0, -0.11 * k, 0.33 * k, 0.05 * k, 0.04 * k, 0.04 * k, b, DECOR)
    for s in (-1, 1):
        t.ball(s * 0.09 * k, 0, 0.45 * k, 0.045 * k, 0.03 * k, 0.045 * k, b, DECOR)
        t.ball(s * 0.04 * k, -0.1 * k, 0.39 * k, 0.015 * k, 0.015 * k, 0.015 * k, dark, DECOR)
        t.ball(s * 0.15 * k, -0.04 * k, 0.2 * k, 0.05 * k, 0.06 * k, 0.1 * k, a, DECOR)
        t.ball(s * 0.1 * k, -0.14 * k, 0.05 * k, 0.06 * k, 0.11 * k, 0.055 * k, b, DECOR)
    return t


def toy_blocks(st: Stream, m: Materials) -> Thing:
    """A heap of coloured blocks and a ball."""
    t = Thing(size=(0.9, 0.8, 0.4))
    for i in range(st.n(6, 9)):
        s = st.u(0.11, 0.17)
        x, y = (i % 3 - 1) * 0.25 + st.u(-0.04, 0.04), (i // 3 - 1) * 0.22
        t.box(
            x,
            y,
            0 if i < 6 else 0.13,
            s,
            s,
            s,
            m.add(hue(st, (0.7, 0.95), (0.5, 0.9)), gloss=0.2),
            DECOR,
            spin=turn(2, st.u(-0.4, 0.4)),
        )
    t.ball(
        0.36,
        -0.3,
        0.13,
        0.13,
        0.13,
        0.13,
        m.add(hue(st, (0.6, 0.9), (0.5, 0.9)), WHITE, tx.STRIPES, 0.08),
        DECOR,
    )
    return t


def changing_table(st: Stream, m: Materials) -> Thing:
    """A chest of drawers with a padded tray on top and toys."""
    w = st.u(0.95, 1.2)
    c = hue(st, (0.1, 0.5), (0.5, 0.85))
    t = Thing(size=(w, 0.62, 1.1))
    t.box(0, 0, 0, w, 0.6, 0.88, m.add(c, WHITE, tx.DRAWERS, 0.5, key=0.28), CABINET)
    edge, pad = m.add(WHITE), m.fabric()
    t.box(-w * 0.12, 0, 0.88, w * 0.7, 0.56, 0.08, pad, BED)
    for s in (-1, 1):
        t.tube(-w * 0.12, s * 0.25, 0.97, 0.07, w * 0.7, edge, BED, axis=0)
    t.join(teddy(st, m, 0.7), w * 0.38, 0.05, 0.88)
    return t


def piano(st: Stream, m: Materials) -> Thing:
    """An upright piano with its stool."""
    w, h = 1.5, st.u(1.15, 1.3)
    skin = m.add(_BLACK, gloss=0.8) if st.chance(0.6) else m.wood()
    keys = m.add(WHITE, _BLACK, tx.KEYS, 0.05, gloss=0.3)
    t = Thing(size=(w, 1.15, h))
    t.box(0, 0.35, 0, w, 0.36, h, skin, DECOR)
    t.box(0, 0.35, h, w + 0.06, 0.4, 0.035, skin, DECOR)
    t.box(0, 0.0, 0.6, w, 0.36, 0.1, skin, DECOR)
    t.box(0, -0.02, 0.7, w - 0.16, 0.3, 0.025, keys, DECOR)
    for s in (-1, 1):
        t.box(s * (w * 0.5 - 0.04), 0, 0, 0.07, 0.34, 0.8, skin, DECOR)
    t.put(
        0, (0, 0.12, 0.98), (0.3, 0.01, 0.13), m.add(WHITE, DARK, tx.STRIPES, 0.03), DECOR, spin=turn(0, -0.1)
    )
    t.box(0, -0.42, 0.42, 0.6, 0.32, 0.08, m.fabric(), CHAIR)
    t.legs(0.56, 0.3, 0.42, 0.05, skin, CHAIR, y=-0.42)
    return t


def drum_kit(st: Stream, m: Materials) -> Thing:
    """A drum kit: bass drum, toms, floor tom, snare and cymbals."""
    shell, skin = m.add(hue(st, (0.3, 0.95), (0.1, 0.7)), gloss=0.6), m.add(WHITE)
    steel, brass = m.add(STEEL, gloss=0.8), m.add((0.75, 0.52, 0.12), gloss=0.9)
    t = Thing(size=(1.7, 1.3, 1.35))
    t.tube(0, -0.05, 0.32, 0.31, 0.42, shell, DECOR, axis=1)
    t.tube(0, -0.265, 0.32, 0.29, 0.02, skin, DECOR, axis=1)
    t.tube(0, -0.28, 0.32, 0.12, 0.01, m.paint(), DECOR, axis=1)
    for x in (-0.2, 0.2):
        t.tube(x, 0.0, 0.68, 0.17, 0.22, shell, DECOR)
        t.tube(x, 0.0, 0.9, 0.175, 0.015, skin, DECOR)
    for x, y, r, z, h in ((0.55, 0.2, 0.22, 0.2, 0.42), (-0.52, 0.2, 0.19, 0.48, 0.15)):
        t.tube(x, y, z, r, h, shell, DECOR)
        t.tube(x, y, z + h, r + 0.005, 0.015, skin, DECOR)
        t.tube(x, y, 0, 0.02, z, steel, DECOR)
    for x, y, z, r in ((-0.72, 0.05, 0.92, 0.24), (0.72, 0.0, 1.2, 0.29), (-0.42, -0.15, 1.25, 0.27)):
        t.tube(x, y, 0, 0.012, z, steel, DECOR)
        t.tube(x, y, z, r, 0.04, brass, DECOR, taper=-0.8)
    t.tube(0, 0.55, 0.45, 0.17, 0.09, m.add(_BLACK), CHAIR)
    t.tube(0, 0.55, 0, 0.03, 0.45, steel, CHAIR)
    return t


def guitar(st: Stream, m: Materials) -> Thing:
    """A guitar on its stand."""
    body, dark, neck = (
        m.add(st.pick(((0.6, 0.3, 0.08), (0.5, 0.05, 0.04), (0.7, 0.45, 0.15))), gloss=0.6),
        m.add(_BLACK),
        m.wood(),
    )
    t = Thing(size=(0.5, 0.4, 1.2))
    t.put(2, (0, 0, 0.36), (0.22, 0.21, 0.05), body, DECOR, spin=turn(0, 1.0))
    t.put(2, (0, 0, 0.63), (0.16, 0.15, 0.05), body, DECOR, spin=turn(0, 1.0))
    t.put(2, (0, -0.05, 0.5), (0.06, 0.06, 0.005), dark, DECOR, spin=turn(0, 1.0))
    t.box(0, -0.03, 0.6, 0.055, 0.03, 0.56, neck, DECOR)
    t.box(0, -0.02, 1.14, 0.09, 0.03, 0.14, dark, DECOR)
    t.box(0, 0.05, 0, 0.3, 0.25, 0.12, dark, DECOR, taper=-0.6)
    return t
