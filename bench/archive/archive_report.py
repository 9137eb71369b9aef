"""What `isthmus bench archive` measures, and its report."""

from __future__ import annotations

from pathlib import Path

from bench.report.report import About, markdown, write_results
from bench.report.sections import Section, Target
from shared.types import Frozen

NOTES = (
    "Each step but the first is the command that a user runs, in a process of its own: its start is included, as is "
    "loading torch and the bundle for a replay. `most` is the largest resident memory of that process.",
    "Frames are real ones of two rendered rooms, coded by the edge, and repeated for every camera.",
)


class Step(Frozen):
    """One command. records: that it went over. most_mb: of resident memory."""

    name: str
    seconds: float
    cpu_s: float
    records: int
    bytes: int
    most_mb: float


class Archived(Frozen):
    """All that was measured.

    shares, sizes: of the records by type of frame, and their mean bytes. head_bytes: of the database before it was
    sealed. data_bytes, index_bytes: of the segments. killed_records: that were counted after sealing was killed.
    flipped: what was damaged. found: what `verify` said of it.
    """

    about: About
    bundle: str
    records: int
    cameras: int
    shares: dict[str, float]
    sizes: dict[str, float]
    segments: int
    head_bytes: int
    data_bytes: int
    index_bytes: int
    killed_records: int
    flipped: str
    found: str
    steps: tuple[Step, ...]


def sections(measured: Archived) -> list[Section]:
    kinds = [
        (kind, f"{100 * share:.2f} %", f"{measured.sizes[kind]:.1f}")
        for kind, share in measured.shares.items()
    ]
    per = 1 / measured.records
    sizes = [
        ("database, before", f"{measured.head_bytes / 1e6:.1f}", f"{measured.head_bytes * per:.1f}"),
        ("segments' data", f"{measured.data_bytes / 1e6:.1f}", f"{measured.data_bytes * per:.1f}"),
        ("segments' indices", f"{measured.index_bytes / 1e6:.1f}", f"{measured.index_bytes * per:.1f}"),
    ]
    return [
        Section(
            title=f"{measured.records:,} frames of {measured.cameras} cameras, {measured.segments} segments",
            columns=("step", "records", "s", "CPU s", "records/s", "most, MB"),
            rows=tuple(_row(step) for step in measured.steps),
            notes=NOTES,
            targets=_targets(measured),
        ),
        Section(title="Frames", columns=("type", "share", "bytes"), rows=tuple(kinds)),
        Section(title="Size", columns=("what", "MB", "bytes a record"), rows=tuple(sizes)),
    ]


def _row(step: Step) -> tuple[str, ...]:
    rate = f"{step.records / step.seconds:,.0f}"
    return (
        step.name,
        f"{step.records:,}",
        f"{step.seconds:.1f}",
        f"{step.cpu_s:.1f}",
        rate,
        f"{step.most_mb:.0f}",
    )


def _targets(measured: Archived) -> tuple[Target, ...]:
    found = measured.flipped in measured.found and "record s." in measured.found
    return (
        Target(
            what="records after sealing was killed in the middle",
            target=f"{measured.records:,}",
            reached=f"{measured.killed_records:,}",
            met=measured.killed_records == measured.records,
        ),
        Target(
            what=f"a bit flipped in {measured.flipped}",
            target="found and named",
            reached=measured.found or "not found",
            met=found,
        ),
    )


def write_archived(out: Path, measured: Archived) -> None:
    """Writes results.json and results.md to `out`."""
    made = sections(measured)
    title = f"An archive of {measured.records:,} frames"
    write_results(out, measured, made, markdown(made, measured.about, title, "frames"))
