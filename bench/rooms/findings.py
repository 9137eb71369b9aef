"""What the measurements say: a section for each claim, with a table, targets and notes. Computes, and measures nothing.

Every function takes the measurements by folder and is called where those that it needs are there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from math import isclose, log
from typing import NamedTuple

from scipy.stats import binomtest

from bench.report.curves import Curve, Read, bd_rate
from bench.report.sections import METRICS, Section, Target
from bench.rooms.measure import Measured, Point
from shared.types import TaskKind

Parts = Mapping[str, Measured]
NETWORKS = {"network": "classification", "normals": "normals", "segmentation": "segmentation"}
SINGLE = {
    "classification": "only-classification",
    "normals": "only-normals",
    "segmentation": "only-segmentation",
}
ALONE = ("level-low", "level-middle", "level-high")
PRIORS = {"codebook": "codec", "factorised": "prior-factorised", "hyperprior": "prior-hyperprior"}
# The same for six times as many steps.
FIRST = {"codebook": "first", "factorised": "first-factorised", "hyperprior": "first-hyperprior"}
LONGER = "bundle-codec"  # the codec that the bundle is built of; it goes on from `first`
CODECS = (
    "codec",
    *SINGLE.values(),
    *ALONE,
    "prior-factorised",
    "prior-hyperprior",
    "with-segmentation",
    *FIRST.values(),
    LONGER,
)
RUN_BYTES = "Bytes are the float model's, of rounded latents, without container."


def figure(part: Measured, point: Point, task: str) -> float:
    """The figure by which the task is judged."""
    return point.tasks[task][METRICS[part.kinds[task]].key]


def uncompressed(parts: Parts) -> Section:
    rows, targets = [], []
    for folder, kind in NETWORKS.items():
        if folder not in parts:
            continue
        metric, part = METRICS[kind], parts[folder]
        figures = part.uncompressed[kind]
        rest = ", ".join(f"{key} {value:.4g}" for key, value in figures.items() if key != metric.key)
        rows.append((kind, f"{metric.name} {metric.told(figures[metric.key])}{metric.unit}", rest))
        limit = f"{'>=' if metric.better > 0 else '<='} {metric.told(metric.target)}{metric.unit}"
        targets.append(
            Target(
                what=f"uncompressed {kind}: {metric.name}",
                target=limit,
                reached=metric.told(figures[metric.key]),
                met=metric.better * (figures[metric.key] - metric.target) >= 0,
            )
        )
    return Section(columns=("task", "figure", "others"), rows=rows, targets=targets)


def through_the_codec(parts: Parts) -> Section:
    bundle = parts["bundle"]
    plain = _plain(parts)
    rows = []
    for point in bundle.points:
        cells = [_named(point.quality, bundle), f"{point.bytes:.1f}"]
        for task, kind in bundle.kinds.items():
            metric, value = METRICS[kind], figure(bundle, point, task)
            against = f" ({metric.difference(value, plain[kind])})" if kind in plain else ""
            cells.append(f"{metric.told(value)}{against}")
        rows.append(tuple(cells))
    default = bundle.point(bundle.default_quality)
    targets = [
        Target(
            what=f"mean bytes at the default quality, {len(bundle.kinds)} tasks",
            target="<= 400, three tasks",
            reached=f"{default.bytes:.1f}",
            met=default.bytes <= 400 if len(bundle.kinds) >= 3 else None,
        )
    ]
    for task, kind in bundle.kinds.items():
        metric, value = METRICS[kind], figure(bundle, default, task)
        loss = metric.better * (plain[kind] - value) if kind in plain else None
        targets.append(
            Target(
                what=f"{task} at the default quality: {metric.name} lost",
                target=f"<= {metric.told(metric.loss)}{metric.unit}",
                reached="unknown: no uncompressed network" if loss is None else metric.told(loss),
                met=None if loss is None else loss <= metric.loss,
            )
        )
    heads = [f"{task} {METRICS[kind].name}" for task, kind in bundle.kinds.items()]
    return Section(
        columns=("quality", "bytes", *heads),
        rows=rows,
        notes=(
            "Bytes are those of whole bitstreams, container included. In brackets: against uncompressed.",
        ),
        targets=targets,
    )


def joint_against_separate(parts: Parts, folder: str = "codec") -> Section:
    """Bytes of a joint stream against what the single-task codecs need together for the same quality of each task."""
    joint = parts[folder]
    tasks = [task for task, folder in SINGLE.items() if folder in parts and task in joint.kinds]
    rows, targets = [], []
    for point in joint.points:
        cells = [_named(point.quality, joint), f"{point.bytes:.1f}"]
        for way in ("metric", "distortion"):
            reads = [_single_bytes(parts[SINGLE[task]], joint, point, task, way) for task in tasks]
            saving, met = saving_of(point.bytes, reads)
            cells += [" + ".join(_told(read) for read in reads), saving]
            if point.quality == joint.default_quality:
                what = f"{len(tasks)} tasks, joint against separate at the default quality, equal {way}"
                targets.append(Target(what=what, target=">= 30 % fewer", reached=saving, met=met))
        rows.append(tuple(cells))
    return Section(
        columns=("quality", "joint bytes", "at equal metric", "saving", "at equal distortion", "saving"),
        rows=rows,
        notes=(
            f"Single-task codecs: {' + '.join(tasks)}. {RUN_BYTES}",
            "> and <: the quality lies beyond the single codec's curve, whose last bytes are given; nothing is "
            "extrapolated. Distortion: the training's own, against the uncompressed network's output.",
        ),
        targets=targets,
    )


def _quality(part: Measured, point: Point, task: str, way: str) -> float:
    """More is better."""
    if way == "metric":
        return METRICS[part.kinds[task]].better * figure(part, point, task)
    return _closeness(point.tasks[task]["distortion"])


def _single_bytes(single: Measured, joint: Measured, point: Point, task: str, way: str) -> Read:
    own = next(name for name, kind in single.kinds.items() if kind == joint.kinds[task])
    curve = Curve.of((one.bytes, _quality(single, one, own, way)) for one in single.points)
    return curve.bytes_at(_quality(joint, point, task, way))


def saving_of(size: float, reads: Sequence[Read], least: float = 0.3) -> tuple[str, bool | None]:
    """What is told of a joint stream's bytes against others together, and whether it is so much fewer."""
    sides = {read.side for read in reads} - {""}
    share = 1 - size / sum(read.value for read in reads)
    if not sides:
        return f"{share:.1%}", share >= least
    if sides == {">"}:
        return f"at least {share:.1%}", True if share >= least else None
    if sides == {"<"}:
        return f"at most {share:.1%}", False if share < least else None
    return "cannot be told", None


