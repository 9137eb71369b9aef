"""Writes what `isthmus bench rooms` measured: Markdown, JSON, curves as CSV and PNG."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.report.report import About, finish_axes, markdown, new_figure, png_of, targets
from bench.report.sections import METRICS, Section
from bench.rooms.findings import NETWORKS, Parts
from shared.files import write_atomically


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
