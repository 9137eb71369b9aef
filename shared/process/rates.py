"""Rates that are held: so many a second on average, a second's worth at once. Knows neither tokens nor transports."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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


class Portions:
    """So much of something, shared by those who hold some of it now, in proportion to their weights.

    Whoever comes may have what is free, all of it too. Where too little is, one who holds less than its part gets it
    all the same, so that nobody shuts others out: n equal ones may hold up to 1 + 1/2 + .. + 1/n times `most` together,
    until the first have given some back.
    """

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0
        self._held: dict[str, tuple[int, float]] = {}  # amount and weight, by who holds it

    def part(self, name: str, weight: float) -> int:
        """What this one may hold where nothing is free."""
        others = sum(other for holder, (_, other) in self._held.items() if holder != name)
        return max(1, int(self.most * weight / (weight + others)))

    def has_room(self, name: str, weight: float, amount: int = 1) -> bool:
        if self.held + amount <= self.most:
            return True
        return self._held.get(name, (0, weight))[0] + amount <= self.part(name, weight)

    def take(self, name: str, weight: float, amount: int = 1) -> None:
        """Counts so much as held. Asks nothing: `has_room` does."""
        self._held[name] = self._held.get(name, (0, weight))[0] + amount, weight
        self.held += amount

    def give_back(self, name: str, amount: int = 1) -> None:
        held, weight = self._held.get(name, (0, 1.0))
        self.held -= amount
        if held > amount:
            self._held[name] = held - amount, weight
        else:
            self._held.pop(name, None)


class Places:
    """Places that calls hold while they run, shared as `Portions` says."""

    def __init__(self, most: int) -> None:
        self._portions = Portions(most)

    def refusal(self, name: str, weight: float) -> OverloadedError | None:
        """What `held` would raise now; None if there is a place."""
        if self._portions.has_room(name, weight):
            return None
        part = self._portions.part(name, weight)
        return OverloadedError(f"{part} requests are being served already; try again later")

    @contextmanager
    def held(self, name: str, weight: float) -> Iterator[None]:
        """Holds one place for the block. Raises OverloadedError where all that this one may have are taken."""
        if (error := self.refusal(name, weight)) is not None:
            raise error
        self._portions.take(name, weight)
        try:
            yield
        finally:
            self._portions.give_back(name)


@dataclass(eq=False)
class Seat:
    """A place that is held for long. end: asks its holder to leave. taken: another has it."""

    name: str
    weight: float
    end: Callable[[], object]
    taken: bool = False


class Seats:
    """Places that are held for long, such as those of open streams: never more than `most`.

    Whoever comes may have what is free, all of it too. Where nothing is, one who holds less than its part, by weight,
    gets a place of the one who is furthest above its own, whose newest holder is asked to leave. The last place of
    somebody is left alone.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._held: dict[str, list[Seat]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._held.values()))

    def take(self, name: str, weight: float, end: Callable[[], object]) -> Seat:
        """Raises OverloadedError."""
        if len(self) >= self.most:
            self._make_room(name, weight)
        seat = Seat(name, weight, end)
        self._held.setdefault(name, []).append(seat)
        return seat

    def give_back(self, seat: Seat) -> None:
        """May be called again, and for a seat that was taken."""
        held = self._held.get(seat.name, [])
        if seat in held:
            held.remove(seat)
        if not held:
            self._held.pop(seat.name, None)

    def _make_room(self, name: str, weight: float) -> None:
        weights = {holder: seats[-1].weight for holder, seats in self._held.items()} | {name: weight}
        unit = self.most / sum(weights.values())
        above = {
            holder: len(seats) - unit * weights[holder]
            for holder, seats in self._held.items()
            if holder != name and len(seats) > 1
        }
        part = max(1, int(unit * weight))
        loser = max(above, key=lambda holder: above[holder], default=name)
        if len(self._held.get(name, ())) >= part or above.get(loser, 0.0) <= 0:
            raise OverloadedError(f"all {self.most} places are taken, {part} of them may be yours")
        seat = self._held[loser][-1]
        seat.taken = True
        self.give_back(seat)
        seat.end()


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
