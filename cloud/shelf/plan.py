"""The plan of a rollout: which cameras should run which bundle; and where it is kept. Knows no figures."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pydantic import Field, ValidationError

from shared.errors import RequestError
from shared.files import write_atomically
from shared.types import Frozen

log = logging.getLogger("isthmus.cloud.rollout")

PATTERNS_MAX = 100


class Plan(Frozen):
    """Which cameras should run a bundle, and when they are taken back.

    errors_max: how much more of their requests may fail than of the others'. requests_min: before that is judged.
    """

    bundle: str = Field(description="fingerprint, 64 hex digits")
    base: str = Field(description="fingerprint of the bundle that cameras go back to")
    share: float = Field(ge=0, le=1, description="of the cameras, by a hash of their names")
    cameras: tuple[str, ...] = Field(default=(), description="names of further ones, with * and ?")
    errors_max: float = Field(ge=0, le=1)
    requests_min: int = Field(ge=1)
    started: str
    counting: str = Field(
        default="", description="names the figures that go with it: a wider share keeps them"
    )
    back: bool = False
    reason: str = Field(default="", description="why it was taken back")

    def chooses(self, camera: str) -> bool:
        """Whether a camera should run the bundle. A larger share holds every camera of a smaller one."""
        if self.back or not camera:
            return False
        digest = hashlib.sha256(f"isthmus rollout\0{self.bundle}\0{camera}".encode()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        return place < self.share or any(fnmatch.fnmatchcase(camera, one) for one in self.cameras)

    def taken_back(self, reason: str) -> Plan:
        return self.model_copy(update={"back": True, "reason": reason})


class Plans(Protocol):
    """Keeps one plan. kept: whether it outlives the process."""

    kept: bool

    @property
    def plan(self) -> Plan | None:
        """The one that is kept, as far as it is known."""

    def change(self, decide: Callable[[Plan | None], Plan]) -> Plan:
        """Keeps what is decided of the plan that there is, and returns it. Blocks.

        Raises RequestError or NotReadyError, and then the plan is as before; and what `decide` raises.
        """

    def decided(self, plan: Plan) -> None:
        """Keeps what a server has decided by itself, now or later. Does not block for long, and raises nothing."""


class PlanFile:
    """A plan in a file, or without one in memory alone. Raises RequestError for a file that holds none."""

    def __init__(self, file: Path | None = None) -> None:
        self._file, self.kept = file, file is not None
        self._lock = threading.Lock()  # `change` runs in a thread, `decided` in the event loop
        self._plan = None if file is None else _read(file)

    @property
    def plan(self) -> Plan | None:
        return self._plan

    def change(self, decide: Callable[[Plan | None], Plan]) -> Plan:
        """See `Plans`. Raises RequestError."""
        with self._lock:
            plan = decide(self._plan)
            self._write(plan)
            self._plan = plan
        return plan

    def decided(self, plan: Plan) -> None:
        """See `Plans`."""
        with self._lock:
            if self._plan is not None and self._plan.counting != plan.counting:
                return  # an operator has begun another rollout meanwhile
            self._plan = plan
            try:
                self._write(plan)
            except RequestError as error:  # a full disk does not keep a bad bundle in the field
                log.error("%s", error)

    def _write(self, plan: Plan) -> None:
        """Raises RequestError."""
        if self._file is None:
            return
        try:
            write_atomically(self._file, plan.model_dump_json(indent=1).encode() + b"\n")
        except OSError as error:
            raise RequestError(f"cannot write {self._file}: {error.strerror}") from None


def parse_to(to: str) -> tuple[float, tuple[str, ...]]:
    """The share and the names that "5%", "all" or "door-*,yard" stand for. Raises RequestError."""
    if to == "all":
        return 1.0, ()
    if to.endswith("%"):
        try:
            share = float(to[:-1]) / 100
        except ValueError:
            share = -1.0
        if not 0 < share <= 1:
            raise RequestError(f"{to!r} is no share of cameras; for example 5%", setting="to")
        return share, ()
    names = tuple(name.strip() for name in to.split(",") if name.strip())
    allowed = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-*?")
    if not names or len(names) > PATTERNS_MAX or any(set(n) - allowed or len(n) > 64 for n in names):
        raise RequestError(
            f"{to[:80]!r} says to no camera; give 5%, all, or names with * and ?, comma-separated",
            setting="to",
        )
    return 0.0, names


def _read(file: Path) -> Plan | None:
    """Raises RequestError."""
    try:
        return Plan.model_validate(json.loads(file.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ValidationError, RecursionError) as error:
        raise RequestError(f"{file} holds no rollout: {' '.join(str(error).split())}; delete it") from None
