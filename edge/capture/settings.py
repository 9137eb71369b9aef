"""One source of images: everything about it that can be chosen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, field_validator

from edge.capture.gate import Rectangle, Schedule
from shared.codec.bitstream import MAX_STREAM_BYTES
from shared.process.config import Section

Kind = Literal["rtsp", "v4l2", "video", "folder", "snapshot"]
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
SCHEMES = {"rtsp": ("rtsp", "rtsps"), "snapshot": ("http", "https")}
Share = tuple[float, float, float, float]


class SourceSettings(Section):
    """A camera, a file or a folder. Its name is that of its table, [sources.NAME], and is the camera's in the cloud."""

    kind: Kind = Field(
        description="rtsp, v4l2, video (a file), folder (of image files) or snapshot (a URL, polled)"
    )
    url: str = Field(min_length=1, description="rtsp://..., /dev/video0, a file, a folder, or http://...")
    fps: float | None = Field(
        default=None, gt=0, le=1000, description="images a second at most; all by default, one of a snapshot"
    )
    tasks: tuple[str, ...] = Field(
        default=(), max_length=64, description="tasks wanted; every task by default"
    )
    top_k: int = Field(default=5, ge=1, le=100, description="classes wanted of a classification")
    quality: int | None = Field(
        default=None, ge=0, le=100, description="quality; the bundle's default if absent"
    )
    bytes_max: int | None = Field(
        default=None,
        ge=1,
        le=MAX_STREAM_BYTES,
        description="bytes of an image: the best quality that fits is taken",
    )
    loss: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="takes the lowest quality that loses at most this share of each task",
    )
    groups: bool | None = Field(
        default=None,
        description="whether frames are sent given earlier ones, which saves most of a scene that stays the same; by "
        "default those of all sources but folders",
    )
    region: Share | None = Field(
        default=None,
        description="left, top, width, height as shares of the image: what is outside is cut off",
    )
    mask: tuple[Share, ...] = Field(
        default=(), max_length=64, description="rectangles as in region, of the whole image, that are blanked"
    )
    schedule: tuple[str, ...] = Field(
        default=(),
        description='when it captures, local time: "mon-fri 08:00-18:00", "sat,sun"; always by default',
    )
    motion: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="sends only images of which this share has changed since the last one",
    )
    heartbeat_s: float = Field(
        default=60, gt=0, description="with motion: an image is sent at least so often all the same"
    )
    loop: bool = Field(default=False, description="of a video: begins again at its end")
    pace: Literal["own", "fast"] = Field(
        default="own", description="of a video: its own pace, or as fast as it goes"
    )
    after: Literal["keep", "move", "delete"] = Field(
        default="move",
        description="of a folder: what becomes of a file once the cloud has it: kept, moved into done/, or deleted",
    )
    settle_ms: int = Field(
        default=1000, ge=0, description="of a folder: a file that has not changed for so long is whole"
    )
    transport: Literal["tcp", "udp"] = Field(default="tcp", description="of rtsp")
    hwaccel: str = Field(
        default="",
        description="of rtsp and video: ffmpeg's name of a device that decodes, as vaapi or cuda; otherwise software",
    )
    stall_ms: int = Field(
        default=10_000, ge=100, description="a source that says nothing for so long is started again"
    )
    memory_max: int = Field(
        default=1 << 30,
        ge=64 << 20,
        description="bytes; a source whose process grows beyond is started again",
    )

    @field_validator("region")
    @classmethod
    def _is_a_region(cls, region: Share | None) -> Share | None:
        if region is not None:
            Rectangle.of(region)
        return region

    @field_validator("mask")
    @classmethod
    def _are_regions(cls, mask: tuple[Share, ...]) -> tuple[Share, ...]:
        for one in mask:
            Rectangle.of(one)
        return mask

    @field_validator("schedule")
    @classmethod
    def _is_a_schedule(cls, schedule: tuple[str, ...]) -> tuple[str, ...]:
        Schedule(schedule)
        return schedule

    def model_post_init(self, _: Any) -> None:
        schemes = SCHEMES.get(self.kind)
        if schemes and urlsplit(self.url).scheme not in schemes:
            raise ValueError(
                f"url is {self.place!r}; that of a source of kind {self.kind} begins with {schemes[0]}://"
            )
        if sum(one is not None for one in (self.quality, self.bytes_max, self.loss)) > 1:
            raise ValueError("quality, bytes_max and loss each choose the quality; give one of them")

    @property
    def place(self) -> str:
        """The URL for people, without its password and its query."""
        return without_password(self.url)

    @property
    def is_live(self) -> bool:
        """Whether an image that is not taken in time is gone: then the newest counts."""
        return self.kind in ("rtsp", "v4l2", "snapshot") or (self.kind == "video" and self.pace == "own")

    @property
    def is_grouped(self) -> bool:
        return self.kind != "folder" if self.groups is None else self.groups

    def to_child(self) -> dict[str, Any]:
        """What its process needs; a path no longer depends on the current folder."""
        url = self.url if self.kind in SCHEMES else str(Path(self.url).absolute())
        names = (
            "kind",
            "fps",
            "region",
            "mask",
            "schedule",
            "motion",
            "heartbeat_s",
            "loop",
            "pace",
            "settle_ms",
        )
        more = ("transport", "hwaccel", "memory_max", "is_live", "stall_ms")
        return {"url": url} | {name: getattr(self, name) for name in (*names, *more)}


def without_password(url: str) -> str:
    """The URL with *** for its password, and for its query, in which many cameras take one."""
    parts = urlsplit(url)
    if not parts.netloc:  # a path, in which ? is a letter as any other
        return url
    if parts.query:
        parts = parts._replace(query="***")
    if parts.password is not None:
        _, _, host = parts.netloc.rpartition("@")
        parts = parts._replace(netloc=f"{parts.username}:***@{host}")
    return urlunsplit(parts)
