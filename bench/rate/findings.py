"""What `isthmus bench rate` finds: bytes at equal quality, BD-rates, targets. Computes, and measures nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from bench.rate.comparison import Comparison
from bench.report.curves import Read, bd_rate, saving_of
from bench.report.rate_results import ContenderResult, Family, Setting
from bench.report.sections import UNDETERMINED, Section, Target

NOTE_CURVES = (
    "Between the measured settings monotone cubics (PCHIP) of the logarithm of the bytes, through the running best: a "
    "setting that costs more and is no better is ignored, as top-1 goes up and down by an image or two near its top."
)
NOTE_SIDES = (
    "> : the contender's best setting does not reach that quality, its bytes are given; < : its smallest setting is "
    "better already. Nothing is extrapolated. BD-rate: how many more bytes (+) than Isthmus a contender takes over the "
    "range of quality that both have."
)


def findings(comparison: Comparison) -> list[Section]:
    """All sections; the targets are in the last one."""
    return [
        levels(comparison),
        *(equal_quality(comparison, task) for task in comparison.kinds),
        each_alone(comparison),
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
        cells = [f"{setting.name}{default}", _bytes_of(setting)]
        for task in comparison.kinds:
            if task not in setting.metrics:
                cells.append("not answered")
                continue
            metric, value = comparison.metric(task), comparison.headline(setting, task)
            cells.append(f"{metric.text(value)} ({metric.difference(value, plain[task])})")
        rows.append(tuple(cells))
    heads = [f"{task}: {comparison.metric_name(task)}" for task in comparison.kinds]
    return Section(title="Isthmus at its levels", columns=("", "bytes", *heads), rows=rows)


def _shared(setting: Setting) -> float:
    """Bytes of a setting whose stream serves all tasks at once: the same for every task."""
    return max(setting.bytes.values())


def _bytes_of(setting: Setting) -> str:
    """One number where every task costs the same, else one a task."""
    sizes = [f"{size:.1f}" for size in setting.bytes.values()]
    return sizes[0] if len(set(sizes)) == 1 else ", ".join(sizes)


def equal_quality(comparison: Comparison, task: str) -> Section:
    """What each contender needs for this task alone. Isthmus's bytes are the fewest at which this task is as good."""
    metric, near = comparison.metric(task), comparison.near(task)
    own = comparison.headline(comparison.default_setting, task)
    ours = comparison.curve(comparison.isthmus, task)
    assert ours is not None
    reached = comparison.cost(comparison.isthmus, task, metric.goodness(near))
    own_cost = comparison.own_cost(task)
    rows: list[tuple[str, ...]] = [(comparison.isthmus.name, _cell(reached), "", _cell(own_cost), "", "")]
    for result in comparison.peers:
        curve = comparison.curve(result, task)
        if curve is None:
            continue
        cells = [result.name]
        for quality, size in ((near, reached), (own, own_cost)):
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
            f"bytes at {metric.text(own)}, as at Isthmus's default",
            "Isthmus saves",
            "BD-rate",
        ),
        rows=rows,
        notes=(
            "All bytes are those for this task alone. Isthmus's are read off all its qualities; they hold its other "
            "tasks, too, each as well as that quality can.",
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


def each_alone(comparison: Comparison) -> Section:
    """The quality at which Isthmus keeps each task, and the cheapest contender of each family for the same."""
    families: tuple[tuple[str, Family], ...] = (
        ("the best image codec", "image"),
        ("the best feature codec", "feature"),
        ("the best learned codec", "learned"),
    )
    present = [
        (name, family) for name, family in families if any(one.family == family for one in comparison.peers)
    ]
    rows = []
    for task in comparison.kinds:
        own = comparison.headline(comparison.default_setting, task)
        for wanted, why in ((comparison.near(task), "near uncompressed"), (own, "as at the default")):
            metric = comparison.metric(task)
            quality = metric.goodness(wanted)
            ours = comparison.cost(comparison.isthmus, task, quality)
            cells = [
                f"{task}: {metric.text(wanted)}, {why}",
                _cell(ours),
                _first_setting(comparison, task, quality),
            ]
            for _, family in present:
                name, read = _cheapest(comparison, family, task, quality)
                cells += [f"{_cell(read)} ({name})" if read else "", saved(ours, read)]
            rows.append(tuple(cells))
    heads = [head for name, _ in present for head in (f"{name}: bytes", "Isthmus saves")]
    return Section(
        title="Each task alone, at the quality that it needs",
        columns=("task", "Isthmus: bytes", "first measured setting that does it", *heads),
        rows=tuple(rows),
    )


def _first_setting(comparison: Comparison, task: str, quality: float) -> str:
    """The setting of Isthmus with the fewest bytes that reaches a quality of the task."""
    reaching = [
        setting
        for setting in comparison.isthmus.settings
        if task in setting.metrics and comparison.goodness(setting, task) >= quality
    ]
    return min(reaching, key=lambda setting: setting.bytes[task]).name if reaching else "none"


def _cheapest(comparison: Comparison, family: Family, task: str, quality: float) -> tuple[str, Read | None]:
    """The contender of a family that needs the fewest bytes for this quality of the task."""
    reads = [
        (result.name, read)
        for result in comparison.peers
        if result.family == family and (read := comparison.cost(result, task, quality)) is not None
    ]
    return min(reads, key=lambda pair: _expense([pair[1]]), default=("", None))


def needed(
    comparison: Comparison,
    result: ContenderResult,
    tasks: Collection[str],
    once: bool = False,
) -> list[Read]:
    """What a contender sends for Isthmus's default quality of these tasks, empty if it does not have all of them.

    Where one sending serves all tasks, that is what the most expensive task needs, otherwise one read a task. once: a
    feature that several tasks share is sent once, at what the most expensive of them needs.
    """
    default = comparison.default_setting
    reads = {task: comparison.cost(result, task, comparison.goodness(default, task)) for task in tasks}
    present = {task: read for task, read in reads.items() if read is not None}
    if len(present) < len(reads):
        return []
    if result.together:
        return [_most_expensive(list(present.values()))]
    groups = [[task for task in group if task in present] for group in result.shared] if once else []
    alone = [[task] for task in present if not any(task in group for group in groups)]
    return [_most_expensive([present[task] for task in group]) for group in (*groups, *alone) if group]


def _most_expensive(reads: Sequence[Read]) -> Read:
    most = max(reads, key=lambda read: read.value)
    return Read(most.value, ">") if any(read.side == ">" for read in reads) else most


def all_tasks(comparison: Comparison) -> Section:
    """What each contender needs to answer all tasks as Isthmus does at its default quality."""
    size = _shared(comparison.default_setting)
    rows = [(comparison.isthmus.name, f"{size:.0f}", "", f"{size:.0f}", "")]
    for result in comparison.peers:
        cells = [result.name]
        for once in (False, True):
            reads = needed(comparison, result, comparison.kinds, once)
            cells += [" + ".join(map(_cell, reads)), saving_of(size, reads).text if reads else ""]
        if cells[1]:
            rows.append(tuple(cells))
    return Section(
        title="All tasks together, at Isthmus's default quality of each",
        columns=(
            "contender",
            "bytes, each task its own feature",
            "Isthmus saves",
            "bytes, a shared feature once",
            "Isthmus saves",
        ),
        rows=rows,
        notes=(
            "An image serves all tasks, so the most expensive task decides. A feature is sent for each task, or, where "
            "fronts of several tasks are one and the same, once for all of them; then the most expensive decides.",
        ),
    )


def contenders(comparison: Comparison) -> Section:
    rows = [(result.name, str(len(result.settings)), result.about) for result in comparison.results]
    rows += [(name, "0", f"not measured: {why}") for name, why in comparison.skipped.items()]
    return Section(
        title="The contenders", columns=("contender", "settings measured", "what was done"), rows=rows
    )


def goals(comparison: Comparison) -> Section:
    """The targets: at equal task quality, of one task alone and of all, Isthmus's bytes against a contender's."""
    images = [result for result in comparison.peers if result.family == "image"]
    rivals = (
        ("JPEG, of either size", [result for result in images if result.name.startswith("JPEG")], 0.9),
        ("the best image codec", images, 0.8),
        ("the best feature codec", [one for one in comparison.peers if one.family == "feature"], 0.5),
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
            f"At the metrics of Isthmus's default ({comparison.default}). One task: the fewest bytes for which Isthmus "
            "does it as well, against what the cheapest contender of a kind needs. All tasks: the default's bytes; a "
            "feature that tasks share is sent once.",
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
    (only, *more) = tasks
    size = _shared(comparison.default_setting) if more else comparison.own_cost(only).value
    candidates = [reads for result in results if (reads := needed(comparison, result, tasks, once=True))]
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
