"""The report of a bench: where it was measured, and its sections as tables for the terminal and as Markdown."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from bench.report.sections import Section, Target, targets
from shared.files import write_atomically
from shared.types import Frozen

TARGETS = ("what", "target", "reached", "met")


class About(Frozen):
    """Where a measurement comes from. date: UTC, ISO 8601. images: how many were measured."""

    command: str
    date: str
    images: int
    machine: dict[str, str]

    @classmethod
    def now(cls, command: str, images: int) -> About:
        date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return cls(command=command, date=date, images=images, machine=this_machine())


def this_machine() -> dict[str, str]:
    """Processor, cores and versions; nothing that names the machine."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    machine = {
        "processor": processor,
        "cores": str(os.cpu_count()),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    return machine | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def show(sections: Sequence[Section], console: Console) -> None:
    """Prints the sections, then all their targets."""
    for section in sections:
        _print(console, section.title, section.columns, section.rows, section.notes)
    if found := targets(sections):
        _print(console, "Targets", TARGETS, [_row(target) for target in found], ())


def _row(target: Target) -> tuple[str, ...]:
    return target.what, target.target, target.reached, target.verdict


def _print(
    console: Console,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
) -> None:
    console.print(f"\n[bold]{title}[/bold]")
    if rows:
        table = Table(*columns, box=box.SIMPLE_HEAD)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for note in notes:
        console.print(note, markup=False, highlight=False)


def markdown(
    sections: Sequence[Section],
    about: About,
    title: str = "Rooms",
    images: str = "test rooms",
) -> str:
    """results.md; its heading is of the second level, so that it fits into a longer document."""
    machine = ", ".join(f"{key} {value}" for key, value in about.machine.items())
    lines = [
        f"## {title}, {about.date[:10]}",
        "",
        f"`{about.command}`, {about.date}, on {about.images} {images}. Machine: {machine}.",
    ]
    if found := targets(sections):
        lines += ["", "### Targets", "", *_table(TARGETS, [_row(target) for target in found])]
    for section in sections:
        lines += ["", f"### {section.title}", ""]
        lines += _table(section.columns, section.rows) if section.rows else []
        lines += [""] if section.rows and section.notes else []
        lines += [f"- {note}" for note in section.notes]
    return "\n".join(lines).rstrip() + "\n"


def write_results(out: Path, measured: Frozen, sections: Sequence[Section], text: str) -> None:
    """Writes what was measured, with the targets, to results.json in `out`, and `text` to results.md."""
    results = {
        **measured.model_dump(mode="json"),
        "targets": [target.model_dump(mode="json") for target in targets(sections)],
    }
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "results.json", json.dumps(results, indent=1).encode())
    write_atomically(out / "results.md", text.encode())


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
