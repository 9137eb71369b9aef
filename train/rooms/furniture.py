"""Pieces of furniture, each a function of a random stream and the scene's materials. Knows no room and no camera.

Every piece stands on z = 0 about its own origin, faces -y (its back is towards +y) and states its size
(width, depth, height) in metres.
"""

from __future__ import annotations

from train.rooms import texture as tx
from train.rooms.parts import (
    BED,
    CABINET,
    CHAIR,
    DECOR,
    LAMP,
    PLANT,
    SCREEN,
    SHELF,
    SOFA,
    TABLE,
    Materials,
    Stream,
    Thing,
    hue,
    scaled,
    turn,
)

WHITE = (0.85, 0.85, 0.83)
DARK = (0.03, 0.03, 0.035)
STEEL = (0.45, 0.46, 0.48)


def double_bed(st: Stream, m: Materials) -> Thing:
    """A bed with headboard, blanket and pillows, its head at the wall."""
    w, d = st.u(1.4, 1.9), st.u(1.95, 2.15)
    frame, sheet = m.wood() if st.chance(0.6) else m.fabric(), m.add(WHITE)
    blanket, pillow = m.fabric(), m.add(WHITE) if st.chance(0.6) else m.fabric()
    low, thick, head = st.u(0.2, 0.3), st.u(0.2, 0.28), st.u(0.85, 1.25)
    t = Thing(size=(w + 0.1, d + 0.1, head))
    t.box(0, 0, 0.05, w + 0.06, d, low - 0.05, frame, BED)
    t.box(0, d * 0.5 + 0.02, 0, w + 0.1, 0.09, head, frame, BED)
    t.box(0, -0.02, low, w, d - 0.06, thick, sheet, BED)
    cover = st.u(0.6, 0.72)
    t.box(0, -d * (1 - cover) * 0.5 - 0.03, low - 0.06, w + 0.08, d * cover, thick + 0.11, blanket, BED)
    t.box(0, -d * (1 - cover) * 0.5 + d * cover * 0.5 - 0.15, low + thick, w + 0.09, 0.3, 0.07, sheet, BED)
    for x in (-w * 0.25, w * 0.25):
        t.ball(x, d * 0.5 - 0.32, low + thick + 0.1, w * 0.21, 0.23, 0.13, pillow, BED)
    return t


def nightstand(st: Stream, m: Materials) -> Thing:
    """A small cabinet with a lamp on it."""
    h, body = st.u(0.42, 0.58), m.wood()
    t = Thing(size=(0.48, 0.42, h + 0.4))
    t.box(0, 0, 0, 0.45, 0.4, h, body, CABINET)
    t.box(0, -0.205, h * 0.5, 0.38, 0.02, h * 0.36, m.wood(), CABINET)
    t.join(table_lamp(st, m), 0, 0, h)
    return t


def table_lamp(st: Stream, m: Materials) -> Thing:
    """A lamp with a glowing shade."""
    t = Thing(size=(0.3, 0.3, 0.45))
    t.tube(0, 0, 0, 0.06, 0.2, m.paint(), LAMP, taper=-0.5)
    shade = m.add((0.95, 0.8, 0.55), glow=st.u(0.8, 1.6))
    t.tube(0, 0, 0.18, 0.12, 0.2, shade, LAMP, taper=-0.35, shadow=False)
    return t


def wardrobe(st: Stream, m: Materials) -> Thing:
    """A tall cabinet with doors."""
    w, h = st.u(0.9, 1.6), st.u(1.8, 2.2)
    c = hue(st, (0.0, 0.5), (0.3, 0.8))
    t = Thing(size=(w, 0.6, h))
    t.box(0, 0, 0.06, w, 0.58, h - 0.06, m.add(c, STEEL, tx.DRAWERS, 0.5, gloss=0.1, key=0.0), CABINET)
    t.box(0, 0, h, w + 0.06, 0.62, 0.05, m.add(scaled(c, 0.8)), CABINET)
    return t


