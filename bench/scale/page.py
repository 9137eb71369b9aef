"""The tables of docs/scale.md. The page is written by hand around them; `rewritten` puts the tables in."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bench.scale.inputs import Input
from bench.scale.model import SIZES, camera_of, fleet_of, limits_of, lost_zone, year_replay
from shared.errors import DataError

_BLOCK = re.compile(r"(<!-- table: ([a-z ]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

Rows = Sequence[Sequence[str]]


def tables(inputs: Sequence[Input]) -> dict[str, str]:
    """Each table as Markdown, by its name in the page."""
    return {
        "camera": _table(_camera(inputs)),
        "fleets": _table(_fleets(inputs)),
        "cost": _table(_cost(inputs)),
        "limits": _table(_limits(inputs)),
        "lost zone": _table(_lost_zone(inputs)),
        "replay": _table(_replays(inputs)),
        "inputs": _table(_inputs(inputs)),
    }


def rewritten(page: str, inputs: Sequence[Input]) -> str:
    """The page with its tables made anew. Raises DataError where it lacks one, or has one that is not known."""
    made = tables(inputs)
    found = [match[2] for match in _BLOCK.finditer(page)]
    if sorted(found) != sorted(made):
        raise DataError(
            f"the page has the tables {', '.join(found)}; it must have {', '.join(made)}, each once"
        )
    return _BLOCK.sub(lambda match: f"{match[1]}{made[match[2]]}{match[4]}", page)


def _camera(inputs: Sequence[Input]) -> Rows:
    camera = camera_of(inputs)
    return (
        ("one camera, on average", ""),
        ("frames I / P / S", f"{camera.intra:.1%} / {camera.predicted:.1%} / {camera.same:.1%}"),
        ("link up / down, TCP and IP included", f"{camera.up / 1e3:.2f} / {camera.down / 1e3:.2f} kbit/s"),
        ("decoding", f"{1e3 * camera.decode:.3f} core-ms a second"),
        ("tails and results, all tasks", f"{1e3 * camera.tails:.3f} core-ms a second"),
        ("gRPC, queue, asyncio, frames S", f"{1e3 * camera.rest:.3f} core-ms a second"),
        ("a record in a segment, with its index", f"{camera.kept:.0f} bytes"),
    )


def _fleets(inputs: Sequence[Input]) -> Rows:
    fleets = [fleet_of(inputs, cameras) for cameras in SIZES]
    return (
        ("cameras", *(f"{one.cameras:,}" for one in fleets)),
        ("frames a second", *(_number(one.cameras * one.camera.fps) for one in fleets)),
        ("link up, Mbit/s", *(_number(one.cameras * one.camera.up / 1e6) for one in fleets)),
        ("link down, Mbit/s", *(_number(one.cameras * one.camera.down / 1e6) for one in fleets)),
        ("cores busy decoding", *(_number(one.cameras * one.camera.decode) for one in fleets)),
        ("cores busy with tails and results", *(_number(one.cameras * one.camera.tails) for one in fleets)),
        ("cores busy with the rest", *(_number(one.cameras * one.camera.rest) for one in fleets)),
        ("cores to pay", *(_number(one.paid_cores) for one in fleets)),
        ("processes, default sessions", *(_number(one.processes) for one in fleets)),
        ("machines", *(_number(one.machines) for one in fleets)),
        ("memory of sessions, GB", *(_number(one.memory_gb) for one in fleets)),
        ("kept records, GB", *(_number(one.stored_gb) for one in fleets)),
        ("kept segments", *(_number(one.segments) for one in fleets)),
    )


def _cost(inputs: Sequence[Input]) -> Rows:
    fleets = [fleet_of(inputs, cameras) for cameras in SIZES]
    parts = [(name, *(_number(one.dollars[name]) for one in fleets)) for name in fleets[0].dollars]
    return (
        ("$ a month", *(f"{one.cameras:,} cameras" for one in fleets)),
        *parts,
        ("together", *(_number(sum(one.dollars.values())) for one in fleets)),
        ("a camera", *(f"{one.dollars_a_camera:.3f}" for one in fleets)),
    )


def _limits(inputs: Sequence[Input]) -> Rows:
    rows = [(f"{one.cameras:,.0f}", one.what, one.then) for one in limits_of(inputs)]
    return (("cameras", "what is full then", "then"), *rows)


def _lost_zone(inputs: Sequence[Input]) -> Rows:
    lost = [lost_zone(inputs, cameras) for cameras in SIZES]
    return (
        ("cameras", *(f"{cameras:,}" for cameras in SIZES)),
        ("sessions that open anew", *(_number(one.sessions) for one in lost)),
        ("core-seconds for that", *(_number(one.core_s) for one in lost)),
        ("seconds, with the free cores that are left", *(_number(one.seconds) for one in lost)),
        ("GB up for that", *(_number(one.gb_up) for one in lost)),
        ("GB of records not sealed there, a day at most", *(_number(one.unsealed_gb) for one in lost)),
    )


def _replays(inputs: Sequence[Input]) -> Rows:
    rows = []
    for cameras in SIZES:
        for class_alone, task in ((True, "class"), (False, "all tasks")):
            one = year_replay(inputs, cameras, class_alone=class_alone)
            numbers = (one.frames / 1e6, one.answers / 1e6, one.core_hours, one.hours, one.dollars)
            rows.append((f"{cameras:,}", task, *map(_number, numbers)))
    return (("cameras", "asked", "million frames", "million answers", "core-hours", "hours", "$"), *rows)


def _inputs(inputs: Sequence[Input]) -> Rows:
    return (
        ("input", "value", "what", "from"),
        *((one.name, f"{one.value:g} {one.unit}".strip(), one.what, _source(one)) for one in inputs),
    )


def _source(one: Input) -> str:
    if one.kind == "measured":
        return f"[measured](results/{one.page})"
    return f"default of `{one.setting}`" if one.kind == "default" else "assumed"


def _number(value: float) -> str:
    """Three digits are more than the model is good for."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _table(rows: Rows) -> str:
    head, *rest = rows
    lines = [head, ["---"] * len(head), *rest]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)
