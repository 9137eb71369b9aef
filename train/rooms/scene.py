"""One room from one seed: category, shell, furniture that only the category decides, clutter that it does not decide.

Only the signature things show the category. A layout is checked on a 48 by 48 render and drawn again, by the
same deterministic rule everywhere, until the signature things are in view.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from train.rooms import equipment as eq
from train.rooms import furniture as fu
from train.rooms import plumbing as pl
from train.rooms import venues as ve
from train.rooms import workshop as wo
from train.rooms.layout import Layout, Placed
from train.rooms.parts import Materials, Stream, rotated
from train.rooms.raycast import SceneArrays, rasterise
from train.rooms.shell import BACK, LEFT, RIGHT, Shell, sample_shell

SEED_MAX = 2**63 - 1
_COVER_MIN, _COVER_MAX = 0.13, 0.62  # share of a square view that signature things fill
_ATTEMPTS = 12


def _bedroom(a: Layout, st: Stream, m: Materials) -> None:
    if a.wall(fu.double_bed(st, m)):
        along, _ = a.where()
        wall, w = a.wall_used, a.placed[-1][0].size[0]
        for side in (-1, 1):
            if st.chance(0.75):
                a.before(fu.nightstand(st, m), wall, along + side * (w * 0.5 + 0.27), 0.24)
    if st.chance(0.7):
        a.wall(fu.wardrobe(st, m), signature=False)


def _living_room(a: Layout, st: Stream, m: Materials) -> None:
    if a.wall(fu.sofa(st, m, st.n(2, 3))):
        along, d = a.where()
        a.before(fu.coffee_table(st, m), a.wall_used, along, d + st.u(0.6, 0.8))
    if st.chance(0.75):
        a.wall(fu.television(st, m))
    if st.chance(0.6):
        a.free(fu.sofa(st, m, 1), far=True)


def _kitchen(a: Layout, st: Stream, m: Materials) -> None:
    for w in (st.u(2.8, 3.6), 2.7, 2.4):
        if a.wall(pl.kitchen_run(st, m, w)):
            break


def _bathroom(a: Layout, st: Stream, m: Materials) -> None:
    shower_first = st.chance(0.5)
    if shower_first:
        a.wall(pl.shower(st, m))
    if not shower_first or st.chance(0.6):
        a.wall(pl.bathtub(st, m))
    a.wall(pl.toilet(st, m))
    a.wall(pl.washbasin(st, m))


def _office(a: Layout, st: Stream, m: Materials) -> None:
    for _ in range(st.n(2, 3)):
        a.wall(fu.computer_desk(st, m))
    if st.chance(0.7):
        a.wall(fu.filing_cabinet(st, m))
    if len(a.placed) < 3:
        a.free(fu.computer_desk(st, m), any_angle=False)


def _dining_room(a: Layout, st: Stream, m: Materials) -> None:
    if a.free(fu.dining_set(st, m), any_angle=False, far=True) and st.chance(0.5):
        _, x, y, c, s = a.placed[-1]
        a.placed.append((fu.pendant(st, m, a.shell.room[2]), x, y, c, s))


def _library(a: Layout, st: Stream, m: Materials) -> None:
    h = min(st.u(1.9, 2.5), a.shell.room[2] - 0.1)
    for _ in range(st.n(4, 6)):
        a.wall(fu.bookcase(st, m, st.u(0.9, 1.5), h))
    if st.chance(0.4):
        a.wall(fu.ladder(st, m, 2.0))


def _classroom(a: Layout, st: Stream, m: Materials) -> None:
    board = eq.chalkboard(st, m)
    if not a.wall(board, walls=(BACK, BACK, BACK, LEFT, RIGHT)):
        return
    wall = a.wall_used
    top, frame, seat = m.wood(), m.grey(0.1, 0.5), m.wood() if st.chance(0.5) else m.paint()
    du, dv = st.u(0.8, 1.0), st.u(1.05, 1.2)
    n = a.shell.length(wall)
    count = min(5, int((n - 0.5) / du))
    start = st.u(0.8, 1.2)
    for row in range(3):
        for i in range(count):
            along = n * 0.5 + (i - (count - 1) * 0.5) * du + st.u(-0.04, 0.04)
            a.before(eq.school_desk(st, m, top, frame, seat), wall, along, start + (row + 0.5) * dv)


def _gym(a: Layout, st: Stream, m: Materials) -> None:
    a.free(eq.weight_bench(st, m), far=True)
    a.wall(eq.dumbbell_rack(st, m))
    for _ in range(st.n(1, 2)):
        a.free(eq.treadmill(st, m))
    if st.chance(0.6):
        a.free(eq.exercise_ball(st, m))


def _laundry(a: Layout, st: Stream, m: Materials) -> None:
    stacked = st.chance(0.4)
    for count in (st.n(3, 4), 3, 2):
        if a.wall(wo.washers(st, m, count, stacked)):
            break
    if st.chance(0.75):
        a.free(wo.clothes_rack(st, m))
    if st.chance(0.75):
        a.free(wo.laundry_basket(st, m))


def _nursery(a: Layout, st: Stream, m: Materials) -> None:
    a.wall(eq.crib(st, m), away=st.u(0.05, 0.4))
    a.free(eq.toy_blocks(st, m))
    if st.chance(0.8):
        a.free(eq.teddy(st, m, st.u(1.2, 1.7)))
    if st.chance(0.3):
        a.wall(eq.crib(st, m))
    else:
        a.wall(eq.changing_table(st, m))


def _music_room(a: Layout, st: Stream, m: Materials) -> None:
    a.free(eq.drum_kit(st, m), any_angle=True, far=True)
    if st.chance(0.8):
        a.wall(eq.piano(st, m))
    for _ in range(st.n(1, 2)):
        a.free(eq.guitar(st, m))


def _workshop(a: Layout, st: Stream, m: Materials) -> None:
    for w in (st.u(2.0, 2.8), 1.9):
        if a.wall(wo.workbench(st, m, w)):
            break
    if st.chance(0.7):
        a.free(wo.sawhorse(st, m))
    if st.chance(0.4):
        a.wall(wo.workbench(st, m, 1.7))


def _cafe(a: Layout, st: Stream, m: Materials) -> None:
    if st.chance(0.85):
        for w in (st.u(2.0, 2.8), 1.9):
            if a.wall(ve.cafe_counter(st, m, w)):
                break
    top, base, wood, cloth = m.wood(), m.grey(0.02, 0.4), m.wood(), m.fabric()
    for _ in range(st.n(2, 5)):
        a.free(ve.bistro_set(st, m, top, base, wood, cloth))


def _garage(a: Layout, st: Stream, m: Materials) -> None:
    a.free(ve.car(st, m), far=True, near=1.5) or a.free(ve.car(st, m), far=True, near=1.1)
    if st.chance(0.8):
        a.free(ve.tyre_stack(st, m))


def _cinema(a: Layout, st: Stream, m: Materials) -> None:
    for w in (st.u(3.0, 3.8), 2.6):
        if a.wall(ve.film_screen(st, m, w), walls=(BACK, BACK, BACK, LEFT, RIGHT)):
            break
    wall = a.wall_used
    n = a.shell.length(wall)
    cloth, base = m.fabric(), m.grey(0.01, 0.1)
    start, dv = st.u(1.6, 2.0), st.u(0.85, 1.0)
    for row in range(4):
        for count in range(int((n - 0.5) / 0.58), 1, -1):
            if a.before(ve.seat_row(st, m, count, cloth, base), wall, n * 0.5, start + row * dv):
                break


def _server_room(a: Layout, st: Stream, m: Materials) -> None:
    for _ in range(st.n(2, 3)):
        for count in (st.n(3, 5), 3, 2):
            if a.wall(ve.server_racks(st, m, count), away=st.u(0.02, 0.3)):
                break


def _warehouse(a: Layout, st: Stream, m: Materials) -> None:
    h = min(st.u(2.1, 2.7), a.shell.room[2] - 0.1)
    for _ in range(st.n(1, 3)):
        a.wall(ve.pallet_rack(st, m, st.u(1.8, 2.8), h))
    for _ in range(st.n(1, 2)):
        a.free(ve.pallet(st, m))


_LAYOUTS: dict[str, Callable[[Layout, Stream, Materials], None]] = {
    "bedroom": _bedroom,
    "living room": _living_room,
    "kitchen": _kitchen,
    "bathroom": _bathroom,
    "office": _office,
    "dining room": _dining_room,
    "library": _library,
    "classroom": _classroom,
    "gym": _gym,
    "laundry": _laundry,
    "nursery": _nursery,
    "music room": _music_room,
    "workshop": _workshop,
    "cafe": _cafe,
    "garage": _garage,
    "cinema": _cinema,
    "server room": _server_room,
    "warehouse": _warehouse,
}
CATEGORIES: tuple[str, ...] = tuple(_LAYOUTS)


def category_of(seed: int) -> int:
    """The index in CATEGORIES of a seed's room, uniform over seeds."""
    if not 0 <= seed <= SEED_MAX:
        raise ValueError(f"a seed is an integer from 0 to 2**63 - 1, got {seed}")
    return Stream(seed, "category").n(0, len(CATEGORIES) - 1)


