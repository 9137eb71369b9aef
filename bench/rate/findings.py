"""What `isthmus bench rate` says: bytes at equal quality, BD-rates, targets. Computes, and measures nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from bench.rate.contenders import MeasuredWay, Point
from bench.report.curves import Curve, Read, bd_rate
from bench.report.sections import METRICS, Metric, Section, Target
from bench.rooms.findings import saving_of
from shared.types import TaskKind

NOTE_CURVES = (
    "Between the measured settings monotone cubics (PCHIP) of the bytes' logarithm through the running best: a setting "
    "that costs more and is no better counts nowhere, as top-1 goes up and down by a picture or two where it is full."
)
NOTE_SIDES = (
    "> : the way's best setting does not reach that quality, its bytes are given; < : its smallest setting is better "
    "already. Nothing is extrapolated. BD-rate: how many more bytes (+) than Isthmus a way takes over the range of "
    "quality that both have."
)


@dataclass(frozen=True)
class Race:
    """ways: Isthmus and the uncompressed networks among them. labelled: tasks whose figures are against labels; of
    the others they are agreement with the uncompressed network. default: setting of the bundle's default quality."""

    ways: Sequence[MeasuredWay]
    kinds: Mapping[str, TaskKind]
    labelled: Collection[str]
    default: str

    def metric(self, task: str) -> Metric:
        return METRICS[self.kinds[task]]

    def name(self, task: str) -> str:
        """Of the figure by which the task is judged."""
        metric = self.metric(task)
        return f"{'' if task in self.labelled else 'agreement, '}{metric.name}{metric.unit}"

    def figure(self, point: Point, task: str) -> float:
        return point.tasks[task][self.metric(task).key]

    def curve(self, way: MeasuredWay, task: str) -> Curve | None:
        """More is better. None where the way has not the task."""
        better = self.metric(task).better
        points = [
            (point.bytes[task], better * self.figure(point, task))
            for point in way.points
            if task in point.tasks
        ]
        return Curve.of(points) if points else None

    def cost(self, way: MeasuredWay, task: str, quality: float) -> Read | None:
        """Bytes for a quality, of which more is better."""
        curve = self.curve(way, task)
        if curve is None:
            return None
        read = curve.bytes_at(quality)
        # With one setting there is no curve to leave: what is better than asked costs what it costs.
        return Read(read.value) if len(curve.sizes) == 1 and read.side == "<" else read

    @property
    def isthmus(self) -> MeasuredWay:
        return next(way for way in self.ways if way.family == "isthmus")

    @property
    def peers(self) -> list[MeasuredWay]:
        return [way for way in self.ways if way.family != "isthmus"]

    def plain(self, task: str) -> float:
        """The uncompressed network's figure."""
        (way,) = (way for way in self.ways if way.family == "uncompressed")
        return self.figure(way.points[0], task)

    def at_default(self, task: str) -> float:
        return self.figure(self.isthmus.point(self.default), task)


def findings(race: Race) -> list[Section]:
    """All sections, the targets in the last one."""
    return [
        levels(race),
        *(equal_quality(race, task) for task in race.kinds),
        all_tasks(race),
        ways(race),
        goals(race),
    ]


def levels(race: Race) -> Section:
    rows = [
        ("uncompressed", "", *(race.metric(task).told(race.plain(task)) for task in race.kinds)),
        *(_level(race, point) for point in race.isthmus.points),
    ]
    heads = [f"{task}: {race.name(task)}" for task in race.kinds]
    return Section(title="Isthmus at its levels", columns=("", "bytes", *heads), rows=rows)


def _level(race: Race, point: Point) -> tuple[str, ...]:
    cells = [f"{point.setting}{' (default)' if point.setting == race.default else ''}"]
    cells.append(f"{_most(point.bytes.values()):.1f}")
    for task in race.kinds:
        metric, value = race.metric(task), race.figure(point, task)
        cells.append(f"{metric.told(value)} ({metric.difference(value, race.plain(task))})")
    return tuple(cells)


def _most(sizes: Collection[float]) -> float:
    """Isthmus's bytes are the same for every task."""
    return max(sizes)


