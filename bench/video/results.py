"""What `isthmus bench video` measures, and the figures that follow from it directly."""

from __future__ import annotations

from typing import Literal

from bench.report.report import About
from bench.video.footage import FootageKind
from shared.types import Frozen, TaskKind

Family = Literal["isthmus", "video", "feature", "image"]


class Name(Frozen):
    """A setting. quality, hold: of Isthmus; hold None: frames I alone."""

    text: str
    quality: int | None = None
    hold: float | None = None

    @classmethod
    def isthmus(cls, quality: int, hold: float | None) -> Name:
        how = "I alone" if hold is None else f"hold {hold:g}"
        return cls(text=f"quality {quality}, {how}", quality=quality, hold=hold)

    @classmethod
    def step(cls, text: str) -> Name:
        return cls(text=text)


class VideoSetting(Frozen):
    """One setting of a contender over all sequences of a footage.

    mean: bytes a frame. first: bytes of a sequence's first frame. rest: bytes a frame of all others. kinds: how many
    frames of each type were sent. metrics: by task, then by the metric's name.
    """

    name: Name
    mean: float
    first: float
    rest: float
    kinds: dict[str, int]
    metrics: dict[str, dict[str, float]]

    def a_minute(self, fps: float) -> float:
        """Bytes a frame of a minute that begins as these sequences do and goes on as they do."""
        frames = 60 * fps
        return (self.first + (frames - 1) * self.rest) / frames


class VideoResult(Frozen):
    """What a contender gave. about: what exactly was done, and which bytes count."""

    name: str
    family: Family
    about: str
    settings: tuple[VideoSetting, ...]


class FootageResult(Frozen):
    """All contenders on one footage. labelled: tasks scored against labels, the others against uncompressed networks.

    plain: the uncompressed networks' own scores, by task.
    """

    name: str
    kind: FootageKind
    motion: str
    fps: float
    sequences: int
    frames: int
    labelled: tuple[str, ...]
    plain: dict[str, dict[str, float]]
    results: tuple[VideoResult, ...]

    def result(self, family: Family) -> VideoResult:
        return next(one for one in self.results if one.family == family)

    def bytes_of(self, setting: VideoSetting) -> float:
        """Bytes a frame: of a clip as it is; of sequences that are cut short, of a minute that goes on like them."""
        return setting.mean if self.kind == "clip" else setting.a_minute(self.fps)


class Video(Frozen):
    """All that was measured. quality, hold: the setting that is judged."""

    about: About
    bundle: str
    kinds: dict[str, TaskKind]
    quality: int
    hold: float
    sticky: bool
    predicts: bool
    footage: tuple[FootageResult, ...]
