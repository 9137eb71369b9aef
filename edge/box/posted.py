"""Images that programs send to a box's POST /analyze, as one source among the others. Knows no HTTP.

They are answered at once or refused, so that none is spooled; what is sent of them counts in the budget of all sources,
and their answers go to the sinks, too.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from edge.observer import SINGLE, Observer, Seen
from edge.rate import SESSION_OVERHEAD
from shared.types import Analysis

NAME = "analyze"  # of the camera, where neither the request nor the settings name one


class Spends(Protocol):
    """What must know of bytes that were sent. overhead: of this image, None for that of a request."""

    def __call__(self, size: int, now_s: float, overhead: int | None) -> None: ...


class Posted:
    """An Observer of the pipeline, in front of another one.

    outcomes: images by what became of them, see `Seen`. bytes: that were sent of those that were answered. last_s: when
    the last of them was, monotonic. answer: its answer.
    """

    def __init__(
        self, other: Observer, camera: str, spends: Spends, answered: Callable[[str, Analysis], None]
    ) -> None:
        """camera: of requests that name none; empty: NAME. answered: gets each answer, with its camera."""
        self.outcomes, self.bytes = Counter[str](), 0
        self.last_s: float | None = None
        self.answer: Analysis | None = None
        self._other, self._camera = other, camera or NAME
        self._spends, self._answered = spends, answered

    def image(self, seen: Seen) -> None:
        self._other.image(seen)
        self.outcomes[seen.outcome] += 1
        if seen.answer is None:
            return
        self.answer, self.last_s = seen.answer, time.monotonic()
        size = seen.answer.bytes.total
        self.bytes += size
        self._spends(size, self.last_s, None if seen.frame == SINGLE else SESSION_OVERHEAD)
        self._answered(seen.camera or self._camera, seen.answer)