def _told(read: Read) -> str:
    return f"{read.side}{' ' if read.side else ''}{read.value:.1f}"


def rate_span(parts: Parts) -> Section:
    bundle = parts["bundle"]
    sizes = [point.bytes for point in bundle.points]
    span = max(sizes) / min(sizes)
    rows = [("bytes", f"{sizes[0]:.1f} .. {sizes[-1]:.1f}", _yes(_rising(sizes)))]
    falls = [] if _rising(sizes) else ["bytes"]
    for task, kind in bundle.kinds.items():
        metric = METRICS[kind]
        values = [figure(bundle, point, task) for point in bundle.points]
        rising = _rising([metric.better * value for value in values])
        told = f"{metric.told(values[0])} .. {metric.told(values[-1])}"
        rows.append((f"{task} {metric.name}", told, _yes(rising)))
        falls += [] if rising else [task]
    targets = [
        Target(what="rate span", target=">= 6x", reached=f"{span:.2f}x", met=span >= 6),
        Target(
            what="monotonic in bytes and quality",
            target="yes",
            reached=f"not in {', '.join(falls)}" if falls else "yes",
            met=not falls,
        ),
    ]
    chances = [
        Fall(task, low.quality, high.quality, *high.flips[task])
        for low, high in pairwise(bundle.points)
        for task in high.flips
        if high.flips[task][0] > high.flips[task][1]
    ]
    if any(point.flips for point in bundle.points):
        worst = min((fall.chance for fall in chances), default=1.0)
        targets.append(
            Target(
                what="no fall of top-1 beyond chance (sign test of the pictures that change)",
                target="p >= 5%",
                reached=f"p = {worst:.0%} or more" if chances else "no fall",
                met=worst >= 0.05,
            )
        )
    return Section(
        columns=("", "lowest .. highest level", "monotonic"),
        rows=rows,
        notes=tuple(fall.told() for fall in chances),
        targets=targets,
    )


class Fall(NamedTuple):
    """A figure of right and wrong that falls from one quality to the next higher: pictures lost, and won."""

    task: str
    low: int
    high: int
    lost: int
    won: int

    @property
    def chance(self) -> float:
        """How likely as many are lost, of those that change, where each is as likely to be won: the sign test, which of
        paired answers is McNemar's, exact and one-sided."""
        return float(binomtest(self.lost, self.lost + self.won, alternative="greater").pvalue)

    def told(self) -> str:
        return (
            f"{self.task} from quality {self.low} to {self.high}: {self.lost} pictures lost, {self.won} won; chance "
            f"alone does so with p = {self.chance:.0%}"
        )