def _clutter(a: Layout, st: Stream, m: Materials) -> None:
    """Things that stand in any room and give no hint of its category."""
    if st.chance(0.4):
        a.free(fu.rug(st, m, st.u(1.4, 2.4), st.u(1.0, 1.8)), signature=False, any_angle=False, flat=True)
    for _ in range(st.n(0, 2)):
        a.wall(fu.picture(st, m), signature=False, hang=True)
    for _ in range(st.n(0, 3)):
        kind = st.n(0, 5)
        if kind <= 1:
            a.wall(fu.plant(st, m), signature=False)
        elif kind == 2:
            lamp = fu.floor_lamp(st, m)
            if a.wall(lamp, signature=False) and len(a.shell.lights) < 4:
                _, x, y, _, _ = a.placed[-1]
                k = st.u(0.8, 2.0)
                a.shell.lights.append(
                    (x, y, lamp.size[2] - 0.15, 0.08, 0.08, 0.08, k, k * 0.8, k * 0.55, 0.0, 0.0, 0.0)
                )
        elif kind == 3:
            a.wall(fu.side_table(st, m), signature=False)
        elif kind == 4:
            a.free(fu.plain_chair(st, m), signature=False)
        else:
            a.wall(ve.carton(st, m, st.u(0.3, 0.5), st.u(0.3, 0.4), st.u(0.25, 0.4)), signature=False)


