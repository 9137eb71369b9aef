"""The report of `isthmus bench video`: tables, targets and a plot. Computes, and measures nothing."""

from __future__ import annotations

from pathlib import Path

from bench.report.plots import finish_byte_axes, new_figure, png_of
from bench.report.report import markdown, write_results
from bench.report.sections import Section, Target, judge
from bench.video.comparison import Comparison, ratio_of
from bench.video.results import FootageResult, Video, VideoResult, VideoSetting
from shared.files import write_atomically

BYTES_MAX = {"static": 25, "person": 120}  # a frame, by motion
FEWER_THAN_ALONE, FEWER_THAN_VIDEO = 6, 5
FORM = "{:.1f}"


def sections(video: Video) -> list[Section]:
    comparisons = [_comparison(video, one) for one in video.footage]
    return [_summary(video, comparisons), *(_footage(video, one) for one in comparisons), _abouts(video)]


def _comparison(video: Video, footage: FootageResult) -> Comparison:
    return Comparison(footage, video.kinds, video.quality, video.hold)


def _summary(video: Video, comparisons: list[Comparison]) -> Section:
    """A row for each footage: the judged setting against all else."""
    tasks = list(video.kinds)
    rows = []
    for one in comparisons:
        judged = one.judged
        rows.append(
            (
                one.footage.name,
                FORM.format(one.bytes_of(judged)),
                FORM.format(one.bytes_of(judged) * one.footage.fps),
                _kinds(judged),
                f"{one.against_alone:.1f}x",
                *(one.metric(task).text(one.score(judged, task)) for task in tasks),
                *(f"{_points(one, judged, one.alone, task):+.2f}" for task in tasks),
                *(one.against(family, judged).text for family in ("video", "feature", "image")),
            )
        )
    columns = (
        "footage",
        "bytes a frame",
        "bytes a second",
        "frames",
        "fewer than I alone",
        *tasks,
        *(f"{task}: lost to I alone" for task in tasks),
        "fewer than x265 of the picture",
        "than x265 of the feature",
        "than JPEG",
    )
    notes = [
        f"Bundle {video.bundle}, quality {video.quality}, hold {video.hold:g}. Scores of rooms are against labels, "
        "all others agreement with the uncompressed networks. What is lost is in points of a share, or in the "
        "metric's own unit. Others are read off their curves at the bytes at which they are as good in every task.",
        "Bytes a frame of clips are as sent. Other sequences are short, so theirs are those of a minute that begins "
        "like them, with a frame I, and goes on like them; for x265 likewise.",
    ]
    if not video.predicts:
        notes.append("This bundle has no context: no frames P.")
    if not video.sticky:
        notes.append("This bundle's extractor has no sticky rounding: hold 0 alone.")
    return Section(
        title="Isthmus in sessions",
        columns=columns,
        rows=tuple(rows),
        notes=tuple(notes),
        targets=tuple(_targets(video, comparisons)),
    )


def _points(one: Comparison, setting: VideoSetting, other: VideoSetting, task: str) -> float:
    """What is lost, in points where the metric is a share, otherwise in its unit."""
    share = not one.metric(task).unit
    return one.loss(setting, other, task) * (100 if share else 1)


def _targets(video: Video, comparisons: list[Comparison]) -> list[Target]:
    found = []
    for motion, most in BYTES_MAX.items():
        for one in comparisons:
            if one.footage.motion == motion:
                value = one.bytes_of(one.judged)
                what = f"{one.footage.name}: bytes a frame, all tasks"
                found.append(judge(what, f"<= {most}", value, value <= most, FORM))
    clips = [one for one in comparisons if one.footage.kind == "clip"]
    if not clips:
        return found
    fewer = sum(one.bytes_of(one.alone) for one in clips) / sum(one.bytes_of(one.judged) for one in clips)
    what = "clips: fewer bytes than frames I alone"
    found.append(judge(what, f">= {FEWER_THAN_ALONE}x", fewer, fewer >= FEWER_THAN_ALONE, "{:.1f}x"))
    losses = [[_points(one, one.judged, one.alone, task) for one in clips] for task in video.kinds]
    for how, lost in (
        ("mean of the clips, of any task", max(sum(of_task) / len(clips) for of_task in losses)),
        ("of any clip and task", max(map(max, losses))),
    ):
        what = f"clips: most agreement lost to frames I alone, {how}"
        found.append(judge(what, "<= 1 point", lost, lost <= 1, "{:.2f}", low=-200, high=200))
    ratio = ratio_of(clips, "video")
    what = "clips: fewer bytes than x265 of the picture at equal agreement"
    met = ratio.met(FEWER_THAN_VIDEO)
    found.append(Target(what=what, target=f">= {FEWER_THAN_VIDEO}x", reached=ratio.text, met=met))
    return found