def sofa(st: Stream, m: Materials, seats: int) -> Thing:
    """A sofa (or, with one seat, an armchair) with arms and cushions."""
    seat, d = st.u(0.6, 0.75), st.u(0.85, 1.0)
    w, arm = seats * seat + 0.4, 0.2
    cloth, cushion = m.fabric(), m.fabric()
    low, back = st.u(0.36, 0.44), st.u(0.75, 0.95)
    t = Thing(size=(w, d, back))
    t.box(0, 0, 0.08, w, d, low - 0.18, cloth, SOFA)
    t.box(0, d * 0.5 - 0.12, 0.08, w, 0.24, back - 0.08, cloth, SOFA)
    for side in (-1, 1):
        t.box(side * (w - arm) * 0.5, 0, 0.08, arm, d, low + 0.1, cloth, SOFA)
        t.tube(side * (w - arm) * 0.5, 0, low + 0.18, arm * 0.55, d, cloth, SOFA, axis=1)
    lean = turn(0, 0.08)
    for i in range(seats):
        x = (i - (seats - 1) * 0.5) * seat
        t.box(x, -0.12, low - 0.1, seat - 0.02, d - 0.26, 0.15, cloth, SOFA)
        t.put(0, (x, d * 0.5 - 0.3, low + 0.26), (seat * 0.48, 0.08, 0.22), cloth, SOFA, spin=lean)
        if st.chance(0.6):
            t.put(0, (x, d * 0.5 - 0.42, low + 0.2), (0.17, 0.06, 0.16), cushion, SOFA, spin=turn(0, 0.15))
    t.legs(w - 0.1, d - 0.1, 0.1, 0.06, m.wood(), SOFA)
    return t


def coffee_table(st: Stream, m: Materials) -> Thing:
    """A low table with a bowl and books."""
    w, d, h = st.u(0.8, 1.2), st.u(0.5, 0.7), st.u(0.35, 0.45)
    wood = m.wood()
    t = Thing(size=(w, d, h))
    t.box(0, 0, h - 0.05, w, d, 0.05, wood, TABLE)
    t.box(0, 0, 0.12, w - 0.12, d - 0.12, 0.03, wood, TABLE)
    t.legs(w, d, h - 0.05, 0.06, wood, TABLE)
    t.tube(w * 0.2, 0, h, 0.12, 0.08, m.paint(), DECOR, taper=0.4)
    t.box(-w * 0.22, 0.05, h, 0.24, 0.18, 0.05, m.paint(), DECOR)
    return t


def television(st: Stream, m: Materials) -> Thing:
    """A wide television on a low board."""
    w, tv = st.u(1.4, 1.9), st.u(1.1, 1.4)
    body = m.wood()
    t = Thing(size=(w, 0.45, 1.3))
    t.box(0, 0, 0.06, w, 0.42, 0.4, body, CABINET)
    t.box(0, -0.21, 0.12, w * 0.9, 0.02, 0.28, m.add(WHITE, DARK, tx.DRAWERS, 0.5, key=0.0), CABINET)
    t.box(0, 0, 0.46, 0.3, 0.2, 0.1, m.add(DARK), SCREEN)
    t.box(0, 0.02, 0.55, tv, 0.05, tv * 0.58, m.add(DARK, gloss=0.5), SCREEN)
    film = m.add(
        hue(st, (0.3, 0.8), (0.4, 0.9)), hue(st, (0.2, 0.8), (0.3, 0.9)), tx.FILM, glow=st.u(0.6, 1.2)
    )
    t.box(0, -0.01, 0.57, tv - 0.06, 0.03, tv * 0.58 - 0.05, film, SCREEN)
    return t


def plain_chair(st: Stream, m: Materials, wood: int | None = None, cloth: int | None = None) -> Thing:
    """A chair with four legs, facing -y."""
    wood = m.wood() if wood is None else wood
    cloth = wood if cloth is None else cloth
    h = 0.45
    t = Thing(size=(0.46, 0.48, 0.95))
    t.legs(0.42, 0.42, h - 0.03, 0.045, wood, CHAIR)
    t.box(0, 0, h - 0.03, 0.44, 0.44, 0.06, cloth, CHAIR)
    for x in (-0.19, 0.19):
        t.box(x, 0.2, h, 0.04, 0.04, 0.48, wood, CHAIR)
    t.box(0, 0.2, h + 0.2, 0.38, 0.03, 0.27, cloth, CHAIR)
    return t