def scene_arrays(seed: int, shell: Shell, things: Sequence[Placed]) -> tuple[SceneArrays, np.ndarray]:
    """A shell and everything in it as arrays, and which of their parts belong to signature things."""
    part_f, part_i, signature = [], [], []
    for group, (thing, px, py, c, s) in enumerate(things):
        for kind, at, spin, half, taper, material, semantic, shadow in thing.parts:
            r = rotated(c, s, spin)
            x, y = px + c * at[0] - s * at[1], py + s * at[0] + c * at[1]
            rows = (r[0], r[3], r[6], r[1], r[4], r[7], r[2], r[5], r[8])
            part_f.append((x, y, at[2], *rows, *half, taper))
            part_i.append((kind, material, semantic, int(shadow), group))
            signature.append(thing.signature)
    arrays = SceneArrays(
        part_f=np.array(part_f, dtype=np.float64),
        part_i=np.array(part_i, dtype=np.int64),
        materials=np.array(shell.materials.rows, dtype=np.float64),
        room=np.array(shell.room, dtype=np.float64),
        shell=np.array(shell.surfaces, dtype=np.int64),
        lights=np.array(shell.lights, dtype=np.float64),
        camera=np.array(shell.camera, dtype=np.float64),
        sensor=np.array(shell.sensor, dtype=np.float64),
        noise_seed=Stream(seed, "sensor").n(0, (1 << 31) - 1),
    )
    return arrays, np.array(signature, dtype=bool)


def build_scene(seed: int) -> tuple[SceneArrays, int]:
    """The scene of a seed and its category. Raises ValueError for a seed outside 0 .. 2**63 - 1."""
    _, arrays, category = build_layout(seed)
    return arrays, category


def build_layout(seed: int) -> tuple[Layout, SceneArrays, int]:
    """The room of a seed: what stands where, the same as arrays, its category. Raises as `build_scene`."""
    category = category_of(seed)
    best: tuple[float, Layout, SceneArrays] | None = None
    for attempt in range(_ATTEMPTS):
        # The same shell for several layouts: the camera is moved only if furniture alone does not come into view.
        shell = sample_shell(seed, attempt // 6)
        stream = Stream(seed, "layout", attempt)
        shell.materials.stream = Stream(seed, "layout materials", attempt)
        layout = Layout(shell, stream, shell.materials)
        _LAYOUTS[CATEGORIES[category]](layout, stream, shell.materials)
        layout.st = Stream(seed, "clutter", attempt)
        shell.materials.stream = Stream(seed, "clutter materials", attempt)
        _clutter(layout, layout.st, shell.materials)
        arrays, signature = scene_arrays(seed, shell, layout.all_placed())
        _, code = rasterise(arrays.part_f, arrays.part_i, arrays.room, arrays.camera, 48, 48)
        cover = float(np.count_nonzero(signature[code[code >= 0] >> 3])) / code.size
        good = cover if cover <= _COVER_MAX else 1.0 - cover
        if best is None or good > best[0]:
            best = (good, layout, arrays)
        if _COVER_MIN <= cover <= _COVER_MAX:
            break
    assert best is not None
    return best[1], best[2], category
