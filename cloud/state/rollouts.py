"""The rollout in the table that servers share: one plan, and what each server has counted of it.

    rollout             the plan
    rollout/SERVER      `ServerFigures` of one process, which writes them; the others read

Every server decides by the sum. Who finds first that a bundle does worse writes it into the plan; the rest follow.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from cloud.shelf.plan import Plan
from cloud.shelf.rollout import Rollout, ServerFigures
from cloud.state.table import StateTable
from cloud.state.watch import StateWatch
from shared.errors import NotReadyError, RequestError

M = TypeVar("M", bound=BaseModel)

PLAN, FIGURES = "rollout", "rollout/"
REPEATED_S = 60.0  # figures are written so often where nothing has changed
KEPT_S = 7 * 86_400.0  # figures of a server that has ended
OTHERS_KEPT_S = 600.0  # figures of another rollout


class SharedPlans:
    """A `Plans`: the one in the table. `exchange` and `follow` belong to one server's `Rollout`."""

    kept = True

    def __init__(self, watch: StateWatch) -> None:
        self._watch = watch
        self._name = f"{FIGURES}{secrets.token_hex(6)}"
        self._version = 0  # of the plan that is gone by
        self._changing = threading.Lock()
        self._changes = self._read_at = (
            0  # begun and ended here: odd during one; how many there were at the last look
        )
        self._undelivered: Plan | None = None
        self._written: ServerFigures | None = None
        self._parsed: dict[str, tuple[int, ServerFigures | None]] = {}

    @property
    def plan(self) -> Plan | None:
        found = self._watch.documents.get(PLAN)
        return None if found is None else _parse(Plan, found.value)

    def change(self, decide: Callable[[Plan | None], Plan]) -> Plan:
        """See `Plans`."""
        with self._changing:
            self._changes += 1
            try:
                plan, self._version = self._change(decide)
            finally:
                self._changes += 1
        return plan

    def decided(self, plan: Plan) -> None:
        """See `Plans`: `exchange` writes it."""
        self._undelivered = plan

    def exchange(self, figures: ServerFigures | None) -> None:
        """Writes what this server has decided and counted, and reads. Blocks; raises nothing."""
        changes = self._changes
        if (mine := self._undelivered) is not None:
            try:
                self._change(lambda there: there if there is not None and not _same(there, mine) else mine)
                if self._undelivered is mine:  # another decision may have come meanwhile
                    self._undelivered = None
            except (NotReadyError, RequestError):
                pass  # the look finds the same, and reports it
        writes = self._writes(figures)
        self._watch.look(writes)
        if self._name in writes and not self._watch.trouble:
            self._written = figures
        self._read_at = changes

    def follow(self, rollout: Rollout) -> None:
        """Gives a server's rollout what `exchange` has read."""
        found = self._watch.documents.get(PLAN)
        if found is not None and self._undelivered is None and self._is_news(found.version):
            self._version = found.version
            rollout.take(self.plan)
        if rollout.plan is not None:
            counting = rollout.plan.counting
            rollout.hear([one for one in self._figures().values() if one.counting == counting])

    def _is_news(self, version: int) -> bool:
        """Whether a plan that was read is not the one that is gone by, nor one from before a change made here."""
        # Versions begin anew in a database that was restored or replaced.
        settled = self._read_at == self._changes and not self._changes % 2
        return version != self._version if settled else version > self._version

    def _change(self, decide: Callable[[Plan | None], Plan]) -> tuple[Plan, int]:
        """The plan with its version. Raises RequestError or NotReadyError."""
        table = StateTable(self._watch.url)
        table.made = self._watch.seen
        with table.changing(PLAN) as change:
            plan = decide(_parse(Plan, change.value))
            change.value = plan.model_dump_json()
        return plan, change.version

    def _writes(self, figures: ServerFigures | None) -> dict[str, str | None]:
        now = time.time()
        writes: dict[str, str | None] = {}
        for name, one in self._figures().items():
            same = figures is not None and one.counting == figures.counting
            if now - one.at > (KEPT_S if same else OTHERS_KEPT_S):
                writes[name] = None
        if figures is None:
            return writes
        before = self._written
        fresh = before is not None and figures.at - before.at < REPEATED_S
        if before is None or not fresh or before.model_copy(update={"at": figures.at}) != figures:
            writes[self._name] = figures.model_dump_json()
        return writes

    def _figures(self) -> dict[str, ServerFigures]:
        """Those of the other servers, by the document's name."""
        documents = self._watch.documents
        names = [name for name in documents if name.startswith(FIGURES) and name != self._name]
        parsed = {}
        for name in names:
            version, value = documents[name].version, documents[name].value
            known = self._parsed.get(name)
            parsed[name] = known if known and known[0] == version else (version, _parse(ServerFigures, value))
        self._parsed = parsed
        return {name: one for name, (_, one) in parsed.items() if one is not None}


def _same(there: Plan, mine: Plan) -> bool:
    """Whether a decision is about the rollout that there is."""
    return there.counting == mine.counting and not there.back


def _parse(kind: type[M], text: str) -> M | None:
    """None: there is nothing, or something of a later release."""
    try:
        return kind.model_validate_json(text) if text else None
    except ValidationError:
        return None
