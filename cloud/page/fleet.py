"""The cameras that this server answers: when, how often, how large, how well. In memory, bounded; knows no archive.

    Pipeline, sessions --answered, or an error--> Fleet.image

A day is 96 quarters of an hour. What was answered before the server started comes from its archive (`Fleet.add`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cloud.archive.records import UNNAMED
from cloud.observer import ANSWERED, Seen, Unobserved
from shared.bundle import Bundle
from shared.codec.frame import MAGIC_2
from shared.errors import IsthmusError, exit_of
from shared.frozen import Frozen, Moment

SLOT_S = 900
SLOTS = 96
RATE_MINUTES = 5
CAMERAS_MAX = 4096  # about 10 MiB
LISTED_MAX = 500

_ANSWERS, _BYTES, _ERRORS = range(3)


class CameraError(Frozen):
    """The last request of a camera that was not answered."""

    at: Moment
    title: str
    detail: str


class CameraState(Frozen):
    """One camera as this server knows it. Numbers: of the last 24 hours, in whole quarters of an hour."""

    camera: str
    last_at: Moment | None = Field(description="when its last frame was answered")
    bundle: str = Field(description="fingerprint of that frame's bundle, 8 hex digits; empty if unknown")
    wanted: str = Field(default="", description="the one that a rollout wants it to run instead; empty: none")
    rate: float = Field(description="answers a minute, over the last five minutes")
    answers: int
    bytes: int = Field(description="of its bitstreams")
    errors: int
    last_error: CameraError | None = None
    curve: tuple[int, ...] = Field(description="answers in each quarter of an hour, oldest first, 96 of them")


class FleetState(Frozen):
    at: Moment
    total: int = Field(description="cameras known, or found by the search")
    cameras: tuple[CameraState, ...] = Field(description="those that answered last come first")
    archived: bool = Field(description="whether their bitstreams are kept, so that they can be asked later")


class _Ring:
    """Numbers by slots of time, the newest `size` of them. columns: numbers a slot."""

    def __init__(self, size: int, slot_s: int, columns: int) -> None:
        self._slot_s = slot_s
        self._values: NDArray[np.int64] = np.zeros((size, columns), np.int64)
        self._newest = -1

    def add(self, at_s: float, numbers: tuple[int, ...]) -> None:
        slot = int(at_s // self._slot_s)
        self._turn(slot)
        if slot > self._newest - len(self._values):
            self._values[slot % len(self._values)] += numbers

    def read(self, now_s: float) -> NDArray[np.int64]:
        """(size, columns), oldest first, up to the slot of `now_s`."""
        size, slot = len(self._values), int(now_s // self._slot_s)
        self._turn(slot)
        return np.roll(self._values, -(self._newest % size) - 1, axis=0)

    def _turn(self, slot: int) -> None:
        """Empties the slots between the newest and this one."""
        size = len(self._values)
        for number in range(max(self._newest + 1, slot - size + 1), slot + 1):
            self._values[number % size] = 0
        self._newest = max(self._newest, slot)


@dataclass(eq=False)
class _Camera:
    first_s: float
    day: _Ring = field(default_factory=lambda: _Ring(SLOTS, SLOT_S, 3))
    minutes: _Ring = field(default_factory=lambda: _Ring(RATE_MINUTES, 60, 1))
    last_at: datetime | None = None
    mark: str = ""
    last_error: CameraError | None = None

    def state(self, name: str, now: datetime, wanted: str) -> CameraState:
        now_s = now.timestamp()
        day = self.day.read(now_s)
        answers, bytes_, errors = day.sum(0).tolist()
        window_s = min((RATE_MINUTES - 1) * 60 + now_s % 60, now_s - self.first_s)
        recent = int(self.minutes.read(now_s).sum())
        return CameraState(
            camera=name,
            last_at=self.last_at,
            bundle=self.mark,
            wanted=wanted,
            rate=round(60 * recent / max(window_s, 60), 2),
            answers=answers,
            bytes=bytes_,
            errors=errors,
            last_error=self.last_error,
            curve=tuple(day[:, _ANSWERS].tolist()),
        )


def _now() -> datetime:
    return datetime.now(UTC)


class Fleet(Unobserved):
    """Every camera's day: an Observer of the pipeline. For one thread. Images without a camera's name do not count.

    The camera that was seen longest ago gives way to one too many. now: the clock. pending: of a camera and the
    fingerprint that it runs, the one that it should run instead, if any.
    """

    def __init__(
        self,
        cameras_max: int = CAMERAS_MAX,
        now: Callable[[], datetime] = _now,
        pending: Callable[[str, str], str] = lambda camera, mark: "",
    ) -> None:
        self._cameras: OrderedDict[str, _Camera] = OrderedDict()
        self._cameras_max, self._now, self._pending = cameras_max, now, pending

    def image(self, seen: Seen) -> None:
        if not seen.camera:
            return
        if seen.outcome == ANSWERED and seen.bundle is not None:
            self._answered(seen.camera, seen.bundle, 0 if seen.bytes is None else seen.bytes.total)
        elif seen.error is not None:
            self._failed(seen.camera, seen.error)

    def _answered(self, camera: str, bundle: Bundle, size: int) -> None:
        at = self._now()
        one = self._camera(camera, at)
        one.last_at, one.mark = at, bundle.fingerprint.hex()
        one.day.add(at.timestamp(), (1, size, 0))
        one.minutes.add(at.timestamp(), (1,))

    def _failed(self, camera: str, error: BaseException) -> None:
        at = self._now()
        one = self._camera(camera, at)
        one.day.add(at.timestamp(), (0, 0, 1))
        detail = str(error)[:300] if isinstance(error, IsthmusError) else ""  # internals are never exposed
        one.last_error = CameraError(at=at, title=exit_of(error).title, detail=detail)

    def add(self, camera: str, last_at: datetime, answers: int, bytes_: int, head: bytes) -> None:
        """Adds what an archive holds of a slot; slots come in order of time.

        last_at: when the last of its records was received. head: the first bytes of that record's bitstream.
        """
        if camera == UNNAMED:
            return
        one = self._camera(camera, last_at)
        one.last_at = last_at if one.last_at is None else max(one.last_at, last_at)
        one.mark = one.mark if one.last_at > last_at else mark_of(head)
        one.day.add(last_at.timestamp(), (answers, bytes_, 0))

    def listed(
        self,
        search: str = "",
        limit: int = LISTED_MAX,
        archived: bool = False,
        shown: Callable[[str], bool] = lambda camera: True,
    ) -> FleetState:
        """The cameras whose names hold `search`, whatever its case, at most `limit` of them. shown: which may be."""
        now, text = self._now(), search.casefold()
        cameras_now = self._cameras.items()
        found = [(name, one) for name, one in cameras_now if text in name.casefold() and shown(name)]
        found.sort(key=lambda pair: (-pair[1].last_at.timestamp() if pair[1].last_at else 0, pair[0]))
        cameras = tuple(self._state(name, one, now) for name, one in found[:limit])
        return FleetState(at=now, total=len(found), cameras=cameras, archived=archived)

    def camera(self, name: str) -> CameraState | None:
        one = self._cameras.get(name)
        return None if one is None else self._state(name, one, self._now())

    def _state(self, name: str, one: _Camera, now: datetime) -> CameraState:
        return one.state(name, now, self._pending(name, one.mark))

    def _camera(self, name: str, at: datetime) -> _Camera:
        one = self._cameras.get(name)
        if one is None:
            one = self._cameras[name] = _Camera(at.timestamp())
            if len(self._cameras) > self._cameras_max:
                self._cameras.popitem(last=False)
        self._cameras.move_to_end(name)
        return one


def mark_of(data: bytes) -> str:
    """The fingerprint in a bitstream of either version, 8 hex digits."""
    start = 1 if data[:1] == bytes([MAGIC_2]) else 2
    return data[start : start + 4].hex()
