"""Writes what `isthmus bench rate` found: results.md and .json, rate.csv, rate.png; and rate.html, which holds all."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from bench.rate.findings import Race
from bench.report.report import About, finish_axes, markdown, new_figure, png_of, targets
from bench.report.sections import Section
from shared.files import write_atomically

STYLES = {"isthmus": "-", "image": "-", "feature": "--", "learned": ":"}


def curves_csv(race: Race) -> str:
    """One line a figure: way, its family and setting, task, bytes, figure, value."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("way", "family", "setting", "task", "bytes", "figure", "value", "against"))
    for way in race.ways:
        for point in way.points:
            for task, figures in point.tasks.items():
                where = (way.name, way.family, point.setting, task, f"{point.bytes[task]:.3f}")
                against = "labels" if task in race.labelled else "uncompressed network"
                writer.writerows((*where, key, f"{value:.6g}", against) for key, value in figures.items())
    return file.getvalue()


def curves_png(race: Race) -> bytes:
    """Every way's running best, a task beside the other; grey: the uncompressed network."""
    figure = new_figure(6 * len(race.kinds), 6)
    grid = figure.subplots(1, len(race.kinds), squeeze=False)[0]
    for axes, task in zip(grid, race.kinds, strict=True):
        metric = race.metric(task)
        for way in race.ways:
            curve = race.curve(way, task)
            if curve is None or way.family == "uncompressed":
                continue
            ours = way.family == "isthmus"
            axes.plot(
                curve.sizes,
                metric.better * curve.qualities,
                STYLES[way.family],
                color="black" if ours else None,
                linewidth=2.5 if ours else 1.2,
                marker="o",
                markersize=6 if ours else 3,
                zorder=3 if ours else 2,
                label=way.name,
            )
        axes.axhline(race.plain(task), color="grey", linewidth=1, label="uncompressed")
        if metric.better < 0:
            axes.invert_yaxis()
        finish_axes(axes, race.name(task), task)
    return png_of(figure)


def write_report(out: Path, race: Race, sections: Sequence[Section], about: About) -> None:
    """All five files, in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for name, data in _files(race, sections, about):
        write_atomically(out / name, data)


def _files(race: Race, sections: Sequence[Section], about: About) -> Iterator[tuple[str, bytes]]:
    results = {
        **about.model_dump(mode="json"),
        "default": race.default,
        "targets": [target.model_dump(mode="json") for target in targets(sections)],
        "sections": [section.model_dump(mode="json", exclude={"targets"}) for section in sections],
        "ways": [way.model_dump(mode="json") for way in race.ways],
    }
    table, picture = curves_csv(race), curves_png(race)
    yield "results.json", json.dumps(results, indent=1).encode()
    yield "results.md", markdown(sections, about, "Rate", "pictures").encode()
    yield "rate.csv", table.encode()
    yield "rate.png", picture
    yield "rate.html", page(race, sections, about, picture, table).encode()


def page(race: Race, sections: Sequence[Section], about: About, picture: bytes, table: str) -> str:
    """One HTML page that needs nothing else."""
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(_PAGE)
    return template.render(
        about=about,
        targets=targets(sections),
        sections=sections,
        race=race,
        picture=base64.b64encode(picture).decode(),
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
<p>{{ about.date }}, {{ about.pictures }} pictures.
{% for key, value in about.machine.items() %}{{ key }} {{ value }}{{ ", " if not loop.last else "." }}{% endfor %}
</p>
<h2>Targets</h2>
<table>
<tr><th>what</th><th>target</th><th>reached</th><th>met</th></tr>
{% for target in targets %}
{% set met = "cannot be told" if target.met is none else "yes" if target.met else "no" %}
<tr><td>{{ target.what }}</td><td>{{ target.target }}</td><td>{{ target.reached }}</td>
<td class="{{ met }}">{{ met }}</td></tr>
{% endfor %}
</table>
<h2>Curves</h2>
<img alt="Bytes against quality, a plot for each task" src="data:image/png;base64,{{ picture }}">
<p class="note">Each way's running best. <a download="rate.csv" href="data:text/csv;base64,{{ csv }}">rate.csv</a></p>
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
<tr><th>way</th><th>setting</th>
{% for task in race.kinds %}<th>{{ task }}: bytes</th><th>{{ race.name(task) }}</th>{% endfor %}
</tr>
{% for way in race.ways %}
{% for point in way.points %}
<tr><td>{{ way.name }}</td><td>{{ point.setting }}</td>
{% for task in race.kinds %}
{% if task in point.tasks %}
<td>{{ "%.1f" | format(point.bytes[task]) }}</td><td>{{ race.metric(task).told(race.figure(point, task)) }}</td>
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
