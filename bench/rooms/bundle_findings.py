"""What the measurements say about the networks and the bundle that is built of them: a section for each claim."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from scipy.stats import binomtest

from bench.report.curves import Curve
from bench.report.metrics import METRICS
from bench.report.sections import Section, Target, judge
from bench.rooms.parts import NETWORKS, MeasuredPart, Parts, uncompressed_headlines
from shared.types import TaskKind

BYTES_MAX, TASKS = 400, 3  # at the default quality, for so many tasks
SPAN = 6.0  # highest level's bytes over the lowest's
SIGNIFICANCE = 0.05


def uncompressed(parts: Parts) -> Section:
    """The networks without any codec, against the targets of their kinds."""
    rows, targets = [], []
    for folder, kind in NETWORKS.items():
        if folder not in parts:
            continue
        metric, measured = METRICS[kind], parts[folder].uncompressed[kind]
        value = measured[metric.key]
        others = ", ".join(f"{key} {value:.4g}" for key, value in measured.items() if key != metric.key)
        rows.append((kind, f"{metric.name} {metric.text(value)}{metric.unit}", others))
        targets.append(
            Target(
                what=f"uncompressed {kind}: {metric.name}",
                target=f"{'>=' if metric.better > 0 else '<='} {metric.text(metric.target)}{metric.unit}",
                reached=metric.text(value),
                met=metric.goodness(value) >= metric.goodness(metric.target),
            )
        )
    return Section(columns=("task", "metric", "others"), rows=rows, targets=targets)


def at_its_levels(parts: Parts) -> Section:
    """Bytes and headline metrics of the bundle at every level; the targets are those of the default quality."""
    bundle, plain = parts["bundle"], uncompressed_headlines(parts)
    rows = []
    for level in bundle.levels:
        cells = [bundle.label(level.quality), f"{level.bytes:.1f}"]
        for task, kind in bundle.kinds.items():
            metric, value = METRICS[kind], bundle.headline(level, task)
            against = f" ({metric.difference(value, plain[kind])})" if kind in plain else ""
            cells.append(f"{metric.text(value)}{against}")
        rows.append(tuple(cells))
    heads = [f"{task} {METRICS[kind].name}" for task, kind in bundle.kinds.items()]
    return Section(
        columns=("quality", "bytes", *heads),
        rows=rows,
        notes=(
            "Bytes are those of whole bitstreams, container included. In brackets: against uncompressed.",
        ),
        targets=_default_targets(bundle, plain),
    )


def _default_targets(bundle: MeasuredPart, plain: dict[TaskKind, float]) -> list[Target]:
    default = bundle.level(bundle.default_quality)
    enough = len(bundle.kinds) >= TASKS
    targets = [
        Target(
            what=f"mean bytes at the default quality, {len(bundle.kinds)} tasks",
            target=f"<= {BYTES_MAX}, three tasks",
            reached=f"{default.bytes:.1f}",
            met=default.bytes <= BYTES_MAX if enough else None,
        )
    ]
    for task, kind in bundle.kinds.items():
        metric = METRICS[kind]
        loss = metric.goodness(plain[kind]) - bundle.goodness(default, task) if kind in plain else None
        targets.append(
            Target(
                what=f"{task} at the default quality: {metric.name} lost",
                target=f"<= {metric.text(metric.loss)}{metric.unit}",
                reached="unknown: no uncompressed network" if loss is None else metric.text(loss),
                met=None if loss is None else loss <= metric.loss,
            )
        )
    return targets


class Fall(NamedTuple):
    """A share of right answers that falls from one quality to the next higher one: images lost, and images won."""

    task: str
    low: int
    high: int
    lost: int
    won: int

    @property
    def chance(self) -> float:
        """How likely chance alone loses as many of the images that change, each being as likely to be won.

        The one-sided sign test, which for paired answers is McNemar's exact test.
        """
        return float(binomtest(self.lost, self.lost + self.won, alternative="greater").pvalue)

    def text(self) -> str:
        return (
            f"{self.task} from quality {self.low} to {self.high}: {self.lost} images lost, {self.won} won; chance "
            f"alone does so with p = {self.chance:.0%}"
        )


def rate_span(parts: Parts) -> Section:
    """How far one bundle's levels reach, and whether bytes and quality rise from level to level."""
    bundle = parts["bundle"]
    sizes = [level.bytes for level in bundle.levels]
    rows = [("bytes", f"{sizes[0]:.1f} .. {sizes[-1]:.1f}", _yes(_rising(sizes)))]
    falling = [] if _rising(sizes) else ["bytes"]
    for task, kind in bundle.kinds.items():
        metric = METRICS[kind]
        values = [bundle.headline(level, task) for level in bundle.levels]
        rising = _rising([metric.goodness(value) for value in values])
        rows.append(
            (
                f"{task} {metric.name}",
                f"{metric.text(values[0])} .. {metric.text(values[-1])}",
                _yes(rising),
            )
        )
        falling += [] if rising else [task]
    span = max(sizes) / min(sizes)
    falls = _falls(bundle)
    targets = [
        judge("rate span", f">= {SPAN:g}x", span, span >= SPAN, "{:.2f}x"),
        Target(
            what="monotonic in bytes and quality",
            target="yes",
            reached=f"not in {', '.join(falling)}" if falling else "yes",
            met=not falling,
        ),
    ]
    if any(level.flips for level in bundle.levels):
        targets.append(_by_chance(falls))
    return Section(
        columns=("", "lowest .. highest level", "monotonic"),
        rows=rows,
        notes=tuple(fall.text() for fall in falls),
        targets=targets,
    )


