"""Which camera should run which bundle: rolled forward to some, compared with the others, and taken back.

    begin(bundle, 5 %) -> a camera asks (Describe) -> chosen by a hash of its name? -> "run this one"
                       -> its requests are counted beside those of the other bundle: more errors? -> back
    begin(bundle, all), or back: cameras that run it are told to run the one before

The plan survives a restart in a small file, where one is given; the figures begin anew.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import logging
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field, ValidationError

from cloud.observer import ANSWERED, GONE, NEED_INTRA, Seen, Unobserved
from cloud.shelf.agreement import Agreement, TaskAgreement
from shared.codec.bitstream import FINGERPRINT_BYTES
from shared.errors import BundleMismatchError, OverloadedError, RequestError
from shared.files import write_atomically
from shared.kinds.kind import Result
from shared.types import Frozen

log = logging.getLogger("isthmus.cloud.rollout")

# Errors that say nothing about the bundle: of who asks, or of a server that has too much to do.
NOT_THE_BUNDLES = (RequestError, OverloadedError, BundleMismatchError)
CAMERAS_MAX = 10_000  # of which it is remembered what they run
TIMES_KEPT = 512  # of the last requests, for quantiles
TROUBLE_MAX = 500  # characters
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
    back: bool = False
    reason: str = Field(default="", description="why it was taken back")

    def chooses(self, camera: str) -> bool:
        """Whether a camera should run the bundle. A larger share holds every camera of a smaller one."""
        if self.back or not camera:
            return False
        digest = hashlib.sha256(f"isthmus rollout\0{self.bundle}\0{camera}".encode()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        return place < self.share or any(fnmatch.fnmatchcase(camera, one) for one in self.cameras)


class BundleFigures(Frozen):
    """What the requests of one bundle cost since the rollout began."""

    bundle: str = Field(description="fingerprint, 8 hex digits")
    requests: int
    errors: int
    error_share: float
    bytes_mean: float | None = Field(description="of a request's bitstream")
    p50_ms: float | None = Field(description="in the server, of the last 512 requests")
    p95_ms: float | None
    cameras: int = Field(description="that said last that they run it")


class RolloutState(Frozen):
    """kept: whether the plan survives a restart. figures: of the bundle before, and of the one that is rolled out.
    troubles: why cameras do not run what they should, by camera."""

    plan: Plan | None
    kept: bool
    figures: tuple[BundleFigures, ...]
    agreement: tuple[TaskAgreement, ...] = ()
    troubles: dict[str, str]


@dataclass
class _Tally:
    requests: int = 0
    errors: int = 0
    bytes: int = 0
    times_ms: deque[float] = field(default_factory=lambda: deque(maxlen=TIMES_KEPT))

    @property
    def error_share(self) -> float:
        return self.errors / self.requests if self.requests else 0.0

    def figures(self, mark: str, cameras: int) -> BundleFigures:
        times, answered = sorted(self.times_ms), self.requests - self.errors
        return BundleFigures(
            bundle=mark,
            requests=self.requests,
            errors=self.errors,
            error_share=self.error_share,
            bytes_mean=self.bytes / answered if answered else None,
            p50_ms=times[len(times) // 2] if times else None,
            p95_ms=times[len(times) * 95 // 100] if times else None,
            cameras=cameras,
        )


@dataclass(frozen=True)
class _Camera:
    running: str
    trouble: str


class Rollout(Unobserved):
    """At most one plan at a time. file: keeps it; None: it ends with the process. Raises RequestError for a bad one."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self.plan = None if file is None else _read(file)
        self._tallies: dict[str, _Tally] = {}
        self._cameras: OrderedDict[str, _Camera] = OrderedDict()
        self._agreement = Agreement(CAMERAS_MAX)

    def begin(self, bundle: str, base: str, to: str, errors_max: float, requests_min: int) -> None:
        """Rolls a bundle out.

        bundle, base: whole fingerprints. to: "5%", "all", or names of cameras with * and ?, comma-separated.
        Raises RequestError.
        """
        if bundle == base:
            raise RequestError(
                "the bundle to roll out is the one that cameras would go back to", setting="from"
            )
        share, cameras = parse_to(to)
        before = self.plan
        self._save(
            Plan(
                bundle=bundle,
                base=base,
                share=share,
                cameras=cameras,
                errors_max=errors_max,
                requests_min=requests_min,
                started=datetime.now(UTC).isoformat(timespec="seconds"),
            )
        )
        if before is None or before.back or before.bundle != bundle:
            self._tallies.clear()  # a wider share goes on counting
            self._agreement.clear()
        log.info("bundle %s is rolled out to %s", bundle[:8], to)

    def back(self, reason: str = "an operator took it back") -> None:
        """Cameras that run the bundle are told to run the one before. Raises RequestError if there is no rollout."""
        if self.plan is None or self.plan.back:
            raise RequestError("nothing is being rolled out")
        log.warning("bundle %s is taken back: %s", self.plan.bundle[:8], reason)
        self._save(self.plan.model_copy(update={"back": True, "reason": reason}))

    def wanted(self, camera: str, running: str, trouble: str = "") -> str:
        """The fingerprint of the bundle that a camera should run; empty: the one that it runs."""
        if camera and running:
            self._cameras[camera] = _Camera(running[:64], _line(trouble))
            self._cameras.move_to_end(camera)
            while len(self._cameras) > CAMERAS_MAX:
                self._cameras.popitem(last=False)
        if self.plan is None:
            return ""
        if self.plan.chooses(camera):
            return "" if running == self.plan.bundle else self.plan.bundle
        return self.plan.base if running == self.plan.bundle else ""

    def pending(self, camera: str, mark: str) -> str:
        """What a camera should run and does not yet. mark: of what it runs, 8 hex digits, as the answer; empty: none.

        Unlike `wanted` it asks nothing of the camera and notes nothing.
        """
        plan = self.plan
        if plan is None or not mark:
            return ""
        new, base = plan.bundle[:_DIGITS], plan.base[:_DIGITS]
        if plan.chooses(camera):
            return "" if mark == new else new
        return base if mark == new else ""

    def image(self, seen: Seen) -> None:
        """Counts an image that an edge encoded, unless its end says nothing about the bundle."""
        if seen.bundle is None or seen.source == "image" or isinstance(seen.error, NOT_THE_BUNDLES):
            return
        if seen.outcome not in (GONE, NEED_INTRA):
            size = seen.bytes.total if seen.bytes else 0
            failed = seen.outcome != ANSWERED
            mark = seen.bundle.fingerprint
            self.note(seen.camera, mark, size, seen.ms, failed=failed, results=seen.results)

    def note(
        self,
        camera: str,
        mark: bytes,
        size: int,
        ms: float,
        *,
        failed: bool,
        results: Mapping[str, Result] | None = None,
    ) -> None:
        """Counts a request. mark: of its bundle. size: bytes of its bitstream. ms: until its answer. results: its
        answer; None if that is as the camera's last."""
        plan = self.plan
        name = mark.hex()
        if plan is None or name not in (plan.bundle[: len(name)], plan.base[: len(name)]):
            return
        is_new = plan.bundle.startswith(name)
        if is_new and not plan.back and not plan.chooses(camera):
            return  # who was not chosen cannot take it back for those who were
        tally = self._tallies.setdefault(name, _Tally())
        tally.requests += 1
        tally.errors += failed
        if not failed:
            tally.bytes += size
            tally.times_ms.append(ms)
            if camera:
                self._agreement.note(camera, is_new, results)
        if is_new and failed and not plan.back:
            self._judge(plan, tally)

    def state(self) -> RolloutState:
        plan = self.plan
        marks = [] if plan is None else [plan.base[:_DIGITS], plan.bundle[:_DIGITS]]
        running = [one.running[:_DIGITS] for one in self._cameras.values()]
        figures = tuple(self._tallies.get(m, _Tally()).figures(m, running.count(m)) for m in marks)
        troubles = {name: one.trouble for name, one in sorted(self._cameras.items()) if one.trouble}
        return RolloutState(
            plan=plan,
            kept=self._file is not None,
            figures=figures,
            agreement=self._agreement.state(),
            troubles=troubles,
        )

    def _judge(self, plan: Plan, new: _Tally) -> None:
        old = self._tallies.get(plan.base[:_DIGITS], _Tally())
        if new.requests >= plan.requests_min and new.error_share > old.error_share + plan.errors_max:
            reason = (
                f"{new.errors} of its {new.requests} requests failed, {old.errors} of {old.requests} with the bundle "
                f"before; {plan.errors_max:.1%} more are allowed"
            )
            try:
                self.back(reason)
            except RequestError as error:  # a full disk does not keep a bad bundle in the field
                log.error("%s", error)
                self.plan = plan.model_copy(update={"back": True, "reason": reason})

    def _save(self, plan: Plan) -> None:
        """Raises RequestError, and then the plan is as before."""
        if self._file is not None:
            try:
                write_atomically(self._file, plan.model_dump_json(indent=1).encode() + b"\n")
            except OSError as error:
                raise RequestError(f"cannot write {self._file}: {error.strerror}") from None
        self.plan = plan


_DIGITS = 2 * FINGERPRINT_BYTES


def _line(text: str) -> str:
    """A camera's text as one line that does nothing to a terminal."""
    return "".join(c if c.isprintable() else " " for c in text[:TROUBLE_MAX])


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