def levels_alone(parts: Parts, folder: str = "codec") -> Section:
    """Levels of one codec, the run in `folder`, against codecs of one level, trained for that lambda alone."""
    joint = parts[folder]
    curve = _curve(joint, joint.lambdas)
    rows, notes, within, compared = [], [], 0, 0
    for name in ALONE:
        if name not in parts:
            continue
        alone = parts[name]
        point = _of_lambda(joint, alone)
        if point is None:
            notes.append(f"{name}: {folder} has no level of its lambda")
            continue
        if joint.seen and alone.seen:
            notes.append(
                f"Pictures seen in training: {name} {alone.seen:,}; {folder} {joint.seen:,}, for each of its "
                f"{len(joint.points)} levels {joint.seen // len(joint.points):,}"
            )
        compared += 1
        (own,) = alone.points
        losses = [one.bytes * 8 + alone.scales[0] * _weighted(alone.lambdas, one) for one in (point, own)]
        at = curve.bytes_at(_closeness(_weighted(joint.lambdas, own)))
        excess = None if at.side else at.value / own.bytes - 1
        within += excess is not None and excess <= 0.05
        rows.append(
            (
                f"{name} ({_lambdas(alone)})",
                f"{own.bytes:.1f}",
                f"{point.bytes:.1f} at quality {point.quality}",
                f"{losses[0] / losses[1] - 1:+.1%}",
                _told(at),
                "beyond the levels" if excess is None else f"{excess:+.1%}",
            )
        )
    return Section(
        columns=("codec", "its bytes", "the level's", "loss", "bytes at its distortion", "against it"),
        rows=rows,
        notes=(f"Loss: bits + sum of lambda d, of the level against the codec alone. {RUN_BYTES}", *notes),
        targets=(
            Target(
                what=f"levels of {folder} within 5 % of a codec of their lambda alone",
                target="at least 2",
                reached=f"{within} of {compared}",
                met=within >= 2 if compared >= 2 else None,
            ),
        ),
    )


def priors(parts: Parts, folders: Mapping[str, str] = PRIORS) -> Section:
    """The codebook's codec against those of other priors. folders: of the runs, by prior."""
    reference = parts[folders["codebook"]]
    there = {
        name: parts[folder]
        for name, folder in folders.items()
        if folder in parts and parts[folder].kinds == reference.kinds
    }
    curves = {name: _curve(part, reference.lambdas) for name, part in there.items()}
    rows = []
    for point in reference.points:
        distortion = _weighted(reference.lambdas, point)
        reads = {name: curve.bytes_at(_closeness(distortion)) for name, curve in curves.items()}
        cells = [_named(point.quality, reference), f"{distortion:.4g}", f"{point.bytes:.1f}"]
        rows.append((*cells, *(_told(reads[name]) for name in there if name != "codebook")))
    mean: list[str] = []
    for name, curve in curves.items():
        if name != "codebook":
            rate = bd_rate(curves["codebook"], curve)
            mean.append("no common range" if rate is None else f"{rate:+.1%}")
    rows.append(("mean (BD-rate)", "", "0 %", *mean))
    return Section(
        columns=("quality", "sum of lambda d", *(f"{name} bytes" for name in there)),
        rows=rows,
        notes=(f"Bytes at the distortion of the codebook's levels; + : more than the codebook. {RUN_BYTES}",),
    )


def third_flow(parts: Parts) -> Section:
    bundle = parts["bundle"]
    if not bundle.added:
        return Section(notes=("not measured: no task has been added to the bundle",))
    before, after = bundle.streams
    rows, notes, heads = [], [], ["quality", "bytes", "bitstreams"]
    other = parts.get("with-segmentation")
    tasks = [(task, METRICS[bundle.kinds[task]]) for task in bundle.added]
    for task, metric in tasks:
        heads += [f"{task} {metric.name}"] + ([f"{task} in the joint codec"] if other else [])
    for point in bundle.points:
        same = before[point.quality] == after[point.quality]
        told = f"{'the same' if same else 'CHANGED'} {after[point.quality][:12]}"
        cells = [_named(point.quality, bundle), f"{point.bytes:.1f}", told]
        for task, metric in tasks:
            cells.append(metric.told(figure(bundle, point, task)))
            if other:
                cells.append(_joint_quality(other, bundle.kinds[task], point.bytes))
        rows.append(tuple(cells))
    if other:
        notes.append(
            "The joint codec of all the networks at equal bytes, of which it has none for a container; "
            "> and <: beyond its levels."
        )
    changed = sum(before[quality] != after[quality] for quality in before)
    return Section(
        columns=heads,
        rows=rows,
        notes=(*notes, f"SHA-256 over the bitstreams of all {bundle.pictures} rooms, its first 12 digits."),
        targets=(
            Target(
                what="bitstreams before and after the task was added",
                target="the same bytes",
                reached=f"changed at {changed} levels" if changed else "the same",
                met=not changed,
            ),
        ),
    )


