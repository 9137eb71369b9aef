"""How many bytes the next frame may have, so that all together keep to a budget and to what the link takes.

    image -> allowance() -> Encoder(bytes_max) -> accepted -> spent(bytes);    every half second measured(...)

The budget is an average over a window: what was not spent is credit, what was spent beyond it is debt, each up to half
a window's bytes. A frame may have its share of the rate, and pays back or uses up the rest within half a window. So
quality falls first; a frame is given up only if not even the lowest quality keeps the debt within its bound. Without a
budget none is.

The link counts as too slow while frames wait in the spool and it is not down: then the rate is what goes through it,
less a part for what waits. When nothing waits the rate grows again, until the budget or for ever.

`Rate` knows no clock: every method is given the time, in seconds. `Pacer` holds the budget where frames leave, since
many may wait that were spooled while the cloud was away.
"""

from __future__ import annotations

import asyncio
from collections import deque

GROWTH = 1.25  # of the rate, a second in which nothing waits
DRAIN = 0.85  # of what the link takes, is used for new frames while others wait
SMOOTH_S = 2.0  # over which what the link takes is measured
SESSION_OVERHEAD = 52  # bytes up besides a frame in a session, without TLS (docs/results, wire)
BYTES_MIN = 24  # about the smallest bitstream that a bundle makes


class Rate:
    """bytes_per_s: the budget; None for none. window_s: see above. overhead: bytes of a request besides its bitstream.

    measured_too: whether a slow link counts. limit: bytes a second for now; None if there is none.
    """

    def __init__(
        self, bytes_per_s: float | None, window_s: float = 10.0, overhead: int = 0, measured_too: bool = True
    ) -> None:
        self.limit = bytes_per_s
        self._budget, self._window_s, self._overhead = bytes_per_s, window_s, overhead
        self._measured_too = measured_too
        self._credit = 0.0  # against the limit
        self._in_budget = 0.0  # against the budget
        self._at_s: float | None = None
        self._frames: deque[float] = deque()  # when images came, in the last window
        self._through: deque[tuple[float, int]] = deque()  # when, and bytes that the link took by then

    def allowance(self, now_s: float, overhead: int | None = None) -> int | None:
        """Bytes that the next bitstream may have; None for any number. Counts an image that has come.

        overhead: of this one, here and below, if it is not that of a request.
        """
        self._frames.append(now_s)
        while self._frames[0] < now_s - self._window_s:
            self._frames.popleft()
        if self.limit is None:
            return None
        self._advance(now_s)
        span_s = max(now_s - self._frames[0], 1e-3)
        each_s = span_s / (len(self._frames) - 1) if len(self._frames) > 1 else 1.0
        # Credit is used up, or debt paid, within half a window.
        per_s = self.limit + self._credit / (self._window_s / 2)
        return max(int(per_s * each_s) - self._with(overhead), 0)

    def may_send(self, size: int, now_s: float, overhead: int | None = None) -> bool:
        """Whether a bitstream of the lowest quality, larger than its allowance, may be sent all the same."""
        if self._budget is None:
            return True
        self._advance(now_s)
        left = self._in_budget - size - self._with(overhead)
        return left >= -self._budget * self._window_s / 2

    def spent(self, size: int, now_s: float, overhead: int | None = None) -> None:
        """A bitstream of so many bytes was accepted."""
        self._advance(now_s)
        self._credit -= size + self._with(overhead)
        self._in_budget -= size + self._with(overhead)

    def _with(self, overhead: int | None) -> int:
        return self._overhead if overhead is None else overhead

    def measured(self, sent_bytes: int, sent: int, waiting: bool, down: bool, now_s: float) -> None:
        """What the link has done. sent_bytes, sent: bitstreams since the start. waiting: whether more wait in the spool
        than the link has in work. down: whether nothing goes through at all, which says nothing of its rate."""
        if not self._measured_too or down:
            self._through.clear()
            return
        self._through.append((now_s, sent_bytes + sent * self._overhead))
        while len(self._through) > 2 and self._through[1][0] < now_s - SMOOTH_S:
            self._through.popleft()
        (since_s, before), (_, after) = self._through[0], self._through[-1]
        if waiting and after > before and now_s - since_s >= SMOOTH_S / 2:
            self._set((after - before) / (now_s - since_s) * DRAIN, now_s)
        elif not waiting and self.limit is not None and self.limit != self._budget and len(self._through) > 1:
            self._set(self.limit * GROWTH ** (now_s - self._through[-2][0]), now_s)
            if self._budget is None and self.limit > 20 * max(after - before, 1000) / SMOOTH_S:
                self.limit = None  # far above what there is to send

    def _set(self, per_s: float, now_s: float) -> None:
        self._advance(now_s)
        self.limit = per_s if self._budget is None else min(per_s, self._budget)

    def _advance(self, now_s: float) -> None:
        """Adds the credit of the time since the last call."""
        passed_s = 0.0 if self._at_s is None else max(now_s - self._at_s, 0.0)
        self._credit = self._grown(self._credit, self.limit, passed_s)
        self._in_budget = self._grown(self._in_budget, self._budget, passed_s)
        self._at_s = now_s

    def _grown(self, credit: float, per_s: float | None, passed_s: float) -> float:
        if per_s is None:
            return 0.0
        bound = per_s * self._window_s / 2
        return min(max(credit + per_s * passed_s, -bound), bound)


class Pacer:
    """Waits before a frame is sent until the budget has room for it. bytes_per_s: None for no budget."""

    def __init__(self, bytes_per_s: float | None, window_s: float, overhead: int) -> None:
        self._per_s, self._overhead = bytes_per_s, overhead
        self._most = self._credit = (bytes_per_s or 0.0) * window_s / 2
        self._at_s = asyncio.get_running_loop().time()

    async def __call__(self, size: int) -> None:
        if self._per_s is None:
            return
        loop = asyncio.get_running_loop()
        while True:
            now_s = loop.time()
            self._credit = min(self._credit + (now_s - self._at_s) * self._per_s, self._most)
            self._at_s = now_s
            if self._credit >= 0:
                break
            await asyncio.sleep(-self._credit / self._per_s)
        self.spent(size)

    def spent(self, size: int, overhead: int | None = None) -> None:
        """So many bytes were sent. overhead: in addition to them, if it is not that of a request."""
        self._credit -= size + (self._overhead if overhead is None else overhead)

    def in_session(self, size: int, sent: int) -> None:
        """A frame that was counted with its own size took so many bytes in a session."""
        self._credit = min(self._credit + size + self._overhead - sent - SESSION_OVERHEAD, self._most)
