"""Equipment of cafes, garages, cinemas, server rooms and warehouses; see `furniture`."""

from __future__ import annotations

from train.rooms import texture as tx
from train.rooms.furniture import DARK, STEEL, WHITE, plain_chair
from train.rooms.parts import (
    APPLIANCE,
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


def bistro_set(st: Stream, m: Materials, top: int, base: int, wood: int, cloth: int) -> Thing:
    """A small round table on one leg with chairs about it, a cup and a flower."""
    t = Thing(size=(1.5, 1.5, 0.95))
    t.tube(0, 0, 0.72, 0.36, 0.035, top, TABLE)
    t.tube(0, 0, 0, 0.035, 0.72, base, TABLE)
    t.tube(0, 0, 0, 0.22, 0.04, base, TABLE, taper=-0.3)
    chair = plain_chair(st, m, wood, cloth)
    t.join(chair, 0, 0.52, 0, 0)
    t.join(chair, 0, -0.52, 0, 2)
    if st.chance(0.4):
        t.join(chair, 0.52, 0, 0, 3)
    t.tube(0.14, 0.1, 0.755, 0.05, 0.07, m.add(WHITE), DECOR, taper=0.2)
    t.tube(-0.08, -0.04, 0.755, 0.03, 0.12, m.paint(), DECOR)
    t.ball(-0.08, -0.04, 0.92, 0.055, 0.055, 0.055, m.add(hue(st, (0.6, 0.9), (0.5, 0.9))), DECOR)
    return t


def cafe_counter(st: Stream, m: Materials, w: float) -> Thing:
    """A counter with a coffee machine, a glass case of cakes, stools before it and a menu board behind."""
    top, front = (
        m.wood(),
        m.add(hue(st, (0.1, 0.7), (0.1, 0.6)), hue(st, (0.0, 0.6), (0.1, 0.6)), tx.STRIPES, 0.12),
    )
    steel, dark = m.add(STEEL, gloss=0.8), m.add(DARK, gloss=0.3)
    h = 1.1
    t = Thing(size=(w, 1.3, 2.1))
    t.box(0, 0.1, 0, w - 0.06, 0.5, h - 0.05, front, TABLE)
    t.box(0, 0.07, h - 0.05, w, 0.62, 0.06, top, TABLE)
    side = st.pick((-1, 1))
    mx = side * w * 0.28
    t.box(mx, 0.12, h + 0.01, 0.6, 0.42, 0.12, steel, APPLIANCE)
    t.box(mx, 0.22, h + 0.12, 0.6, 0.24, 0.3, dark, APPLIANCE)
    t.box(mx, 0.12, h + 0.36, 0.64, 0.44, 0.16, m.add(hue(st, (0.0, 0.9), (0.2, 0.7)), gloss=0.7), APPLIANCE)
    for x in (-0.15, 0.15):
        t.tube(mx + x, 0.0, h + 0.28, 0.04, 0.08, steel, APPLIANCE)
        t.tube(mx + x, 0.0, h + 0.13, 0.035, 0.06, m.add(WHITE), DECOR)
    cx = -side * w * 0.25
    t.box(cx, 0.1, h + 0.01, w * 0.36, 0.36, 0.03, steel, DECOR)
    t.box(cx, 0.26, h + 0.01, w * 0.36, 0.03, 0.36, m.add((0.5, 0.65, 0.68), gloss=0.8), DECOR)
    t.box(cx, 0.1, h + 0.36, w * 0.36, 0.36, 0.02, m.add((0.6, 0.7, 0.72), gloss=0.8), DECOR)
    for i in range(4):
        cake = m.add(st.pick(((0.3, 0.12, 0.05), (0.8, 0.65, 0.35), (0.8, 0.4, 0.45), (0.85, 0.8, 0.7))))
        t.tube(cx + (i - 1.5) * w * 0.085, 0.08, h + 0.04, 0.07, 0.1, cake, DECOR)
    menu = m.add((0.03, 0.035, 0.035), (0.85, 0.8, 0.6), tx.CHALK, 0.06)
    t.box(0, 0.62, 1.75, w * 0.7, 0.03, 0.55, menu, DECOR)
    seat = m.fabric()
    for i in range(max(2, int(w / 0.75))):
        x = (i - (max(2, int(w / 0.75)) - 1) * 0.5) * 0.72
        t.tube(x, -0.42, 0.72, 0.18, 0.07, seat, CHAIR)
        t.tube(x, -0.42, 0, 0.03, 0.72, steel, CHAIR)
        t.tube(x, -0.42, 0, 0.19, 0.03, steel, CHAIR)
    return t


def car(st: Stream, m: Materials) -> Thing:
    """A car along x: body, tapered cabin with windows, four wheels, lights."""
    n, w = st.u(3.3, 3.9), st.u(1.5, 1.65)
    paint = m.add(hue(st, (0.0, 0.95), (0.08, 0.8)), gloss=0.9)
    glass, tyre = m.add((0.03, 0.045, 0.06), gloss=0.9), m.add(_BLACK)
    hub, steel = m.add(STEEL, gloss=0.7), m.add((0.12, 0.12, 0.13), gloss=0.3)
    t = Thing(size=(n, w, 1.4))
    t.box(0, 0, 0.28, n, w, 0.2, steel, APPLIANCE)
    t.box(0, 0, 0.34, n - 0.04, w, 0.42, paint, APPLIANCE, taper=-0.025)
    t.box(n * 0.05, 0, 0.74, n * 0.6, w * 0.93, 0.5, glass, APPLIANCE, taper=-0.2)
    t.box(n * 0.05, 0, 1.23, n * 0.41, w * 0.65, 0.05, paint, APPLIANCE, taper=-0.05)
    for s in (-1, 1):
        t.put(
            3, (n * 0.05, s * w * 0.41, 0.98), (0.05, 0.02, 0.26), paint, APPLIANCE, -0.1, turn(0, s * 0.17)
        )
        for x in (-n * 0.31, n * 0.31):
            t.tube(x, s * (w * 0.5 - 0.07), 0.31, 0.31, 0.2, tyre, APPLIANCE, axis=1)
            t.tube(x, s * (w * 0.5 - 0.06), 0.31, 0.19, 0.2, hub, APPLIANCE, axis=1)
            t.tube(x, s * (w * 0.5 - 0.055), 0.31, 0.07, 0.2, tyre, APPLIANCE, axis=1)
        t.ball(
            -n * 0.5 + 0.03,
            s * w * 0.36,
            0.6,
            0.06,
            0.15,
            0.09,
            m.add((0.95, 0.95, 0.85), gloss=0.9, glow=0.4),
            APPLIANCE,
        )
        t.box(
            n * 0.5 - 0.02, s * w * 0.4, 0.56, 0.04, 0.2, 0.12, m.add((0.6, 0.02, 0.02), gloss=0.8), APPLIANCE
        )
        t.box(-n * 0.18, s * (w * 0.5 + 0.06), 0.78, 0.12, 0.16, 0.1, paint, APPLIANCE)
    for x in (-n * 0.5, n * 0.5):
        t.box(x, 0, 0.5, 0.03, 0.45, 0.1, m.add(WHITE), APPLIANCE)
    t.box(-n * 0.5, 0, 0.36, 0.04, w * 0.6, 0.1, tyre, APPLIANCE)
    return t


def tyre_stack(st: Stream, m: Materials) -> Thing:
    """A few tyres piled up."""
    t = Thing(size=(0.66, 0.66, 0.8))
    rubber, hole = m.add((0.02, 0.02, 0.022)), m.add((0.005, 0.005, 0.005))
    for i in range(st.n(2, 4)):
        x, y = st.u(-0.03, 0.03), st.u(-0.03, 0.03)
        t.tube(x, y, i * 0.21, 0.32, 0.19, rubber, DECOR)
        t.tube(x, y, i * 0.21 + 0.185, 0.18, 0.01, hole, DECOR)
    return t


def film_screen(st: Stream, m: Materials, w: float) -> Thing:
    """A wide bright cinema screen between curtains."""
    h = min(1.75, w * 0.52)
    z = 0.75
    frame, drape = m.add(_BLACK), hue(st, (0.5, 0.95), (0.08, 0.45))
    film = m.add(
        hue(st, (0.3, 0.9), (0.4, 0.95)), hue(st, (0.3, 0.9), (0.4, 0.95)), tx.FILM, glow=st.u(1.4, 2.4)
    )
    t = Thing(size=(w, 0.2, 2.3))
    t.box(0, 0.05, z - 0.08, w - 0.3, 0.04, h + 0.16, frame, SCREEN)
    t.box(0, 0.02, z, w - 0.44, 0.04, h, film, SCREEN)
    curtain = m.add(drape, scaled(drape, 0.6), tx.STRIPES, 0.05)
    for s in (-1, 1):
        t.box(s * (w * 0.5 - 0.1), 0, 0.1, 0.24, 0.14, z + h + 0.05, curtain, DECOR)
    return t


def seat_row(st: Stream, m: Materials, count: int, cloth: int, base: int) -> Thing:
    """Cinema seats side by side, facing +y: padded backs and shared arms."""
    s = 0.58
    t = Thing(size=(count * s + 0.1, 0.75, 0.95))
    for i in range(count):
        x = (i - (count - 1) * 0.5) * s
        t.box(x, 0.05, 0.32, s - 0.1, 0.5, 0.14, cloth, CHAIR)
        t.put(0, (x, -0.26, 0.62), (s * 0.43, 0.075, 0.3), cloth, CHAIR, spin=turn(0, 0.08))
        t.ball(x, -0.3, 0.9, s * 0.4, 0.085, 0.1, cloth, CHAIR)
        t.box(x, 0.0, 0, 0.3, 0.4, 0.32, base, CHAIR)
    for i in range(count + 1):
        x = (i - count * 0.5) * s
        t.box(x, 0.0, 0.08, 0.05, 0.5, 0.5, base, CHAIR)
        t.box(x, 0.0, 0.58, 0.09, 0.5, 0.05, base, CHAIR)
    return t


def server_racks(st: Stream, m: Materials, count: int) -> Thing:
    """Tall dark cabinets in a row, with rows of coloured lights and cables."""
    w, d, h = 0.62, 0.8, st.u(1.9, 2.15)
    skin = m.grey(0.012, 0.06, 0.3)
    t = Thing(size=(count * w, d + 0.05, h))
    for i in range(count):
        x = (i - (count - 1) * 0.5) * w
        t.box(x, 0, 0, w - 0.015, d, h, skin, APPLIANCE)
        face = m.add((0.03, 0.032, 0.036), (0.35, 0.36, 0.38), tx.LEDS, st.u(0.075, 0.1), gloss=0.2)
        t.box(x, -d * 0.5 + 0.005, 0.08, w - 0.09, 0.03, h - 0.16, face, APPLIANCE)
    if st.chance(0.6):
        t.box(0, -0.05, h + 0.12, count * w, 0.4, 0.05, m.add((0.55, 0.45, 0.08)), APPLIANCE)
    return t


def carton(st: Stream, m: Materials, w: float, d: float, h: float) -> Thing:
    """A cardboard box."""
    k = st.u(0.7, 1.15)
    t = Thing(size=(w, d, h))
    card = m.add(scaled((0.5, 0.33, 0.17), k), (0.68, 0.58, 0.4), tx.CARTON)
    t.box(0, 0, 0, w, d, h, card, DECOR)
    return t


def pallet_rack(st: Stream, m: Materials, w: float, h: float) -> Thing:
    """Steel racking with boxes on every level."""
    d = st.u(0.7, 0.9)
    post = m.add(st.pick(((0.05, 0.14, 0.45), (0.04, 0.3, 0.15), (0.25, 0.26, 0.28))), gloss=0.3)
    beam = m.add(st.pick(((0.85, 0.3, 0.03), (0.8, 0.5, 0.03), (0.8, 0.12, 0.04))), gloss=0.3)
    deck = m.add((0.5, 0.36, 0.2), (0.3, 0.2, 0.1), tx.STRIPES, 0.12)
    t = Thing(size=(w, d, h))
    bays = max(1, int(w / 1.25 + 0.5))
    for i in range(bays + 1):
        x = (i - bays * 0.5) * ((w - 0.09) / bays)
        for y in (-d * 0.5 + 0.05, d * 0.5 - 0.05):
            t.box(x, y, 0, 0.09, 0.09, h, post, SHELF)
    levels = max(2, int(h / 0.85))
    for level in range(levels):
        z = 0.08 + level * (h - 0.15) / levels
        for y in (-d * 0.5 + 0.03, d * 0.5 - 0.03):
            t.box(0, y, z, w, 0.05, 0.11, beam, SHELF)
        t.box(0, 0, z + 0.09, w, d - 0.08, 0.03, deck, SHELF)
        x = -w * 0.5 + 0.1
        gap = (h - 0.15) / levels - 0.2
        while x < w * 0.5 - 0.4:
            bw, bh = st.u(0.36, 0.62), gap * st.u(0.5, 0.98)
            if st.chance(0.88) and x + bw < w * 0.5 - 0.05:
                t.join(carton(st, m, bw - 0.03, d - 0.16, bh), x + bw * 0.5, 0, z + 0.12)
            x += bw
    return t


def pallet(st: Stream, m: Materials) -> Thing:
    """A wooden pallet stacked with boxes."""
    wood = m.add((0.5, 0.36, 0.2), (0.35, 0.24, 0.12), tx.STRIPES, 0.1)
    t = Thing(size=(1.1, 0.9, 1.2))
    t.box(0, 0, 0.1, 1.1, 0.9, 0.04, wood, SHELF)
    for x in (-0.48, 0.0, 0.48):
        t.box(x, 0, 0, 0.1, 0.9, 0.1, wood, SHELF)
    for level in range(st.n(1, 3)):
        h = 0.33
        for i in range(2):
            for j in range(2):
                if level == 0 or st.chance(0.75):
                    x, y = (i - 0.5) * 0.52, (j - 0.5) * 0.43
                    t.join(carton(st, m, 0.49, 0.41, h - st.u(0.0, 0.06)), x, y, 0.14 + level * h)
    return t