def _falls(bundle: MeasuredPart) -> list[Fall]:
    return [
        Fall(task, low.quality, high.quality, *high.flips[task])
        for low, high in pairwise(bundle.levels)
        for task in high.flips
        if high.flips[task][0] > high.flips[task][1]
    ]


def _by_chance(falls: Sequence[Fall]) -> Target:
    worst = min((fall.chance for fall in falls), default=1.0)
    return Target(
        what="no fall of top-1 beyond chance (sign test of the images that change)",
        target=f"p >= {SIGNIFICANCE:.0%}",
        reached=f"p = {worst:.0%} or more" if falls else "no fall",
        met=worst >= SIGNIFICANCE,
    )


def added_later(parts: Parts) -> Section:
    """A task that was added after the edge's part was fixed: its quality, and that no byte changed for it."""
    bundle = parts["bundle"]
    if not bundle.added:
        return Section(notes=("not measured: no task has been added to the bundle",))
    without, with_it = bundle.streams
    joint = parts.get("with-segmentation")
    heads, rows, notes = ["quality", "bytes", "bitstreams"], [], []
    for task in bundle.added:
        heads += [f"{task} {METRICS[bundle.kinds[task]].name}"]
        heads += [f"{task} in the joint codec"] if joint else []
    for level in bundle.levels:
        same = "the same" if without[level.quality] == with_it[level.quality] else "CHANGED"
        cells = [bundle.label(level.quality), f"{level.bytes:.1f}", f"{same} {with_it[level.quality][:12]}"]
        for task in bundle.added:
            kind = bundle.kinds[task]
            cells.append(METRICS[kind].text(bundle.headline(level, task)))
            cells += [_in_the_joint_codec(joint, kind, level.bytes)] if joint else []
        rows.append(tuple(cells))
    if joint:
        notes.append(
            "The joint codec of all the networks at equal bytes, of which it spends none on a container; "
            "beyond its levels, the nearest level is given with its bytes."
        )
    changed = sum(without[quality] != with_it[quality] for quality in without)
    return Section(
        columns=heads,
        rows=rows,
        notes=(*notes, f"First 12 digits of the SHA-256 over the bitstreams of all {bundle.images} rooms."),
        targets=(
            Target(
                what="bitstreams before and after the task was added",
                target="the same bytes",
                reached=f"changed at {changed} levels" if changed else "the same",
                met=not changed,
            ),
        ),
    )


def _in_the_joint_codec(codec: MeasuredPart, kind: TaskKind, size: float) -> str:
    """The headline metric of the codec's task of a kind, at so many bytes."""
    task = codec.task_of(kind)
    if task is None:
        return ""
    metric = METRICS[kind]
    points = [(level.bytes, codec.goodness(level, task)) for level in codec.levels]
    read = Curve.of(points).quality_at(size)
    at = f"at {points[0 if read.side == '<' else -1][0]:.1f} bytes: " if read.side else ""
    return f"{at}{metric.text(metric.better * read.value)}"


def _rising(values: Sequence[float]) -> bool:
    return all(b >= a for a, b in pairwise(values))


def _yes(value: bool) -> str:
    return "yes" if value else "no"
