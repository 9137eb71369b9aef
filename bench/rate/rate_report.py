"""Writes the results of `isthmus bench rate`: results.md, results.json, rate.csv, rate.png, and all in rate.html."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from bench.rate.comparison import Comparison
from bench.report.plots import finish_byte_axes, new_figure, png_of
from bench.report.report import About, markdown
from bench.report.sections import Section, targets
from shared.files import write_atomically

STYLES = {"isthmus": "-", "image": "-", "feature": "--", "learned": ":"}


def curves_csv(comparison: Comparison) -> str:
    """One line for each value: contender, its family and setting, task, bytes, metric, value, what it is against."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("contender", "family", "setting", "task", "bytes", "metric", "value", "against"))
    for result in comparison.results:
        for setting in result.settings:
            for task, metrics in setting.metrics.items():
                where = (result.name, result.family, setting.name, task, f"{setting.bytes[task]:.3f}")
                against = "labels" if task in comparison.labelled else "uncompressed network"
                writer.writerows((*where, key, f"{value:.6g}", against) for key, value in metrics.items())
    return file.getvalue()


def curves_png(comparison: Comparison) -> bytes:
    """The running best of every contender, a plot for each task; grey: the uncompressed network."""
    figure = new_figure(6 * len(comparison.kinds), 6)
    grid = figure.subplots(1, len(comparison.kinds), squeeze=False)[0]
    for axes, task in zip(grid, comparison.kinds, strict=True):
        metric = comparison.metric(task)
        for result in comparison.results:
            curve = comparison.curve(result, task)
            if curve is None or result.family == "uncompressed":
                continue
            ours = result.family == "isthmus"
            axes.plot(
                curve.sizes,
                metric.better * curve.qualities,
                STYLES[result.family],
                color="black" if ours else None,
                linewidth=2.5 if ours else 1.2,
                marker="o",
                markersize=6 if ours else 3,
                zorder=3 if ours else 2,
                label=result.name,
            )
        plain = comparison.headline(comparison.uncompressed, task)
        axes.axhline(plain, color="grey", linewidth=1, label="uncompressed")
        if metric.better < 0:
            axes.invert_yaxis()
        finish_byte_axes(axes, comparison.metric_name(task), task)
    return png_of(figure)


def write_report(out: Path, comparison: Comparison, sections: Sequence[Section], about: About) -> None:
    """Writes all five files to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for name, data in _files(comparison, sections, about):
        write_atomically(out / name, data)


def _files(comparison: Comparison, sections: Sequence[Section], about: About) -> Iterator[tuple[str, bytes]]:
    results = {
        **about.model_dump(mode="json"),
        "default": comparison.default,
        "targets": [target.model_dump(mode="json") for target in targets(sections)],
        "sections": [section.model_dump(mode="json", exclude={"targets"}) for section in sections],
        "contenders": [result.model_dump(mode="json") for result in comparison.results],
    }
    table, plot = curves_csv(comparison), curves_png(comparison)
    yield "results.json", json.dumps(results, indent=1).encode()
    yield "results.md", markdown(sections, about, "Rate", "images").encode()
    yield "rate.csv", table.encode()
    yield "rate.png", plot
    yield "rate.html", page(comparison, sections, about, plot, table).encode()


def page(
    comparison: Comparison,
    sections: Sequence[Section],
    about: About,
    plot: bytes,
    table: str,
) -> str:
    """One HTML page that needs no other file. plot: PNG; table: CSV."""
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(_PAGE)
    return template.render(
        about=about,
        targets=targets(sections),
        sections=sections,
        comparison=comparison,
        plot=base64.b64encode(plot).decode(),
        csv=base64.b64encode(table.encode()).decode(),
    )


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>isthmus bench rate</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .5rem 0; display: block; overflow-x: auto }
th, td { padding: .2rem .7rem; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top }
th { border-bottom: 2px solid #888 }
img { width: 100% }
.yes { color: #06602b } .no { color: #a40000 }
.note { color: #555; font-size: .9em; max-width: 60rem }
code { overflow-wrap: anywhere }
</style>
</head>
<body>
<h1>Bytes against task quality</h1>
<p><code>{{ about.command }}</code></p>
<p>{{ about.date }}, {{ about.images }} images.
{% for key, value in about.machine.items() %}{{ key }} {{ value }}{{ ", " if not loop.last else "." }}{% endfor %}
</p>
<h2>Targets</h2>
<table>
<tr><th>what</th><th>target</th><th>reached</th><th>met</th></tr>
{% for target in targets %}
<tr><td>{{ target.what }}</td><td>{{ target.target }}</td><td>{{ target.reached }}</td>
<td class="{{ target.verdict }}">{{ target.verdict }}</td></tr>
{% endfor %}
</table>
<h2>Curves</h2>
<img alt="Bytes against quality, a plot for each task" src="data:image/png;base64,{{ plot }}">
<p class="note">The running best of each contender.
<a download="rate.csv" href="data:text/csv;base64,{{ csv }}">rate.csv</a></p>
{% for section in sections %}
<h2>{{ section.title }}</h2>
{% if section.rows %}
<table>
<tr>{% for cell in section.columns %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in section.rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% endif %}
{% for note in section.notes %}
<p class="note">{{ note }}</p>
{% endfor %}
{% endfor %}
<h2>Every measured setting</h2>
<table>
<tr><th>contender</th><th>setting</th>
{% for task in comparison.kinds %}<th>{{ task }}: bytes</th><th>{{ comparison.metric_name(task) }}</th>{% endfor %}
</tr>
{% for result in comparison.results %}
{% for setting in result.settings %}
<tr><td>{{ result.name }}</td><td>{{ setting.name }}</td>
{% for task in comparison.kinds %}
{% if task in setting.metrics %}
<td>{{ "%.1f" | format(setting.bytes[task]) }}</td>
<td>{{ comparison.metric(task).text(comparison.headline(setting, task)) }}</td>
{% else %}
<td></td><td></td>
{% endif %}
{% endfor %}
</tr>
{% endfor %}
{% endfor %}
</table>
</body>
</html>
"""
