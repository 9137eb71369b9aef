"""`isthmus bench rooms`: how the shipped bundle and its method do on the test rooms, against targets and peers.

WORK, the folder that deploy/train-rooms.sh fills -> measure -> findings -> report. A missing folder is reported,
and the rest is measured.
"""

from __future__ import annotations

from pathlib import Path

from bench.report.report import About
from bench.report.sections import Section
from bench.rooms.findings import findings
from bench.rooms.measure import PartMeasurer
from bench.rooms.parts import CODECS, NETWORKS, MeasuredPart
from bench.rooms.rooms_report import write_report
from shared.errors import DataError


def bench_rooms(work: Path, out: Path, rooms: int | None, command: str, device: str = "cpu") -> list[Section]:
    """Measures what WORK holds on its first `rooms` test rooms, and writes the report to `out`. Raises DataError."""
    if not (work / "test").is_dir():
        raise DataError(f"{work} has no test rooms (test/); deploy/train-rooms.sh makes such a folder")
    parts, missing = measure_parts(PartMeasurer(work / "test", out, rooms, device), work)
    if not parts:
        raise DataError(f"{work} holds nothing to measure; deploy/train-rooms.sh makes such a folder")
    sections = findings(parts, missing)
    write_report(out, parts, sections, About.now(command, next(iter(parts.values())).images))
    return sections


def measure_parts(measurer: PartMeasurer, work: Path) -> tuple[dict[str, MeasuredPart], dict[str, str]]:
    """By folder: what was measured, and why nothing could be."""
    measures = {
        **dict.fromkeys(NETWORKS, measurer.network),
        "bundle": measurer.bundle,
        **dict.fromkeys(CODECS, measurer.codec),
    }
    parts, missing = {}, {}
    for name, measure in measures.items():
        if not (work / name).is_dir():
            missing[name] = f"{name} is missing"
            continue
        try:
            parts[name] = measure(work / name)
        except DataError as error:  # a training that has not ended, for example
            missing[name] = str(error)
    return parts, missing
