"""Writes the results of `isthmus bench rooms`: Markdown, JSON, curves as CSV and PNG."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.report.metrics import METRICS
from bench.report.plots import finish_byte_axes, new_figure, png_of
from bench.report.report import About, markdown
from bench.report.sections import Section, targets
from bench.rooms.parts import NETWORKS, Parts
from shared.files import write_atomically


def curves_csv(parts: Parts) -> str:
    """One line for each value: folder, quality, bytes and how they are counted, task, metric, value."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("folder", "quality", "bytes", "bytes_are", "task", "metric", "value"))
    for folder, part in parts.items():
        for task, metrics in part.uncompressed.items():
            writer.writerows((folder, "", "", "uncompressed", task, key, v) for key, v in metrics.items())
        counted = "written" if part.what == "bundle" else "float model's"
        for level in part.levels:
            for task, metrics in level.metrics.items():
                where = (folder, level.quality, f"{level.bytes:.3f}", counted, task)
                writer.writerows((*where, key, value) for key, value in metrics.items())
    return file.getvalue()


def curves_png(parts: Parts) -> bytes:
    """Bytes against the headline metric, a plot for each kind that was measured; dashed: the uncompressed network."""
    kinds = [kind for kind in METRICS if any(kind in part.kinds.values() for part in parts.values())]
    figure = new_figure(5 * len(kinds), 5)
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        metric = METRICS[kind]
        for folder, part in parts.items():
            for task in (name for name, own in part.kinds.items() if own == kind and part.levels):
                x = [level.bytes for level in part.levels]
                y = [part.headline(level, task) for level in part.levels]
                dash = "-" if part.what == "bundle" else ":"
                axes.plot(x, y, marker="o", markersize=4, linestyle=dash, label=folder)
        for folder in (one for one, own in NETWORKS.items() if own == kind and one in parts):
            axes.axhline(parts[folder].uncompressed[kind][metric.key], color="grey", linestyle="--")
        finish_byte_axes(axes, f"{metric.name}{metric.unit}", kind)
    return png_of(figure)


def write_report(out: Path, parts: Parts, sections: Sequence[Section], about: About) -> None:
    """Writes results.md, results.json, curves.csv and curves.png to `out`."""
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
