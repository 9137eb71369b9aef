"""Figures that cannot be true are noise: they meet no target."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.report.sections import Target, judge, possible, text_of


@given(value=st.floats(), low=st.floats(-10, 10), width=st.floats(0, 10))
def test_a_target_is_judged_only_by_what_can_be(value: float, low: float, width: float) -> None:
    high = low + width
    target = judge("what", "at most 5", value, value <= 5, "{:.1f}", low=low, high=high)
    if low <= value <= high:
        assert (target.met, target.reached) == (value <= 5, f"{value:.1f}")
    else:
        assert (target.met, target.verdict) == (None, "undetermined")
        assert target.reached.startswith("noise (")


def test_times_have_no_upper_bound_and_nothing_is_less_than_none() -> None:
    assert possible(0.0)
    assert possible(1e9)
    assert not possible(-0.001)
    assert not possible(float("nan"))
    assert text_of("{:.0f} ms", -211) == "noise (-211 ms)"


@pytest.mark.parametrize(("met", "verdict"), [(True, "yes"), (False, "no"), (None, "undetermined")])
def test_a_verdict_is_one_word(met: bool | None, verdict: str) -> None:
    assert Target(what="", target="", reached="", met=met).verdict == verdict
