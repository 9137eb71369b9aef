"""`isthmus bench rooms`: what the shipped bundle and its method do on the test rooms, against targets and peers.

WORK, the folder of deploy/train-rooms.sh -> measure -> findings -> report. A folder that is not there is told, and the
rest measured.
"""

from __future__ import annotations

import datetime
from pathlib import Path

from bench.report.report import About, this_machine
from bench.report.sections import Section
from bench.rooms.findings import CODECS, NETWORKS, findings
from bench.rooms.measure import Bench, Measured
from bench.rooms.rooms_report import write_report
from shared.errors import DataError


def bench_rooms(work: Path, out: Path, rooms: int | None, command: str, device: str = "cpu") -> list[Section]:
    """Measure what WORK holds, on its first `rooms` test rooms, and write the report to `out`. Raises DataError."""
    if not (work / "test").is_dir():
        raise DataError(f"{work} has no test rooms (test/); deploy/train-rooms.sh makes such a folder")
    bench = Bench(work / "test", out, rooms, device)
    parts, missing = measure(bench, work)
    if not parts:
        raise DataError(f"{work} holds nothing to measure; deploy/train-rooms.sh makes such a folder")
    sections = findings(parts, missing)
    about = About(
        command=command,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        pictures=next(iter(parts.values())).pictures,
        machine=this_machine(),
    )
    write_report(out, parts, sections, about)
    return sections


def measure(bench: Bench, work: Path) -> tuple[dict[str, Measured], dict[str, str]]:
    """By folder: what it gave, or why nothing could be measured."""
    ways = {
        **dict.fromkeys(NETWORKS, bench.network),
        "bundle": bench.bundle,
        **dict.fromkeys(CODECS, bench.codec),
    }
    parts, missing = {}, {}
    for name, way in ways.items():
        if not (work / name).is_dir():
            missing[name] = f"{name} is missing"
            continue
        try:
            parts[name] = way(work / name)
        except DataError as error:  # a training that has not ended, for example
            missing[name] = str(error)
    return parts, missing
