"""What a server last saw of the state that it shares, and for how long that counts.

    look (a thread, four times a second) -> documents, as they were seen last -> tokens, the rollout (the event loop)

While the database is away the last known state counts, for `stale_max_s` at most: a token that was revoked meanwhile is
let in no longer than that. Then nobody is let in whose token lies there, until the database answers again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from cloud.state.table import Document, StateTable
from shared.errors import NotReadyError

log = logging.getLogger("isthmus.cloud.state")

SAID_EVERY_S = 60.0


class StateWatch:
    """url: see `StateTable`. stale_max_s: how long the last known state counts.

    Raises RequestError for an address that is none.
    """

    def __init__(self, url: str, stale_max_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.url, self.stale_max_s = url, stale_max_s
        self.documents: dict[str, Document] = {}
        self.trouble = ""
        self._table, self._clock = StateTable(url), clock
        self._seen_s: float | None = None  # when the database was asked that answered last
        self._said_s: float | None = None
        self._said = False  # of the trouble that there is now

    @property
    def seen(self) -> bool:
        """Whether the database has ever answered."""
        return self._seen_s is not None

    def check(self) -> None:
        """Raises NotReadyError where what is known is too old to go by."""
        if self._seen_s is None or self._clock() - self._seen_s > self.stale_max_s:
            raise NotReadyError(
                "the database of tokens has been away for too long, so that nobody can be let in; the server's log has "
                "more"
            ) from NotReadyError(self.trouble or "the database has not been asked yet")

    def look(self, writes: Mapping[str, str | None]) -> None:
        """Writes, and reads what has changed. For one thread; never raises. writes: texts by name, None to remove."""
        asked_s = self._clock()
        try:
            for name, value in writes.items():
                if value is None:
                    self._table.remove(name)
                else:
                    self._table.put(name, value)
            known = self.documents
            changed, names = self._table.changed({name: one.version for name, one in known.items()})
        except NotReadyError as error:
            self._failed(str(error))
            return
        if changed or names != known.keys():
            # A new one, so that readers in other threads see all of it or nothing.
            self.documents = {n: one for n, one in (known | changed).items() if n in names}
        self._seen_s = asked_s
        if self._said:
            log.info("the state at %s answers again", self._table.shown)
        self.trouble, self._said = "", False

    def close(self) -> None:
        self._table.close()

    def _failed(self, why: str) -> None:
        now_s = self._clock()
        if self._said_s is None or now_s - self._said_s >= SAID_EVERY_S:
            log.error("%s; what was known last counts for %.0f s", why, self.stale_max_s)
            self._said_s, self._said = now_s, True
        self.trouble = why
