"""What `isthmus bench wire` measures, and the figures that follow from it directly."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean
from typing import Literal

from bench.report.report import About
from shared.types import Frozen

REPEATED, STILL, PERSON = "the same picture", "still, fresh noise", "a person walks"
LinkKind = Literal["plain", "TLS"]


class Way(Frozen):
    """How frames travel. intra: every frame is of type I. Unary calls have neither replies nor types of frames.

    wait_ms: how long an answer that says little may wait for others; frames then follow at a camera's pace.
    """

    name: str
    session: bool = True
    replies: Literal["all", "changes"] = "all"
    intra: bool = False
    wait_ms: int = 0


UNARY = Way(name="unary", session=False)
ALL = Way(name="session, all", replies="all")
CHANGES = Way(name="session, changes", replies="changes")
INTRA = Way(name="session, I alone", replies="changes", intra=True)
WAITING = Way(name="session, answers wait 1 s", replies="changes", wait_ms=1000)
WAYS = (UNARY, ALL, CHANGES, INTRA, WAITING)


class FrameCost(Frozen):
    """One frame on the link. frame: how it was sent. payload: b_v + b_z. up, down: all bytes that passed.

    as_before: whether it was answered with no more than that. Where answers wait, `up` and `down` are what passed until
    the next frame, so only their means say something.
    """

    frame: str
    as_before: bool
    payload: int
    up: int
    down: int

    @property
    def above(self) -> int:
        """Bytes up besides b_v + b_z."""
        return self.up - self.payload


class Course(Frozen):
    """The frames of one scene on one link, once they are in a steady state.

    opening_up, opening_down: bytes until the first answer, connecting included. http2_up, http2_down: mean bytes a
    frame, by type of HTTP/2 frame; empty over TLS.
    """

    way: Way
    scene: str
    link: LinkKind
    opening_up: int
    opening_down: int
    frames: tuple[FrameCost, ...]
    http2_up: dict[str, float]
    http2_down: dict[str, float]


class BoxCourse(Frozen):
    """A scene through a camera box with its own settings, plain. types: frames by how they were sent.

    payload: bytes of all frames, with their containers. up, down: all bytes that passed.
    """

    scene: str
    seconds: float
    frames: int
    types: dict[str, int]
    payload: int
    up: int
    down: int

    @property
    def both(self) -> float:
        """Bytes a frame, both ways."""
        return (self.up + self.down) / self.frames


class Wire(Frozen):
    """All that was measured. fps: the pace where answers wait. skipped: frames before each course counts.

    missing: why there is no TLS, or empty.
    """

    about: About
    bundle: str
    quality: int
    hold: float
    fps: float
    sticky: bool
    predicts: bool
    skipped: int
    courses: tuple[Course, ...]
    boxes: tuple[BoxCourse, ...] = ()
    missing: str = ""

    def frames(
        self, link: LinkKind, *, ways: Iterable[Way] = WAYS, scenes: Iterable[str] = (REPEATED, STILL, PERSON)
    ) -> list[FrameCost]:
        """Frames of all courses on a link, of some ways and scenes."""
        ways, scenes = tuple(ways), tuple(scenes)
        return [
            frame
            for course in self.courses
            if course.link == link and course.way in ways and course.scene in scenes
            for frame in course.frames
        ]


class Means(Frozen):
    """Of some frames, bytes a frame: mean, and of what stands above b_v + b_z also the largest."""

    count: int
    payload: float
    above: float
    above_max: int
    down: float
    both: float

    @classmethod
    def of(cls, frames: list[FrameCost]) -> Means:
        """Of one frame or more."""
        return cls(
            count=len(frames),
            payload=fmean(one.payload for one in frames),
            above=fmean(one.above for one in frames),
            above_max=max(one.above for one in frames),
            down=fmean(one.down for one in frames),
            both=fmean(one.up + one.down for one in frames),
        )