def office_chair(st: Stream, m: Materials) -> Thing:
    """A swivel chair on a star base, with arms."""
    cloth, dark = m.add(hue(st, (0.0, 0.8), (0.03, 0.4))), m.add(DARK, gloss=0.3)
    t = Thing(size=(0.62, 0.62, 1.1))
    for x, y in ((0.3, 0.0), (-0.3, 0.0), (0.0, 0.3), (0.0, -0.3)):
        t.box(x * 0.5, y * 0.5, 0.06, abs(x) + 0.05, abs(y) + 0.05, 0.05, dark, CHAIR)
        t.ball(x, y, 0.04, 0.045, 0.045, 0.04, dark, CHAIR)
    t.tube(0, 0, 0.06, 0.035, 0.38, dark, CHAIR)
    t.box(0, 0, 0.43, 0.5, 0.48, 0.1, cloth, CHAIR)
    t.put(0, (0, 0.25, 0.84), (0.23, 0.04, 0.3), cloth, CHAIR, spin=turn(0, 0.06))
    for x in (-0.28, 0.28):
        t.box(x, 0, 0.66, 0.06, 0.3, 0.04, dark, CHAIR)
        t.box(x, 0.02, 0.46, 0.04, 0.05, 0.2, dark, CHAIR)
    return t


def computer_desk(st: Stream, m: Materials) -> Thing:
    """A desk with one or two monitors, keyboard, drawers, and an office chair pulled up."""
    w, d, h = st.u(1.4, 1.8), st.u(0.7, 0.8), st.u(0.72, 0.76)
    top, dark = m.wood() if st.chance(0.6) else m.add(WHITE), m.add(DARK, gloss=0.4)
    t = Thing(size=(w, d + 0.55, 1.3))
    y = 0.275
    t.box(0, y, h - 0.04, w, d, 0.04, top, TABLE)
    for s in (-1, 1):
        t.box(s * (w * 0.5 - 0.03), y, 0, 0.05, d - 0.06, h - 0.04, top, TABLE)
    t.box(
        w * 0.5 - 0.28,
        y,
        0.05,
        0.42,
        d - 0.1,
        h - 0.12,
        m.add(WHITE, DARK, tx.DRAWERS, 0.6, key=0.2),
        CABINET,
    )
    count = st.n(1, 2)
    sw = st.u(0.52, 0.62) if count == 2 else st.u(0.6, 0.75)
    for i in range(count):
        x = (i - (count - 1) * 0.5) * (sw + 0.04)
        glow = st.u(0.7, 1.3)
        t.box(x, y + 0.15, h, 0.24, 0.18, 0.02, dark, SCREEN)
        t.box(x, y + 0.18, h, 0.05, 0.04, 0.2, dark, SCREEN)
        t.box(x, y + 0.15, h + 0.12, sw, 0.04, sw * 0.62, dark, SCREEN)
        page = m.add(
            st.pick(((0.75, 0.8, 0.85), (0.05, 0.07, 0.1), (0.1, 0.2, 0.4))),
            st.pick(((0.1, 0.3, 0.7), (0.2, 0.6, 0.4), (0.8, 0.5, 0.2))),
            tx.SCREEN,
            0.035,
            glow=glow,
        )
        t.box(x, y + 0.125, h + 0.14, sw - 0.04, 0.02, sw * 0.62 - 0.04, page, SCREEN)
    t.box(0, y - 0.18, h, 0.44, 0.14, 0.02, m.add(DARK, (0.3, 0.3, 0.3), tx.TILES, 0.025), DECOR)
    t.box(0.34, y - 0.18, h, 0.06, 0.1, 0.03, dark, DECOR)
    t.box(-w * 0.38, y, h, 0.22, 0.3, 0.04, m.add(WHITE), DECOR)
    t.join(office_chair(st, m), st.u(-0.1, 0.1), -0.38, 0, 2 if st.chance(0.75) else st.n(0, 3))
    return t


def filing_cabinet(st: Stream, m: Materials) -> Thing:
    """A steel cabinet of drawers."""
    h = st.u(1.0, 1.4)
    t = Thing(size=(0.5, 0.55, h))
    t.box(
        0,
        0,
        0,
        0.48,
        0.55,
        h,
        m.add(hue(st, (0.0, 0.3), (0.2, 0.5)), STEEL, tx.DRAWERS, 0.6, key=0.33),
        CABINET,
    )
    return t


