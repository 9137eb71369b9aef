"""Writes what was measured: a table for the terminal and for Markdown, curves as CSV and PNG, everything as JSON."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from cloud.bench.findings import METRICS, NETWORKS, Parts, Section, Target
from shared.files import write_atomically
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


def curves_csv(parts: Parts) -> str:
    """One line a figure: folder, quality, bytes and how they are counted, task, figure, value."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("folder", "quality", "bytes", "bytes_are", "task", "figure", "value"))
    for folder, part in parts.items():
        for task, figures in part.uncompressed.items():
            writer.writerows((folder, "", "", "uncompressed", task, key, v) for key, v in figures.items())
        counted = "written" if part.what == "bundle" else "float model's"
        for point in part.points:
            for task, figures in point.tasks.items():
                where = (folder, point.quality, f"{point.bytes:.3f}", counted, task)
                writer.writerows((*where, key, value) for key, value in figures.items())
    return file.getvalue()


def curves_png(parts: Parts) -> bytes:
    """Bytes against the figure of each kind of task; dashed: the uncompressed network."""
    figure = new_figure(15, 5)
    for axes, (kind, metric) in zip(figure.subplots(1, len(METRICS)), METRICS.items(), strict=True):
        for folder, part in parts.items():
            for task in (name for name, own in part.kinds.items() if own == kind and part.points):
                x = [point.bytes for point in part.points]
                y = [point.tasks[task][metric.key] for point in part.points]
                dash = "-" if part.what == "bundle" else ":"
                axes.plot(x, y, marker="o", markersize=4, linestyle=dash, label=folder)
        for folder in (one for one, own in NETWORKS.items() if own == kind and one in parts):
            axes.axhline(parts[folder].uncompressed[kind][metric.key], color="grey", linestyle="--")
        finish_axes(axes, f"{metric.name}{metric.unit}", kind)
    return png_of(figure)


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


def write_report(out: Path, parts: Parts, sections: Sequence[Section], about: About) -> None:
    """results.md, results.json, curves.csv and curves.png in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for name, data in _files(parts, sections, about):
        write_atomically(out / name, data)


def _files(parts: Parts, sections: Sequence[Section], about: About) -> Iterator[tuple[str, bytes]]:
    results: dict[str, Any] = {
        **about.model_dump(mode="json"),
        "targets": [target.model_dump(mode="json") for target in targets(sections)],
        "sections": [section.model_dump(mode="json", exclude={"targets"}) for section in sections],
        "parts": {folder: part.model_dump(mode="json") for folder, part in parts.items()},
    }
    yield "results.json", json.dumps(results, indent=1).encode()
    yield "results.md", markdown(sections, about).encode()
    yield "curves.csv", curves_csv(parts).encode()
    yield "curves.png", curves_png(parts)
