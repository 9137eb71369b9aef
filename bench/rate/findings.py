"""What `isthmus bench rate` finds: bytes at equal quality, BD-rates, targets. Computes, and measures nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from bench.report.curves import Curve, Read, bd_rate, saving_of
from bench.report.metrics import METRICS, HeadlineMetric
from bench.report.rate_results import ContenderResult, Setting
from bench.report.sections import UNDETERMINED, Section, Target
from shared.types import TaskKind

NOTE_CURVES = (
    "Between the measured settings monotone cubics (PCHIP) of the logarithm of the bytes, through the running best: a "
    "setting that costs more and is no better is ignored, as top-1 goes up and down by an image or two near its top."
)
NOTE_SIDES = (
    "> : the contender's best setting does not reach that quality, its bytes are given; < : its smallest setting is "
    "better already. Nothing is extrapolated. BD-rate: how many more bytes (+) than Isthmus a contender takes over the "
    "range of quality that both have."
)


@dataclass(frozen=True)
class Comparison:
    """The results of all contenders, Isthmus and the uncompressed networks among them.

    labelled: tasks whose metrics are against labels; for the others they are agreement with the uncompressed network.
    default: name of the setting of the bundle's default quality.
    """

    results: Sequence[ContenderResult]
    kinds: Mapping[str, TaskKind]
    labelled: Collection[str]
    default: str

    def metric(self, task: str) -> HeadlineMetric:
        return METRICS[self.kinds[task]]

    def metric_name(self, task: str) -> str:
        metric = self.metric(task)
        return f"{'' if task in self.labelled else 'agreement, '}{metric.name}{metric.unit}"

    def headline(self, setting: Setting, task: str) -> float:
        """The value of the task's headline metric."""
        return setting.metrics[task][self.metric(task).key]

    def goodness(self, setting: Setting, task: str) -> float:
        """The same, turned so that more is better."""
        return self.metric(task).goodness(self.headline(setting, task))

    def curve(self, result: ContenderResult, task: str) -> Curve | None:
        """More is better. None if the contender does not have the task."""
        points = [
            (setting.bytes[task], self.goodness(setting, task))
            for setting in result.settings
            if task in setting.metrics
        ]
        return Curve.of(points) if points else None

    def cost(self, result: ContenderResult, task: str, quality: float) -> Read | None:
        """Bytes for a quality, of which more is better."""
        curve = self.curve(result, task)
        if curve is None:
            return None
        read = curve.bytes_at(quality)
        # With one setting there is no curve to leave: what is better than needed costs what it costs.
        return Read(read.value) if len(curve.sizes) == 1 and read.side == "<" else read

    @property
    def isthmus(self) -> ContenderResult:
        return next(result for result in self.results if result.family == "isthmus")

    @property
    def default_setting(self) -> Setting:
        return self.isthmus.setting(self.default)

    @property
    def peers(self) -> list[ContenderResult]:
        return [result for result in self.results if result.family != "isthmus"]

    @property
    def uncompressed(self) -> Setting:
        (result,) = (result for result in self.results if result.family == "uncompressed")
        return result.settings[0]


def findings(comparison: Comparison) -> list[Section]:
    """All sections; the targets are in the last one."""
    return [
        levels(comparison),
        *(equal_quality(comparison, task) for task in comparison.kinds),
        all_tasks(comparison),
        contenders(comparison),
        goals(comparison),
    ]


def levels(comparison: Comparison) -> Section:
    """Isthmus at each of its levels, with the uncompressed networks for comparison."""
    plain = {task: comparison.headline(comparison.uncompressed, task) for task in comparison.kinds}
    rows = [("uncompressed", "", *(comparison.metric(task).text(value) for task, value in plain.items()))]
    for setting in comparison.isthmus.settings:
        default = " (default)" if setting.name == comparison.default else ""
        cells = [f"{setting.name}{default}", f"{_shared(setting):.1f}"]
        for task in comparison.kinds:
            metric, value = comparison.metric(task), comparison.headline(setting, task)
            cells.append(f"{metric.text(value)} ({metric.difference(value, plain[task])})")
        rows.append(tuple(cells))
    heads = [f"{task}: {comparison.metric_name(task)}" for task in comparison.kinds]
    return Section(title="Isthmus at its levels", columns=("", "bytes", *heads), rows=rows)


def _shared(setting: Setting) -> float:
    """Bytes of a setting whose stream serves all tasks at once: the same for every task."""
    return max(setting.bytes.values())