def _footage(video: Video, one: Comparison) -> Section:
    """A row for each contender and setting."""
    footage, tasks = one.footage, list(video.kinds)
    rows = [
        (result.name, setting.name.text, *_row(one, result, setting, tasks))
        for result in footage.results
        for setting in result.settings
    ]
    plain = ", ".join(
        f"{task} {one.metric(task).name} {one.metric(task).text(scores[one.metric(task).key])}"
        for task, scores in footage.plain.items()
    )
    labelled = ", ".join(footage.labelled) or "none"
    return Section(
        title=f"{footage.name}: {footage.frames} frames of {footage.sequences} at {footage.fps:g} a second",
        columns=(
            "contender",
            "setting",
            "bytes a frame",
            "the first",
            "the rest",
            "of a minute",
            "bytes a second",
            "frames",
            *(f"{task}: {one.metric(task).name}{one.metric(task).unit}" for task in tasks),
            "bytes of I alone",
            *(f"{task}: lost" for task in tasks),
            "fewer than x265 of the picture",
        ),
        rows=tuple(rows),
        notes=(
            f"The uncompressed networks: {plain}. Scored against labels: {labelled}; others by agreement.",
        ),
    )


def _row(one: Comparison, result: VideoResult, setting: VideoSetting, tasks: list[str]) -> tuple[str, ...]:
    fps = one.footage.fps
    sizes = (setting.mean, setting.first, setting.rest, setting.a_minute(fps), one.bytes_of(setting) * fps)
    cells = [FORM.format(size) for size in sizes] + [_kinds(setting)]
    cells += [one.metric(task).text(one.score(setting, task)) for task in tasks]
    if result.family != "isthmus" or setting.name.quality is None:
        return (*cells, *([""] * (2 + len(tasks))))
    alone = one.setting(setting.name.quality, None)
    share = one.bytes_of(setting) / one.bytes_of(alone)
    lost = (f"{_points(one, setting, alone, task):+.2f}" for task in tasks)
    return (*cells, f"{share:.1%}", *lost, one.against("video", setting).text)


def _kinds(setting: VideoSetting) -> str:
    total = sum(setting.kinds.values())
    return ", ".join(f"{kind} {count / total:.0%}" for kind, count in setting.kinds.items())


def _abouts(video: Video) -> Section:
    abouts = {result.name: result.about for footage in video.footage for result in footage.results}
    return Section(title="What was sent", columns=("contender", "how"), rows=tuple(abouts.items()))


def plot(video: Video) -> bytes:
    """PNG: each task's score against bytes a frame, a row for each footage."""
    tasks = list(video.kinds)
    figure = new_figure(5 * len(tasks), 3.5 * len(video.footage))
    grid = figure.subplots(len(video.footage), len(tasks), squeeze=False)
    for row, footage in zip(grid, video.footage, strict=True):
        one = _comparison(video, footage)
        for axes, task in zip(row, tasks, strict=True):
            for name, settings in _lines(footage):
                points = [(one.bytes_of(setting), one.score(setting, task)) for setting in settings]
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
            metric = one.metric(task)
            finish_byte_axes(axes, f"{metric.name}{metric.unit}", f"{footage.name}: {task}")
    return png_of(figure)


def _lines(footage: FootageResult) -> list[tuple[str, list[VideoSetting]]]:
    """A contender's settings in their order; those of Isthmus, a line for each hold."""
    lines: dict[str, list[VideoSetting]] = {}
    for result in footage.results:
        for setting in result.settings:
            hold = setting.name.hold
            how = "" if result.family != "isthmus" else ", I alone" if hold is None else f", hold {hold:g}"
            lines.setdefault(result.name + how, []).append(setting)
    return list(lines.items())


def write_video(out: Path, video: Video) -> None:
    """Writes results.json, results.md and video.png to `out`."""
    made = sections(video)
    write_results(out, video, made, markdown(made, video.about, "Video", "frames"))
    write_atomically(out / "video.png", plot(video))
