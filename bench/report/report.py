"""Tables for the terminal and for Markdown, and the parts that every plot shares."""

from __future__ import annotations

import io
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from bench.report.sections import Section, Target
from shared.types import Frozen

TARGETS = ("what", "target", "reached", "met")


class About(Frozen):
    """Where a measurement comes from. date: UTC."""

    command: str
    date: str
    pictures: int
    machine: dict[str, str]


def this_machine() -> dict[str, str]:
    """Processor, cores, versions; no names."""
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


def targets(sections: Sequence[Section]) -> list[Target]:
    return [target for section in sections for target in section.targets]


def _met(target: Target) -> tuple[str, ...]:
    met = "cannot be told" if target.met is None else "yes" if target.met else "no"
    return target.what, target.target, target.reached, met


def show(sections: Sequence[Section], console: Console) -> None:
    """Print the sections and the targets."""
    for section in sections:
        _print(console, section.title, section.columns, section.rows, section.notes)
    _print(console, "Targets", TARGETS, [_met(target) for target in targets(sections)], ())


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
    sections: Sequence[Section], about: About, title: str = "Rooms", pictures: str = "test rooms"
) -> str:
    """results.md: fit to be put into a longer document, under a heading of the second level."""
    machine = ", ".join(f"{key} {value}" for key, value in about.machine.items())
    lines = [
        f"## {title}, {about.date[:10]}",
        "",
        f"`{about.command}`, {about.date}, on {about.pictures} {pictures}. Machine: {machine}.",
        "",
        "### Targets",
        "",
        *_table(TARGETS, [_met(target) for target in targets(sections)]),
    ]
    for section in sections:
        lines += ["", f"### {section.title}", ""]
        lines += _table(section.columns, section.rows) if section.rows else []
        lines += [""] if section.rows and section.notes else []
        lines += [f"- {note}" for note in section.notes]
    return "\n".join(lines).rstrip() + "\n"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]


def new_figure(width: float, height: float) -> Any:
    """matplotlib's, in inches of 100 pixels; without a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def finish_axes(axes: Any, ylabel: str, title: str) -> None:
    """Bytes a picture on a logarithmic axis, a grid, and a legend where something was drawn."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set(xscale="log", xlabel="bytes a picture", ylabel=ylabel, title=title)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")


def png_of(figure: Any) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100)
    return data.getvalue()