def dining_set(st: Stream, m: Materials) -> Thing:
    """One long table, laid, with chairs on its sides."""
    pairs = st.n(2, 3)
    w, d, h = 0.62 * pairs + 0.5, st.u(0.85, 1.0), 0.75
    wood = m.wood()
    cloth = m.fabric() if st.chance(0.5) else None
    t = Thing(size=(w + 0.9, d + 1.0, 0.95))
    if st.chance(0.35):
        t.box(0, 0, h - 0.25, w + 0.03, d + 0.03, 0.25, m.fabric(), TABLE)
    t.box(0, 0, h - 0.05, w, d, 0.06, wood, TABLE)
    t.legs(w - 0.06, d - 0.06, h - 0.05, 0.08, wood, TABLE)
    plate, drink = m.add(WHITE, gloss=0.5), m.paint(0.5)
    chair = plain_chair(st, m, m.wood(), cloth)
    for i in range(pairs):
        x = (i - (pairs - 1) * 0.5) * 0.62
        for side in (-1, 1):
            t.join(chair, x, side * (d * 0.5 + 0.18), 0, 2 if side < 0 else 0)
            t.tube(x, side * (d * 0.5 - 0.18), h + 0.01, 0.12, 0.018, plate, DECOR, taper=0.2)
            t.tube(x + 0.17, side * (d * 0.5 - 0.27), h + 0.01, 0.03, 0.12, drink, DECOR, taper=0.2)
    for side in (-1, 1):
        t.join(chair, side * (w * 0.5 + 0.2), 0, 0, 3 if side > 0 else 1)
    t.tube(0, 0, h, 0.15, 0.1, m.paint(), DECOR, taper=0.4)
    for i in range(5):
        t.ball(
            -0.08 + 0.04 * i,
            0.03 * (i % 3 - 1),
            h + 0.12,
            0.05,
            0.05,
            0.05,
            m.add(hue(st, (0.7, 0.9), (0.4, 0.8))),
            DECOR,
        )
    return t


def pendant(st: Stream, m: Materials, ceiling: float) -> Thing:
    """A lamp hanging from the ceiling at the given height."""
    z, r = ceiling - st.u(0.6, 0.9), st.u(0.15, 0.3)
    t = Thing(size=(0.4, 0.4, ceiling))
    t.tube(0, 0, z + 0.15, 0.008, ceiling - z - 0.15, m.add(DARK), LAMP, shadow=False)
    t.tube(0, 0, z, r, 0.18, m.add((0.95, 0.85, 0.65), glow=st.u(0.8, 1.5)), LAMP, taper=-0.5, shadow=False)
    return t


def bookcase(st: Stream, m: Materials, w: float, h: float) -> Thing:
    """A tall case full of books."""
    d, wood = 0.34, m.wood()
    t = Thing(size=(w, d, h))
    rows = max(2, int(h / 0.36))
    step = (h - 0.1) / rows
    t.box(0, d * 0.5 - 0.01, 0, w, 0.02, h, wood, SHELF)
    for s in (-1, 1):
        t.box(s * (w * 0.5 - 0.02), 0, 0, 0.04, d, h, wood, SHELF)
    for r in range(rows + 1):
        t.box(0, 0, 0.06 + r * step - 0.015, w, d, 0.035, wood, SHELF)
    for r in range(rows):
        full = w - 0.08 if st.chance(0.8) else (w - 0.08) * st.u(0.5, 0.9)
        books = m.add(DARK, pattern=tx.BOOKS, scale=st.u(0.03, 0.055))
        t.box(-(w - 0.08 - full) * 0.5, 0.03, 0.075 + r * step, full, 0.24, step * 0.86, books, SHELF)
    return t


def ladder(st: Stream, m: Materials, h: float) -> Thing:
    """A ladder leaning backwards."""
    wood = m.wood()
    t = Thing(size=(0.5, 0.3, h))
    lean = turn(0, -0.08)
    for x in (-0.22, 0.22):
        t.put(0, (x, 0.0, h * 0.5), (0.025, 0.02, h * 0.5), wood, DECOR, spin=lean)
    for i in range(1, int(h / 0.28)):
        z = i * 0.28
        t.tube(0, (z - h * 0.5) * 0.16, z, 0.016, 0.44, wood, DECOR, axis=0)
    return t


