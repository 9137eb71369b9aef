"""An archive that may be unavailable: the server serves without it and opens it as soon as that is possible."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from cloud.archive.archive import Archive
from cloud.requests import RecordSink
from shared.errors import DataError, NotReadyError

log = logging.getLogger("isthmus.cloud.archive")

RETRY_S = 5.0
KEPT_S = 10.0  # that a record may take to the disk


class LateArchive:
    """Takes what the pipeline appends, and drops it while the archive behind it cannot be opened.

    open_archive: opens the archive, or raises DataError. Blocks.
    """

    def __init__(self, open_archive: Callable[[], Archive]) -> None:
        self._open_archive = open_archive
        self._archive: Archive | None = None
        self._why = "not opened yet"
        self._dropped = 0

    @property
    def trouble(self) -> str:
        """Why records are dropped now; empty while they are kept."""
        return self._why if self._archive is None else self._archive.trouble

    def counts(self) -> dict[str, int]:
        """Records so far, by what became of them: written, repeated, dropped."""
        archive = self._archive
        if archive is None:
            return {"written": 0, "repeated": 0, "dropped": self._dropped}
        dropped = archive.dropped + self._dropped
        return {"written": archive.written, "repeated": archive.repeated, "dropped": dropped}

    def append(self, *arguments: Any, **options: Any) -> bool:
        """See `Archive.append`."""
        if self._archive is not None:
            return self._archive.append(*arguments, **options)
        self._dropped += 1
        return False

    def flush(self, timeout_s: float | None = None) -> bool:
        """See `Archive.flush`."""
        return self._archive is not None and self._archive.flush(timeout_s)

    async def open(self) -> bool:
        """One attempt; its failure is logged unless it is the same as the last one."""
        try:
            self._archive = await asyncio.to_thread(self._open_archive)
        except DataError as error:
            if str(error) != self._why:
                log.error("serving without an archive, trying again every %g s: %s", RETRY_S, error)
            self._why = str(error)
            return False
        if self._dropped:
            log.warning("archiving again; %d records were not kept meanwhile", self._dropped)
        return True

    async def keep_trying(self, wait: Callable[[], Any] = lambda: asyncio.sleep(RETRY_S)) -> None:
        """Returns once the archive is open."""
        while self._archive is None:
            await wait()
            await self.open()

    async def close(self) -> None:
        """Writes what waits, and ends."""
        if self._archive is None:
            return
        await asyncio.to_thread(self._archive.close)
        counts = self.counts().values()
        log.info("archive %s: %d records written, %d repeated, %d dropped", self._archive.path, *counts)


async def archived(archive: RecordSink, accepted: bool) -> None:
    """Returns once what was appended is on the disk. accepted: what `append` returned.

    Raises NotReadyError where it was not kept, so that it is sent again.
    """
    kept = accepted and await asyncio.to_thread(archive.flush, KEPT_S)
    if not kept or archive.trouble:
        raise NotReadyError("the archive does not take what comes now; send the request again")
