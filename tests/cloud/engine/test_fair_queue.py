"""Turns and places in the queue: in proportion to the weights, each share's own order, and nobody starves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.engine.fair_queue import FairQueue, Share


@dataclass(eq=False)
class Entry:
    share: Share
    number: int = 0
    key: str = "k"
    lane: str = "l"


A, B, C = Share("a"), Share("b"), Share("c", 3.0)


def filled(queue: FairQueue[Entry], share: Share, count: int, **fields: str) -> list[Entry]:
    entries = [Entry(share, number, **fields) for number in range(count)]
    for entry in entries:
        queue.put(entry)
    return entries


def names(entries: list[Entry]) -> str:
    return "".join(entry.share.name for entry in entries)


def test_turns_follow_the_weights_and_each_shares_own_order() -> None:
    queue: FairQueue[Entry] = FairQueue(100)
    for share in (A, B, C):
        filled(queue, share, 20)
    taken = queue.take("k", 25)
    assert Counter(names(taken)) == {"a": 5, "b": 5, "c": 15}
    for share in (A, B, C):
        assert [entry.number for entry in taken if entry.share is share] == list(range(15))[
            : 15 if share is C else 5
        ]


def test_who_comes_later_is_served_next_and_has_saved_up_nothing() -> None:
    queue: FairQueue[Entry] = FairQueue(100)
    filled(queue, A, 60)
    filled(queue, B, 1)
    assert "b" in names(queue.take("k", 4))
    queue.take("k", 30)
    # B was away for thirty turns. It gets every second one from here, and not all of them.
    filled(queue, B, 10)
    assert Counter(names(queue.take("k", 8))) == {"a": 4, "b": 4}


def test_leaving_and_coming_again_gains_nothing() -> None:
    queue: FairQueue[Entry] = FairQueue(100)
    filled(queue, A, 1)
    filled(queue, B, 1)
    queue.take("k", 2)
    filled(queue, A, 1)
    queue.take("k", 1)
    filled(queue, A, 1)
    filled(queue, B, 1)
    assert names(queue.take("k", 2)) == "ba"  # A has had one more


def test_what_is_taken_together_has_one_key_and_the_others_come_first_after_it() -> None:
    queue: FairQueue[Entry] = FairQueue(100)
    filled(queue, A, 6)
    filled(queue, B, 2, key="other")
    first = queue.first()
    assert first is not None
    assert first.key == "k"
    assert names(queue.take("k", 4)) == "aaaa"
    first = queue.first()
    assert first is not None
    assert first.key == "other"


@pytest.mark.parametrize(("weight", "places"), [(1.0, 5), (4.0, 8), (0.01, 1)])
def test_a_full_lane_still_has_a_part_for_who_comes(weight: float, places: int) -> None:
    queue: FairQueue[Entry] = FairQueue(10)
    count = 0
    while queue.has_room("l", A):
        filled(queue, A, 1)
        count += 1
    assert count == 10
    late, count = Share("late", weight), 0
    while queue.has_room("l", late):
        filled(queue, late, 1)
        count += 1
    assert count == places
    assert not queue.has_room("l", A)
    queue.take("k", 4)
    assert not queue.has_room("l", A) or weight == 0.01  # first it goes down to its own part


def test_lanes_have_places_of_their_own() -> None:
    queue: FairQueue[Entry] = FairQueue(3)
    filled(queue, A, 3)
    assert not queue.has_room("l", A)
    assert queue.has_room("another", A)


@given(st.lists(st.tuples(st.sampled_from(["put", "take", "drop"]), st.integers(0, 4), st.integers(1, 6))))
def test_nothing_is_lost_doubled_or_out_of_order(steps: list[tuple[str, int, int]]) -> None:
    queue: FairQueue[Entry] = FairQueue(5)
    waiting: list[Entry] = []
    last: dict[tuple[str, str], int] = {}
    number = 0
    for what, who, count in steps:
        share, key = Share(f"s{who}", 1.0 + who), f"k{count % 2}"
        if what == "put" and queue.has_room("l", share):
            entry = Entry(share, number := number + 1, key)
            queue.put(entry)
            waiting.append(entry)
        elif what == "drop" and waiting:
            entry = waiting.pop(who % len(waiting))
            queue.discard(entry)
            queue.discard(entry)
        elif what == "take":
            taken = queue.take(key, count)
            assert len(taken) == min(count, sum(entry.key == key for entry in waiting))
            for entry in taken:
                assert last.get((entry.share.name, key), 0) < entry.number
                last[entry.share.name, key] = entry.number
                waiting.remove(entry)
        assert set(map(id, queue)) == set(map(id, waiting))
        assert len(queue) == len(waiting)
        assert (queue.first() is None) == (not waiting)


@given(st.lists(st.integers(1, 8), min_size=2, max_size=5), st.integers(1, 9))
def test_shares_that_always_wait_are_served_in_proportion(weights: list[int], most: int) -> None:
    queue: FairQueue[Entry] = FairQueue(1000)
    shares = [Share(f"s{i}", float(weight)) for i, weight in enumerate(weights)]
    served: Counter[str] = Counter()
    for share in shares:
        filled(queue, share, 8)
    for _ in range(30):
        for entry in queue.take("k", most):
            served[entry.share.name] += 1
            queue.put(Entry(entry.share))
    for share in shares:
        assert abs(served[share.name] - 30 * most * share.weight / sum(weights)) <= len(shares)
