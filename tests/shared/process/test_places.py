"""What callers share: all of it for one alone, a part for each of several, and what is free for anybody."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from shared.errors import OverloadedError
from shared.process.rates import Places, Portions, Seat, Seats


def fill(places: Places, stack: ExitStack, name: str, weight: float = 1.0) -> int:
    """Takes places until it is refused; how many."""
    for count in range(100):
        try:
            stack.enter_context(places.held(name, weight))
        except OverloadedError:
            return count
    raise AssertionError("no bound")


def test_one_alone_has_all_and_who_comes_has_a_part() -> None:
    places = Places(12)
    with ExitStack() as first, ExitStack() as second, ExitStack() as third:
        assert fill(places, first, "a") == 12
        assert fill(places, second, "b") == 6
        assert fill(places, third, "c", weight=2.0) == 6
        first.close()
        second.close()
        assert fill(places, third, "c", weight=2.0) == 6  # of twelve, six it has
    with ExitStack() as again:
        assert fill(places, again, "b") == 12


def test_a_small_weight_has_one_place() -> None:
    places = Places(4)
    with ExitStack() as stack:
        fill(places, stack, "a", weight=100)
        assert fill(places, stack, "b", weight=0.01) == 1


def test_a_call_that_fails_gives_its_place_back() -> None:
    places = Places(1)
    with pytest.raises(ValueError, match="fails"), places.held("a", 1):
        raise ValueError("fails")
    with places.held("a", 1):
        pass


def test_what_is_free_is_anybodys() -> None:
    portions = Portions(100)
    portions.take("a", 1.0, 60)
    portions.take("b", 1.0, 10)
    assert portions.has_room("a", 1.0, 30)  # beyond its half
    assert not portions.has_room("a", 1.0, 31)
    portions.take("a", 1.0, 30)
    assert portions.has_room("b", 1.0, 40)  # its half, although nothing is free
    assert not portions.has_room("b", 1.0, 41)
    portions.give_back("a", 90)
    portions.give_back("b", 10)
    assert portions.held == 0
    assert portions.part("c", 1.0) == 100


def taken(seats: Seats, name: str, count: int, weight: float = 1.0) -> list[Seat]:
    return [seats.take(name, weight, lambda: None) for _ in range(count)]


def test_seats_are_never_more_than_there_are_and_go_to_who_has_few() -> None:
    seats = Seats(12)
    first = taken(seats, "a", 12)
    with pytest.raises(OverloadedError, match="12 of them may be yours"):
        taken(seats, "a", 1)
    second = taken(seats, "b", 6)
    assert [seat.taken for seat in first] == [False] * 6 + [True] * 6  # the newest gives way
    for name in ("a", "b"):
        with pytest.raises(OverloadedError, match="6 of them may be yours"):
            taken(seats, name, 1)
    taken(seats, "c", 6, weight=2.0)
    assert sum(seat.taken for seat in (*first, *second)) == 12
    assert len(seats) == 12
    for seat in (*first, *second):
        seats.give_back(seat)  # also one that was taken before
    assert len(seats) == 6
    taken(seats, "c", 6, weight=2.0)  # nobody else wants them


def test_the_last_seat_of_somebody_is_left_alone() -> None:
    seats = Seats(3)
    for name in "abc":
        taken(seats, name, 1)
    with pytest.raises(OverloadedError):
        taken(seats, "d", 1, weight=100.0)