def equal_quality(comparison: Comparison, task: str) -> Section:
    """What each contender needs for this task alone, whereas Isthmus's bytes hold all tasks."""
    metric = comparison.metric(task)
    near = comparison.headline(comparison.uncompressed, task) - metric.better * metric.loss
    own = comparison.headline(comparison.default_setting, task)
    ours = comparison.curve(comparison.isthmus, task)
    assert ours is not None
    reached = comparison.cost(comparison.isthmus, task, metric.goodness(near))
    default_bytes = comparison.default_setting.bytes[task]
    rows: list[tuple[str, ...]] = [
        (comparison.isthmus.name, _cell(reached), "", f"{default_bytes:.0f}", "", "")
    ]
    for result in comparison.peers:
        curve = comparison.curve(result, task)
        if curve is None:
            continue
        cells = [result.name]
        for quality, size in ((near, reached), (own, Read(default_bytes))):
            read = comparison.cost(result, task, metric.goodness(quality))
            cells += [_cell(read), saved(size, read)]
        rate = bd_rate(ours, curve)
        cells.append("no common range" if rate is None else f"{rate:+.0%}")
        rows.append(tuple(cells))
    return Section(
        title=f"{task}: bytes at equal quality ({comparison.metric_name(task)})",
        columns=(
            "contender",
            f"bytes at {metric.text(near)}, {metric.text(metric.loss)} from uncompressed",
            "Isthmus saves",
            f"bytes at {metric.text(own)}, Isthmus's default",
            "Isthmus saves",
            "BD-rate",
        ),
        rows=rows,
        notes=(
            "Isthmus's bytes answer all its tasks at once; the others' are those for this task alone.",
            NOTE_CURVES,
            NOTE_SIDES,
        ),
    )


def _cell(read: Read | None) -> str:
    return "" if read is None else read.text(0)


def saved(size: Read | None, read: Read | None) -> str:
    """What Isthmus saves, as far as both curves reach. size: its own bytes; read: the contender's."""
    if size is None or read is None:
        return ""
    if size.side == ">":
        return "not reached by Isthmus"
    if size.side == "<" and read.side == "<":
        return UNDETERMINED
    saving = saving_of(size.value, [read]).text
    return f"at least {saving}" if size.side == "<" and not read.side else saving


def needed(comparison: Comparison, result: ContenderResult, tasks: Collection[str]) -> list[Read]:
    """What a contender sends for Isthmus's default quality of these tasks, empty if it does not have all of them.

    Where one sending serves all tasks, that is what the most expensive task needs, otherwise one read a task.
    """
    default = comparison.default_setting
    reads = [comparison.cost(result, task, comparison.goodness(default, task)) for task in tasks]
    present = [read for read in reads if read is not None]
    if len(present) < len(reads):
        return []
    return [_most_expensive(present)] if result.together else present


def _most_expensive(reads: Sequence[Read]) -> Read:
    most = max(reads, key=lambda read: read.value)
    return Read(most.value, ">") if any(read.side == ">" for read in reads) else most


def all_tasks(comparison: Comparison) -> Section:
    """What each contender needs to answer all tasks as Isthmus does at its default quality."""
    size = _shared(comparison.default_setting)
    rows = [(comparison.isthmus.name, f"{size:.0f}", "")]
    for result in comparison.peers:
        reads = needed(comparison, result, comparison.kinds)
        if reads:
            rows.append((result.name, " + ".join(map(_cell, reads)), saving_of(size, reads).text))
    return Section(
        title="All tasks together, at Isthmus's default quality of each",
        columns=("contender", "bytes", "Isthmus saves"),
        rows=rows,
        notes=(
            "An image serves all tasks, so the most expensive task decides. Features are sent for each task.",
        ),
    )


def contenders(comparison: Comparison) -> Section:
    rows = [(result.name, str(len(result.settings)), result.about) for result in comparison.results]
    return Section(
        title="The contenders", columns=("contender", "settings measured", "what was done"), rows=rows
    )


def goals(comparison: Comparison) -> Section:
    """The targets: at equal task quality, Isthmus's bytes for all tasks against a contender's for one."""
    images = [result for result in comparison.peers if result.family == "image"]
    rivals = (
        ("JPEG, of either size", [result for result in images if result.name.startswith("JPEG")], 0.9),
        ("the best image codec", images, 0.8),
        ("the hybrid", [result for result in comparison.peers if result.name.startswith("hybrid")], 0.5),
    )
    each = [((task,), task) for task in comparison.kinds]
    every = [*each, (tuple(comparison.kinds), "all tasks")] if len(each) > 1 else each
    targets = [
        _goal(comparison, tasks, name, rival, results, least)
        for tasks, name in every
        for rival, results, least in rivals
    ]
    return Section(
        title="How the targets are counted",
        notes=(
            f"At Isthmus's default ({comparison.default}): its bytes, which answer all tasks, against what the "
            "cheapest contender of a kind needs for that one task at the same metric.",
        ),
        targets=targets,
    )


def _goal(
    comparison: Comparison,
    tasks: Collection[str],
    name: str,
    rival: str,
    results: Sequence[ContenderResult],
    least: float,
) -> Target:
    """The target that Isthmus saves at least this share over the cheapest of a rival's contenders."""
    size = max(comparison.default_setting.bytes[task] for task in tasks)
    candidates = [reads for result in results if (reads := needed(comparison, result, tasks))]
    saving = saving_of(size, min(candidates, key=_expense), least)
    return Target(
        what=f"{name}: against {rival}",
        target=f">= {least:.0%} fewer",
        reached=saving.text,
        met=saving.met,
    )


def _expense(reads: Sequence[Read]) -> tuple[bool, float]:
    """Orders contenders by all that they send; one that never reaches the quality comes last."""
    return any(read.side == ">" for read in reads), sum(read.value for read in reads)