def _joint_quality(codec: Measured, kind: TaskKind, size: float) -> str:
    """The figure of the codec's task of a kind at so many bytes."""
    metric = METRICS[kind]
    task = next((name for name, own in codec.kinds.items() if own == kind), None)
    if task is None:
        return ""
    points = [(point.bytes, metric.better * figure(codec, point, task)) for point in codec.points]
    read = Curve.of(points).quality_at(size)
    side = f"at {points[0 if read.side == '<' else -1][0]:.1f} bytes: " if read.side else ""
    return f"{side}{metric.told(metric.better * read.value)}"


def _plain(parts: Parts) -> dict[TaskKind, float]:
    """Figures of the uncompressed networks, by kind of task."""
    return {
        kind: parts[folder].uncompressed[kind][METRICS[kind].key]
        for folder, kind in NETWORKS.items()
        if folder in parts
    }


def _weighted(lambdas: Mapping[str, float], point: Point) -> float:
    """Sum of lambda d over the tasks."""
    return sum(lambda_ * point.tasks[task]["distortion"] for task, lambda_ in lambdas.items())


def _closeness(distortion: float) -> float:
    """More is better, and a tenth of the distortion is as much more everywhere."""
    return -log(max(distortion, 1e-12))


def _curve(codec: Measured, lambdas: Mapping[str, float]) -> Curve:
    return Curve.of((point.bytes, _closeness(_weighted(lambdas, point))) for point in codec.points)


def _of_lambda(joint: Measured, alone: Measured) -> Point | None:
    """The level of `joint` that was trained for the lambdas of `alone`, which has one level."""
    for scale, point in zip(joint.scales, joint.points, strict=True):
        if joint.lambdas.keys() == alone.lambdas.keys() and all(
            isclose(scale * joint.lambdas[task], alone.scales[0] * alone.lambdas[task], rel_tol=1e-6)
            for task in alone.lambdas
        ):
            return point
    return None


def _lambdas(codec: Measured) -> str:
    return "lambda " + ", ".join(f"{codec.scales[0] * value:g}" for value in codec.lambdas.values())


def _rising(values: Sequence[float]) -> bool:
    return all(b >= a for a, b in pairwise(values))


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _named(quality: int, part: Measured) -> str:
    return f"{quality} (default)" if quality == part.default_quality else str(quality)


class Finding(NamedTuple):
    """A section, the folders that it cannot do without, and those that it uses where they are there."""

    title: str
    needs: tuple[str, ...]
    uses: tuple[str, ...]
    make: Callable[[Parts], Section]


FINDINGS = (
    Finding("Uncompressed networks", (), tuple(NETWORKS), uncompressed),
    Finding("The bundle at its levels", ("bundle",), tuple(NETWORKS), through_the_codec),
    Finding(
        "Joint against separate",
        ("codec", SINGLE["classification"], SINGLE["normals"]),
        (),
        joint_against_separate,
    ),
    Finding(
        "Joint against separate, with segmentation",
        ("with-segmentation", *SINGLE.values()),
        (),
        partial(joint_against_separate, folder="with-segmentation"),
    ),
    Finding("Rate from one bundle", ("bundle",), (), rate_span),
    Finding("A level against a codec of its lambda alone", ("codec",), ALONE, levels_alone),
    Finding(
        "A level of the bundle's codec against a codec of its lambda alone",
        (LONGER,),
        ALONE,
        partial(levels_alone, folder=LONGER),
    ),
    Finding("Codebook hyperprior against other priors", ("codec",), tuple(PRIORS.values()), priors),
    Finding(
        "Codebook hyperprior against other priors, trained longer",
        (FIRST["codebook"],),
        tuple(FIRST.values()),
        partial(priors, folders=FIRST),
    ),
    Finding("A task added later", ("bundle",), ("with-segmentation",), third_flow),
)


def findings(parts: Parts, missing: Mapping[str, str]) -> list[Section]:
    """All sections. missing: why a folder was not measured."""
    sections = []
    for finding in FINDINGS:
        absent = [
            f"not measured: {missing[name]}" for name in (*finding.needs, *finding.uses) if name in missing
        ]
        if any(name in missing for name in finding.needs):
            sections.append(Section(title=finding.title, notes=absent))
        else:
            made = finding.make(parts)
            sections.append(made.model_copy(update={"title": finding.title, "notes": (*made.notes, *absent)}))
    return sections
