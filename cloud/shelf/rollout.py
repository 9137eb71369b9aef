"""Which camera should run which bundle: rolled forward to some, compared with the others, and taken back.

    begin(bundle, 5 %) -> a camera asks (Describe) -> chosen by a hash of its name? -> "run this one"
                       -> its requests are counted beside those of the other bundle: more errors? -> back
    begin(bundle, all), or back: cameras that run it go back to the one before

Servers that share their plan (cloud.state) exchange what each has counted; every one decides by the sum. The plan
survives a restart where it is kept; the figures of one server begin anew.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pydantic import Field

from cloud.observer import ANSWERED, GONE, NEED_INTRA, Seen, Unobserved
from cloud.shelf.agreement import Agreement, TaskAgreement, together
from cloud.shelf.plan import Plan, PlanFile, Plans, parse_to
from shared.codec.bitstream import FINGERPRINT_BYTES
from shared.errors import BundleMismatchError, OverloadedError, RequestError
from shared.kinds.kind import Result
from shared.types import Frozen

log = logging.getLogger("isthmus.cloud.rollout")

# Errors that say nothing about the bundle: of who asks, or of a server that has too much to do.
NOT_THE_BUNDLES = (RequestError, OverloadedError, BundleMismatchError)
CAMERAS_MAX = 10_000  # of which it is remembered what they run
HEARD_S = 600.0  # a camera that has not asked for so long runs nothing
TIMES_KEPT = 512  # of the last requests, for quantiles
TIMES_SHARED = 128  # of those, what other servers get
TROUBLES_SHARED = 100
TROUBLE_MAX = 500  # characters
_DIGITS = 2 * FINGERPRINT_BYTES


class BundleFigures(Frozen):
    """What the requests of one bundle cost since the rollout began, in all servers that share it."""

    bundle: str = Field(description="fingerprint, 8 hex digits")
    requests: int
    errors: int
    error_share: float
    bytes_mean: float | None = Field(description="of a request's bitstream")
    p50_ms: float | None = Field(
        description="in the server, of the last 512 requests; of 128 of each other server"
    )
    p95_ms: float | None
    cameras: int = Field(description="that said in the last ten minutes that they run it")


class RolloutState(Frozen):
    """kept: whether the plan survives a restart. servers: how many have counted. figures: of the bundle before, and of
    the one that is rolled out. troubles: why cameras do not run what they should, by camera."""

    plan: Plan | None
    kept: bool
    servers: int = 1
    figures: tuple[BundleFigures, ...]
    agreement: tuple[TaskAgreement, ...] = ()
    troubles: dict[str, str]


class Counted(Frozen):
    """The requests of one bundle. times_ms: of the last."""

    requests: int = Field(default=0, ge=0)
    errors: int = Field(default=0, ge=0)
    bytes: int = Field(default=0, ge=0)
    times_ms: tuple[float, ...] = Field(default=(), max_length=TIMES_KEPT)


class Heard(Frozen):
    """What a camera said last. running: fingerprint. at: seconds since 1970."""

    running: str
    trouble: str
    at: float


class ServerFigures(Frozen):
    """What one server has counted of a plan, for the others. at: when it said so, seconds since 1970.

    counting: see `Plan`. bundles: by the first digits of the fingerprint. cameras: how many run each.
    """

    counting: str
    at: float
    bundles: dict[str, Counted] = Field(max_length=2)
    cameras: dict[str, int] = Field(max_length=2)
    agreement: tuple[TaskAgreement, ...] = ()
    troubles: dict[str, Heard] = Field(max_length=TROUBLES_SHARED)


@dataclass
class _Tally:
    requests: int = 0
    errors: int = 0
    bytes: int = 0
    times_ms: deque[float] = field(default_factory=lambda: deque(maxlen=TIMES_KEPT))

    @property
    def error_share(self) -> float:
        return self.errors / self.requests if self.requests else 0.0

    def counted(self) -> Counted:
        times = tuple(round(ms, 1) for ms in list(self.times_ms)[-TIMES_SHARED:])
        return Counted(requests=self.requests, errors=self.errors, bytes=self.bytes, times_ms=times)

    def plus(self, others: Iterable[Counted]) -> _Tally:
        total = _Tally(self.requests, self.errors, self.bytes, deque(self.times_ms))
        for one in others:
            total.requests += one.requests
            total.errors += one.errors
            total.bytes += one.bytes
            total.times_ms.extend(one.times_ms)
        return total

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


class Rollout(Unobserved):
    """At most one plan at a time. plans: keep it; None: it ends with the process. Its figures are counted and read in
    one event loop; `begin` and `back` may block, and may be called in a thread."""

    def __init__(self, plans: Plans | None = None) -> None:
        self._plans = plans or PlanFile()
        self.plan = self._plans.plan
        self._tallies: dict[str, _Tally] = {}
        self._others: Sequence[ServerFigures] = ()
        self._cameras: OrderedDict[str, Heard] = OrderedDict()
        self._agreement = Agreement(CAMERAS_MAX)

    def begin(self, bundle: str, base: str, to: str, errors_max: float, requests_min: int) -> None:
        """Rolls a bundle out.

        bundle, base: whole fingerprints. to: "5%", "all", or names of cameras with * and ?, comma-separated.
        Raises RequestError or NotReadyError.
        """
        if bundle == base:
            raise RequestError(
                "the bundle to roll out is the one that cameras would go back to", setting="from"
            )
        share, cameras = parse_to(to)

        def decide(before: Plan | None) -> Plan:
            goes_on = before is not None and not before.back and before.bundle == bundle
            return Plan(
                bundle=bundle,
                base=base,
                share=share,
                cameras=cameras,
                errors_max=errors_max,
                requests_min=requests_min,
                started=datetime.now(UTC).isoformat(timespec="seconds"),
                counting=before.counting if before is not None and goes_on else secrets.token_hex(8),
            )

        self.take(self._plans.change(decide))
        log.info("bundle %s is rolled out to %s", bundle[:8], to)

    def back(self, reason: str = "an operator took it back") -> None:
        """Cameras that run the bundle go back to the one before.

        Raises RequestError, also if there is no rollout, or NotReadyError.
        """

        def decide(before: Plan | None) -> Plan:
            if before is None or before.back:
                raise RequestError("nothing is being rolled out")
            return before.taken_back(reason)

        plan = self._plans.change(decide)
        self.take(plan)
        log.warning("bundle %s is taken back: %s", plan.bundle[:8], reason)

    def take(self, plan: Plan | None) -> None:
        """Goes by a plan that is kept already."""
        if plan is None or self.plan is None or plan.counting != self.plan.counting:
            self._tallies.clear()  # a wider share goes on counting
            self._agreement.clear()
            self._others = ()
        self.plan = plan

    def wanted(self, camera: str, running: str, trouble: str = "") -> str:
        """The fingerprint of the bundle that a camera should run; empty: the one that it runs."""
        if camera and running:
            self._cameras[camera] = Heard(running=running[:64], trouble=_line(trouble), at=time.time())
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
        if is_new and failed:
            self._judge()

    def state(self) -> RolloutState:
        # Once: `begin` changes the plan in another thread.
        plan, marks, since = self.plan, self._marks(), time.time() - HEARD_S
        running = self._running(marks)
        for other in self._others:
            if other.at > since:
                running = {mark: running[mark] + other.cameras.get(mark, 0) for mark in marks}
        heard = dict(self._cameras)
        for other in self._others:
            for name, one in other.troubles.items():
                if one.at > since and (name not in heard or heard[name].at < one.at):
                    heard[name] = one
        return RolloutState(
            plan=plan,
            kept=self._plans.kept,
            servers=1 + len(self._others),
            figures=tuple(self._total(mark).figures(mark, running[mark]) for mark in marks),
            agreement=together([self._agreement.state(), *(other.agreement for other in self._others)]),
            troubles={name: one.trouble for name, one in sorted(heard.items()) if one.trouble},
        )

    def figures(self) -> ServerFigures | None:
        """What this server has counted, for the others; None while nothing is rolled out."""
        if self.plan is None:
            return None
        now, marks, tallies = time.time(), self._marks(), dict(self._tallies)
        recent = (
            (name, one)
            for name, one in reversed(self._cameras.items())
            if one.trouble and one.at > now - HEARD_S
        )
        return ServerFigures(
            counting=self.plan.counting,
            at=now,
            bundles={mark: tallies[mark].counted() for mark in marks if mark in tallies},
            cameras=self._running(marks),
            agreement=self._agreement.state(),
            troubles={name: one for (name, one), _ in zip(recent, range(TROUBLES_SHARED), strict=False)},
        )

    def hear(self, others: Sequence[ServerFigures]) -> None:
        """What the other servers have counted of the same plan."""
        self._others = others
        self._judge()

    def _marks(self) -> tuple[str, ...]:
        """The first digits of both bundles: the one before, and the new one."""
        return () if self.plan is None else (self.plan.base[:_DIGITS], self.plan.bundle[:_DIGITS])

    def _running(self, marks: Sequence[str]) -> dict[str, int]:
        """How many cameras run each, as they said here."""
        since = time.time() - HEARD_S
        running = [one.running[:_DIGITS] for one in self._cameras.values() if one.at > since]
        return {mark: running.count(mark) for mark in marks}

    def _total(self, mark: str) -> _Tally:
        """What all servers have counted."""
        others = (other.bundles[mark] for other in self._others if mark in other.bundles)
        return self._tallies.get(mark, _Tally()).plus(others)

    def _judge(self) -> None:
        plan = self.plan
        if plan is None or plan.back:
            return
        old, new = (self._total(mark) for mark in self._marks())
        if new.requests >= plan.requests_min and new.error_share > old.error_share + plan.errors_max:
            reason = (
                f"{new.errors} of its {new.requests} requests failed, {old.errors} of {old.requests} with the bundle "
                f"before; {plan.errors_max:.1%} more are allowed"
            )
            log.warning("bundle %s is taken back: %s", plan.bundle[:8], reason)
            self.plan = plan.taken_back(reason)
            self._plans.decided(self.plan)


def _line(text: str) -> str:
    """A camera's text as one line that does nothing to a terminal."""
    return "".join(c if c.isprintable() else " " for c in text[:TROUBLE_MAX])
