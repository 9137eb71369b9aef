"""Places held by running calls: all of them for one caller alone, a part for each of several."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from shared.errors import OverloadedError
from shared.process.rates import Places


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