def floor_lamp(st: Stream, m: Materials) -> Thing:
    """A standing lamp."""
    h, dark = st.u(1.4, 1.75), m.add(DARK)
    t = Thing(size=(0.4, 0.4, h))
    t.tube(0, 0, 0, 0.14, 0.03, dark, LAMP)
    t.tube(0, 0, 0, 0.015, h - 0.15, dark, LAMP)
    shade = m.add(st.pick(((0.95, 0.8, 0.55), (0.95, 0.9, 0.8), (0.9, 0.6, 0.4))), glow=st.u(0.7, 1.6))
    t.tube(0, 0, h - 0.28, st.u(0.15, 0.22), 0.28, shade, LAMP, taper=-0.3, shadow=False)
    return t


def plant(st: Stream, m: Materials) -> Thing:
    """A pot plant: leaves of ellipsoids, bushy or tall."""
    h, pot = st.u(0.5, 1.3), st.u(0.12, 0.2)
    t = Thing(size=(0.55, 0.55, h))
    t.tube(0, 0, 0, pot, pot * 1.7, m.paint(), PLANT, taper=0.2)
    c = (st.u(0.03, 0.2), st.u(0.25, 0.45), st.u(0.03, 0.12))
    leaves = (m.add(c), m.add(scaled(c, 0.7)), m.add(scaled(c, 1.3)))
    t.tube(0, 0, pot, 0.02, h * 0.6, m.wood(), PLANT)
    for i in range(st.n(7, 12)):
        z = pot * 2.0 + (h - pot * 2.0) * st.u(0.15, 1.0)
        x, y, r = st.u(-0.2, 0.2), st.u(-0.2, 0.2), st.u(0.08, 0.16)
        t.put(1, (x, y, z), (r, r * 0.35, r * 1.1), leaves[i % 3], PLANT, spin=turn(i % 3, st.u(-0.9, 0.9)))
    return t


def picture(st: Stream, m: Materials) -> Thing:
    """A framed picture hanging at eye height; its back is its wall side."""
    w, h = st.u(0.35, 0.8), st.u(0.35, 0.7)
    t = Thing(size=(w, 0.06, 1.9))
    z = st.u(1.3, 1.5)
    t.box(0, 0, z, w, 0.03, h, m.add(hue(st, (0.0, 0.6), (0.05, 0.7))), DECOR)
    inner = m.add(hue(st, (0.1, 0.8), (0.2, 0.9)), hue(st, (0.1, 0.9), (0.2, 0.9)), tx.PICTURE)
    t.box(0, -0.015, z + 0.04, w - 0.08, 0.02, h - 0.08, inner, DECOR)
    return t


def rug(st: Stream, m: Materials, w: float, d: float) -> Thing:
    """A flat rug, rectangular or round."""
    t = Thing(size=(w, d, 0.01))
    cloth = m.add(hue(st, (0.1, 0.7), (0.15, 0.7)), hue(st, (0.1, 0.7), (0.2, 0.8)), tx.RUG, st.u(0.06, 0.14))
    if st.chance(0.25):
        t.put(2, (0, 0, 0.006), (w * 0.5, d * 0.5, 0.006), cloth, DECOR, shadow=False)
    else:
        t.box(0, 0, 0, w, d, 0.012, cloth, DECOR, shadow=False)
    return t


def side_table(st: Stream, m: Materials) -> Thing:
    """A small round table with a vase."""
    h, wood = st.u(0.45, 0.65), m.wood()
    t = Thing(size=(0.5, 0.5, h))
    t.tube(0, 0, h, 0.24, 0.03, wood, TABLE)
    t.tube(0, 0, 0, 0.03, h, wood, TABLE)
    t.tube(0, 0, 0, 0.15, 0.03, wood, TABLE)
    t.tube(0.05, 0, h + 0.03, 0.06, 0.18, m.paint(0.4), DECOR, taper=-0.3)
    return t
