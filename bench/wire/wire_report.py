"""The report of `isthmus bench wire`: tables and targets. Computes, and measures nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from bench.report.report import markdown, write_results
from bench.report.sections import Section, Target, judge
from bench.wire.results import (
    ALL,
    CHANGES,
    INTRA,
    PERSON,
    REPEATED,
    STILL,
    WAITING,
    WAYS,
    FrameCost,
    LinkKind,
    Means,
    Wire,
)

UP_MAX, AS_BEFORE_MAX, BOTH_MAX = 30, 30, 60
FRAME_MAX = {STILL: 25, PERSON: 120}  # through a box, by scene
SESSIONS = (ALL, CHANGES, INTRA)
LINKS: tuple[LinkKind, ...] = ("plain", "TLS")
FORM = "{:.1f}"


def sections(wire: Wire) -> list[Section]:
    boxes = [_boxes(wire)] if wire.boxes else []
    return [*boxes, _types(wire), _scenes(wire), _http2(wire), _opening(wire)]


def _boxes(wire: Wire) -> Section:
    """A row for each scene through a camera box."""
    rows, targets = [], []
    for one in wire.boxes:
        types = ", ".join(f"{count} {kind}" for kind, count in sorted(one.types.items()))
        each = (one.payload / one.frames, one.up / one.frames, one.down / one.frames, one.both)
        rows.append((one.scene, f"{one.seconds:g}", types, *(FORM.format(figure) for figure in each)))
        most = FRAME_MAX[one.scene]
        what = f"a camera box, {one.scene}: bytes a frame"
        targets.append(judge(what, f"<= {most} bytes", each[0], each[0] <= most, FORM))
        if one.scene == STILL:
            what = f"a camera box, {one.scene}: all bytes, both ways"
            targets.append(judge(what, f"<= {BOTH_MAX} bytes", one.both, one.both <= BOTH_MAX, FORM))
    return Section(
        title="Through a camera box",
        columns=("scene", "seconds", "frames", "frame", "up", "down", "both"),
        rows=tuple(rows),
        notes=(
            f"`isthmus edge run` with the settings that it comes with; a video of {wire.fps:g} images a second, as it "
            "plays. Mean bytes; `frame` is what was sent of one with its container, the others are all that passed.",
        ),
        targets=tuple(targets),
    )


def _types(wire: Wire) -> Section:
    """A row for each way, link, type of frame and kind of answer."""
    rows = []
    for way in WAYS:
        for link in LINKS:
            groups: dict[tuple[str, bool], list[FrameCost]] = {}
            for one in wire.frames(link, ways=[way]):
                groups.setdefault((one.frame, one.as_before), []).append(one)
            for (frame, as_before), frames in sorted(groups.items()):
                means = Means.of(frames)
                answer = "as before" if as_before else "results"
                figures = (means.payload, means.above, means.above_max, means.down)
                rows.append(
                    (way.name, link, frame, answer, str(means.count), *(FORM.format(one) for one in figures))
                )
    notes = [
        f"Bundle {wire.bundle}, quality {wire.quality}, hold {wire.hold:g}; mean bytes a frame after the first "
        f"{wire.skipped}, each with its capture time, of all three scenes. `above` is everything that passed up beside "
        "b_v + b_z: container, protobuf, gRPC, HTTP/2, and TLS where it is on. What TCP and IP add, 40 to 66 bytes a "
        "segment, is not counted.",
        f"{WAITING.name}: frames follow at {wire.fps:g} a second whether or not those before are answered, and what "
        "passes until the next counts for each. In all other ways the next is sent once the last is answered.",
        "TLS (1.3, HTTP/2) is ended by relays on both sides of the counting proxy, with a certificate that is thrown "
        "away; the ends themselves speak none yet.",
    ]
    if wire.missing:
        notes.append(f"No TLS: {wire.missing}.")
    if not wire.predicts:
        notes.append("This bundle has no context: no frames P.")
    if not wire.sticky:
        notes.append("This bundle's extractor has no sticky rounding: `hold` has no effect.")
    return Section(
        title="Bytes a frame on the link",
        columns=("way", "link", "frame", "answer", "frames", "b_v + b_z", "above", "most", "down"),
        rows=tuple(rows),
        notes=tuple(notes),
        targets=tuple(_targets(wire)),
    )


def _targets(wire: Wire) -> list[Target]:
    """Of sessions whose answers come at once; and of those whose answers wait, where frames cannot be told apart, means
    of the scene that is all of one type."""
    up, down, both = f"<= {UP_MAX} bytes", f"<= {AS_BEFORE_MAX} bytes", f"<= {BOTH_MAX} bytes"
    found = []
    for frame in ("I", "P", "S"):
        frames = [one for one in wire.frames("plain", ways=SESSIONS) if one.frame == frame]
        what = f"session, frames {frame}: up above b_v + b_z"
        found.append(_judged(what, up, frames, lambda means: means.above, UP_MAX))
    before = [one for one in wire.frames("plain", ways=SESSIONS) if one.as_before]
    what = "session: down for an answer as before"
    found.append(_judged(what, down, before, lambda means: means.down, AS_BEFORE_MAX))
    same = [
        one
        for one in wire.frames("plain", ways=[WAITING], scenes=[REPEATED])
        if one.frame == "S" and one.as_before
    ]
    what = f"{WAITING.name}, frames S: up above b_v + b_z"
    found.append(_judged(what, up, same, lambda means: means.above, UP_MAX))
    what = f"{WAITING.name}: down for an answer as before"
    found.append(_judged(what, down, same, lambda means: means.down, AS_BEFORE_MAX))
    for way in (CHANGES, WAITING):
        still = wire.frames("plain", ways=[way], scenes=[STILL])
        what = f"{way.name}, still room: all bytes, both ways"
        found.append(_judged(what, both, still, lambda means: means.both, BOTH_MAX))
    return found


def _judged(
    what: str,
    target: str,
    frames: list[FrameCost],
    figure: Callable[[Means], float],
    most: float,
) -> Target:
    """Undetermined where no such frame was sent."""
    if not frames:
        return Target(what=what, target=target, reached="no such frame was sent", met=None)
    value = figure(Means.of(frames))
    return judge(what, target, value, value <= most, FORM)


def _scenes(wire: Wire) -> Section:
    rows = []
    for course in wire.courses:
        means = Means.of(list(course.frames))
        counts = Counter(one.frame for one in course.frames)
        kinds = ", ".join(f"{kind} {count / means.count:.0%}" for kind, count in sorted(counts.items()))
        before = sum(one.as_before for one in course.frames) / means.count
        figures = (means.payload, means.above + means.payload, means.down, means.both)
        rows.append(
            (
                course.scene,
                course.way.name,
                course.link,
                kinds,
                f"{before:.0%}",
                *(FORM.format(one) for one in figures),
            )
        )
    return Section(
        title="Bytes a frame of each scene",
        columns=("scene", "way", "link", "frames", "as before", "b_v + b_z", "up", "down", "both"),
        rows=tuple(rows),
        notes=("All bytes that passed. Unary calls send each frame by itself and are answered in full.",),
    )


def _http2(wire: Wire) -> Section:
    """Mean bytes a frame of the still room, by type of HTTP/2 frame."""
    courses = [one for one in wire.courses if one.link == "plain" and one.scene == STILL]
    names = sorted({name for one in courses for name in (*one.http2_up, *one.http2_down)})
    rows = [
        (one.way.name, direction, *(FORM.format(spent.get(name, 0.0)) for name in names))
        for one in courses
        for direction, spent in (("up", one.http2_up), ("down", one.http2_down))
    ]
    return Section(
        title="HTTP/2 frames",
        columns=("way", "direction", *names),
        rows=tuple(rows),
        notes=(
            "Mean bytes a frame of the still room, without TLS; each type with its 9-byte headers. DATA holds 5 bytes "
            "of gRPC and the message. A keepalive ping of 17 bytes each way follows once a minute.",
            "gRPC announces both windows, the connection's and the stream's, with a message that follows one received: "
            "26 bytes each way, which no option of it saves. So a message that answers another costs 40 at least.",
        ),
    )


def _opening(wire: Wire) -> Section:
    courses = [one for one in wire.courses if one.scene == STILL]
    rows = [
        (one.way.name, one.link, str(one.opening_up), str(one.opening_down))
        for one in courses
        if one.way != INTRA
    ]
    return Section(
        title="Until the first answer",
        columns=("way", "link", "bytes up", "bytes down"),
        rows=tuple(rows),
        notes=("Connecting, opening, names of all labels, and the first frame.",),
    )


def write_wire(out: Path, wire: Wire) -> None:
    """Writes results.json and results.md to `out`."""
    made = sections(wire)
    text = markdown(made, wire.about, "Bytes on the link", "frames a scene and way")
    write_results(out, wire, made, text)
