"""The report of `isthmus bench photos`: tables, targets and a plot. Computes, and measures nothing.

Agreement: for a task of classes, the share of images with the uncompressed network's best class; for a map of classes,
the share of pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.photos.results import Photos, PhotoSet
from bench.rate.comparison import Comparison
from bench.rate.findings import NOTE_CURVES, NOTE_SIDES, levels
from bench.rate.measure import LABELS
from bench.rate.rate_report import curves_png
from bench.report.curves import Read
from bench.report.metrics import METRICS, HeadlineMetric
from bench.report.rate_results import ContenderResult
from bench.report.report import markdown, write_results
from bench.report.sections import Section, Target, judge
from bench.video.video_report import sections as video_sections
from shared.files import write_atomically

PIXELS = HeadlineMetric("pixel_accuracy", "pixels", 1, 0.9, 0.1, "{:.1%}", "")
AGREEMENT = METRICS | {"segmentation": PIXELS}
NEAR, NEARER = 0.90, 0.95
BYTES_MAX = {("classification", NEAR): 900, ("classification", NEARER): 1800, ("segmentation", NEAR): 1200}
ALL_MAX = 1600
OF_IMAGES, OF_FEATURES = 0.5, 0.7  # of the best image codec's bytes, and of all features'
EDGE_MS, EDGE_MB = 25, 300


def comparison_of(photos: Photos, one: PhotoSet) -> Comparison:
    results = [counted for result in one.results for counted in result.counted()]
    return Comparison(results, photos.kinds, (), photos.default, photos.skipped, AGREEMENT)


def sections(photos: Photos) -> list[Section]:
    """Three of each set, the clips', and the edge's."""
    found: list[Section] = []
    for one in photos.sets:
        comparison = comparison_of(photos, one)
        own = [levels(comparison), _labels(one, comparison), _equal(comparison)]
        title = f"{one.name} ({one.images} images)"
        found += [
            section.model_copy(update={"title": f"{title}: {section.title}"})
            for section in own
            if section.rows
        ]
    if photos.clips is not None:
        found += video_sections(photos.clips)
    return [*found, _edge(photos)]


def _labels(one: PhotoSet, comparison: Comparison) -> Section:
    """What the labels say, with and without the codec: every metric that a labelled task has."""
    shown = [
        (task, name)
        for task in one.labelled
        for name in comparison.uncompressed.metrics[task]
        if name.startswith(LABELS)
    ]
    rows = [
        (setting.name, *(f"{setting.metrics[task][name]:.3f}" for task, name in shown))
        for setting in (comparison.uncompressed, *comparison.isthmus.settings)
        if all(task in setting.metrics for task, _ in shown)
    ]
    columns = ("", *(f"{task}: {name.removeprefix(LABELS)}" for task, name in shown))
    return Section(title="against the set's labels", columns=columns, rows=rows if shown else ())


def cost_of_all(comparison: Comparison, result: ContenderResult, agreement: float) -> Read | None:
    """Bytes for which every task that has such an agreement reaches it. One stream costs what its dearest task does;
    features are added up, those that tasks share once. None for a contender without all tasks."""
    reads = {task: comparison.cost(result, task, agreement) for task in _judged(comparison)}
    known = {task: read for task, read in reads.items() if read is not None}
    if len(known) < len(reads) or not known:
        return None
    if result.together:
        return max(known.values(), key=lambda read: (read.side == ">", read.value))
    shared = result.shared or tuple((task,) for task in known)
    groups = [[known[task] for task in group if task in known] for group in shared]
    dearest = [max(group, key=lambda read: read.value) for group in groups if group]
    side = next((side for side in (">", "<") if any(read.side == side for read in dearest)), "")
    return Read(sum(read.value for read in dearest), side)  # type: ignore[arg-type]


def _judged(comparison: Comparison) -> list[str]:
    """The tasks whose metric is a share that agrees."""
    return [task for task, kind in comparison.kinds.items() if kind in ("classification", "segmentation")]


def _reads(comparison: Comparison) -> Iterator[tuple[str, str | None, float]]:
    """A title, the task or None for all, and the agreement of each column."""
    for task in _judged(comparison):
        for agreement in (NEAR, NEARER):
            yield f"{task} at {agreement:.0%}", task, agreement
    if len(_judged(comparison)) > 1:
        yield f"all at {NEAR:.0%}", None, NEAR


def _cost(comparison: Comparison, result: ContenderResult, task: str | None, agreement: float) -> Read | None:
    if task is None:
        return cost_of_all(comparison, result, agreement)
    return comparison.cost(result, task, agreement)


def _equal(comparison: Comparison) -> Section:
    """Bytes for the same agreement, and the targets that follow."""
    columns = list(_reads(comparison))
    rows = []
    for result in comparison.results:
        reads = [_cost(comparison, result, task, agreement) for _, task, agreement in columns]
        rows.append((result.name, *("" if read is None else read.text(0) for read in reads)))
    rows += [
        (name, f"not measured: {why}", *[""] * (len(columns) - 1)) for name, why in comparison.skipped.items()
    ]
    return Section(
        title="bytes at equal agreement",
        columns=("contender", *(title for title, _, _ in columns)),
        rows=rows if columns else (),
        notes=(NOTE_CURVES, NOTE_SIDES.split(" BD-rate")[0]),
        targets=tuple(_targets(comparison, columns)),
    )


def _targets(comparison: Comparison, columns: Sequence[tuple[str, str | None, float]]) -> Iterator[Target]:
    for title, task, agreement in columns:
        own = _cost(comparison, comparison.isthmus, task, agreement)
        if own is None:
            continue
        most = ALL_MAX if task is None else BYTES_MAX.get((comparison.kinds[task], agreement))
        if most is not None:
            yield _at_most(title, own, most)
        if agreement == NEAR:
            for family, share in (("image", OF_IMAGES), ("feature", OF_FEATURES if task is None else 1.0)):
                reads = [
                    read
                    for result in comparison.peers
                    if result.family == family
                    and (read := _cost(comparison, result, task, agreement)) is not None
                    and read.side != ">"
                ]
                if reads:
                    best = min(read.value for read in reads)
                    yield _at_most(f"{title}: of the best {family} codec's {best:.0f}", own, share * best)


def _at_most(what: str, own: Read, most: float) -> Target:
    """Own bytes against a bound. Where the agreement is not reached at any quality, it is missed."""
    if own.side == ">":
        return Target(what=what, target=f"<= {most:.0f} bytes", reached="not reached", met=False)
    return judge(what, f"<= {most:.0f} bytes", own.value, own.value <= most, "{:.0f}")


def _edge(photos: Photos) -> Section:
    edge = photos.edge
    faster = "faster" if edge.local_ms < edge.encode_ms else "slower"
    return Section(
        title="One core of an edge, a photograph",
        columns=("", "ms", "MB"),
        rows=(
            ("Isthmus: read to bytes", f"{edge.encode_ms:.1f}", f"{edge.encode_mb:.0f}"),
            ("every whole network there", f"{edge.local_ms:.1f}", f"{edge.local_mb:.0f}"),
        ),
        notes=(f"Running the networks on the edge itself is {faster}, and sends only answers.",),
        targets=(
            judge(
                "edge, read to bytes",
                f"<= {EDGE_MS} ms",
                edge.encode_ms,
                edge.encode_ms <= EDGE_MS,
                "{:.1f} ms",
            ),
            judge("edge, memory", f"< {EDGE_MB} MB", edge.encode_mb, edge.encode_mb < EDGE_MB, "{:.0f} MB"),
        ),
    )


def write_photos(out: Path, photos: Photos) -> list[Section]:
    """Writes results.json, results.md and a plot of each set to `out`; returns the sections."""
    made = sections(photos)
    write_results(out, photos, made, markdown(made, photos.about, "Photographs", "photographs"))
    for number, one in enumerate(photos.sets):
        write_atomically(out / f"set{number}.png", curves_png(comparison_of(photos, one)))
    return made
