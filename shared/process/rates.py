"""Rates that are held: so many a second on average, a second's worth at once. Knows neither tokens nor transports."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

from shared.errors import OverloadedError

Clock = Callable[[], float]


class Bucket:
    """Fills at `per_s` up to `most`. What is taken may be more than there is, and is then owed."""

    def __init__(self, per_s: float, most: float, clock: Clock = time.monotonic) -> None:
        self.per_s, self.most = per_s, most
        self._clock = clock
        self._level, self._at = most, clock()

    def wait_s(self, least: float = 0.0) -> float:
        """Seconds until it holds `least`; 0 if it does now. least: 0 asks only that nothing is owed."""
        self._fill()
        return max(least - self._level, 0.0) / self.per_s

    def take(self, amount: float) -> None:
        self._fill()
        self._level -= amount

    def _fill(self) -> None:
        now = self._clock()
        self._level, self._at = min(self.most, self._level + (now - self._at) * self.per_s), now


class Places:
    """Places that calls hold while they run, divided among those who hold some in proportion to their weights.

    Whoever is alone may have `most`; who comes when others hold them all still gets a part, so that nobody shuts others
    out.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._held: dict[str, tuple[int, float]] = {}  # places and weight, by who holds them

    @contextmanager
    def held(self, name: str, weight: float) -> Iterator[None]:
        """Holds one place for the block. Raises OverloadedError where all that this one may have are taken."""
        count = self._held.get(name, (0, weight))[0]
        others = sum(other for holder, (_, other) in self._held.items() if holder != name)
        part = max(1, int(self.most * weight / (weight + others)))
        if count >= part:
            raise OverloadedError(f"{part} requests are being served already; try again later")
        self._held[name] = count + 1, weight
        try:
            yield
        finally:
            left = self._held[name][0] - 1
            if left:
                self._held[name] = left, weight
            else:
                del self._held[name]


class Attempts:
    """Failed attempts by who made them: `most` at once, then `most` a minute.

    keys_max: of those who failed that are remembered.
    """

    def __init__(self, most: int, keys_max: int = 4096, clock: Clock = time.monotonic) -> None:
        self._most, self._keys_max, self._clock = most, keys_max, clock
        self._buckets: OrderedDict[Hashable, Bucket] = OrderedDict()

    def wait_s(self, key: Hashable) -> float:
        """Seconds until one more attempt may be made; 0 if it may now."""
        bucket = self._buckets.get(key)
        return bucket.wait_s(least=1.0) if bucket else 0.0

    def failed(self, key: Hashable) -> None:
        bucket = self._buckets.pop(key, None) or Bucket(self._most / 60, self._most, self._clock)
        bucket.take(1)
        self._buckets[key] = bucket
        while len(self._buckets) > self._keys_max:
            self._buckets.popitem(last=False)  # the one that failed longest ago

    def __len__(self) -> int:
        return len(self._buckets)