def equal_quality(race: Race, task: str) -> Section:
    """What each way needs for this task alone, where Isthmus's bytes hold all tasks."""
    metric = race.metric(task)
    near, own = race.plain(task) - metric.better * metric.loss, race.at_default(task)
    ours = race.curve(race.isthmus, task)
    assert ours is not None
    reached = race.cost(race.isthmus, task, metric.better * near)
    default_bytes = race.isthmus.point(race.default).bytes[task]
    rows = [(race.isthmus.name, _told(reached), "", f"{default_bytes:.0f}", "", "")]
    for way in race.peers:
        curve = race.curve(way, task)
        if curve is None:
            continue
        cells = [way.name]
        for quality, size in ((near, reached), (own, Read(default_bytes))):
            read = race.cost(way, task, metric.better * quality)
            cells += [_told(read), _saved(size, read)]
        rate = bd_rate(ours, curve)
        cells.append("no common range" if rate is None else f"{rate:+.0%}")
        rows.append(tuple(cells))
    return Section(
        title=f"{task}: bytes at equal quality ({race.name(task)})",
        columns=(
            "way",
            f"bytes at {metric.told(near)}, {metric.told(metric.loss)} from uncompressed",
            "Isthmus saves",
            f"bytes at {metric.told(own)}, Isthmus's default",
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


def _told(read: Read | None) -> str:
    if read is None:
        return ""
    return f"{read.side}{' ' if read.side else ''}{read.value:.0f}"


def _saved(size: Read | None, read: Read | None) -> str:
    if size is None or read is None:
        return ""
    if size.side == ">":
        return "not reached by Isthmus"
    if size.side == "<" and read.side == "<":
        return "cannot be told"
    saved = saving_of(size.value, [read])[0]
    return f"at least {saved}" if size.side == "<" and not read.side else saved


def needed(race: Race, way: MeasuredWay, tasks: Collection[str]) -> list[Read]:
    """What a way sends for Isthmus's default quality of these tasks: the dearest of them where one sending serves
    all, otherwise each. Empty where it has not all of them."""
    reads = [race.cost(way, task, race.metric(task).better * race.at_default(task)) for task in tasks]
    there = [read for read in reads if read is not None]
    if len(there) < len(reads):
        return []
    return [_dearest(there)] if way.together else there


def _dearest(reads: Sequence[Read]) -> Read:
    most = max(reads, key=lambda read: read.value)
    return Read(most.value, ">") if any(read.side == ">" for read in reads) else most


def all_tasks(race: Race) -> Section:
    size = race.isthmus.point(race.default).bytes
    rows = [(race.isthmus.name, f"{_most(size.values()):.0f}", "")]
    for way in race.peers:
        reads = needed(race, way, race.kinds)
        if reads:
            rows.append((way.name, " + ".join(map(_told, reads)), saving_of(_most(size.values()), reads)[0]))
    return Section(
        title="All tasks together, at Isthmus's default quality of each",
        columns=("way", "bytes", "Isthmus saves"),
        rows=rows,
        notes=("A picture serves all tasks: the dearest task decides. Features are sent for each.",),
    )


def ways(race: Race) -> Section:
    rows = [(way.name, str(len(way.points)), way.settings) for way in race.ways]
    return Section(title="The ways", columns=("way", "settings measured", "what was done"), rows=rows)


def goals(race: Race) -> Section:
    """Issue 4's: at equal task quality, Isthmus's bytes for all tasks against a peer's for one."""
    images = [way for way in race.peers if way.family == "image"]
    rivals = (
        ("JPEG, of either size", [way for way in images if way.name.startswith("JPEG")], 0.9),
        ("the best image codec", images, 0.8),
        ("the hybrid way", [way for way in race.peers if way.name.startswith("hybrid")], 0.5),
    )
    targets = []
    every = [((task,), task) for task in race.kinds] + [(tuple(race.kinds), "all tasks")]
    for tasks, told in every if len(race.kinds) > 1 else every[:1]:
        size = max(race.isthmus.point(race.default).bytes[task] for task in tasks)
        for name, those, least in rivals:
            # Which way is the cheapest: by all that it sends, one that never gets there last.
            candidates = [reads for way in those if (reads := needed(race, way, tasks))]
            cheapest = min(candidates, key=_rank)
            reached, met = saving_of(size, cheapest, least)
            targets.append(
                Target(
                    what=f"{told}: against {name}", target=f">= {least:.0%} fewer", reached=reached, met=met
                )
            )
    return Section(
        title="How the targets are counted",
        notes=(
            f"At Isthmus's default ({race.default}): its bytes, which answer all tasks, against what the cheapest way "
            "of a kind needs for that one task at the same figure.",
        ),
        targets=targets,
    )


def _rank(reads: Sequence[Read]) -> tuple[bool, float]:
    return any(read.side == ">" for read in reads), sum(read.value for read in reads)
