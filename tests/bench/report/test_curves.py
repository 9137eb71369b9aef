"""Curves are read as they are known to run."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.report.curves import Curve, Read, bd_rate


def logarithmic(factor: float, low: float = 0.0, high: float = 4.0) -> Curve:
    """bytes = factor 2^quality."""
    return Curve.of((factor * 2**q, q) for q in np.linspace(low, high, 5))


def test_a_curve_gives_its_points_and_what_lies_between():
    curve = logarithmic(50)
    for quality in (0.0, 1.0, 1.5, 3.9, 4.0):
        assert curve.bytes_at(quality).value == pytest.approx(50 * 2**quality)
        assert curve.quality_at(50 * 2**quality).value == pytest.approx(quality)
        assert curve.bytes_at(quality).side == ""


def test_beyond_its_ends_it_says_so_and_extrapolates_nothing():
    curve = logarithmic(50)
    assert curve.bytes_at(4.5) == (pytest.approx(800), ">")
    assert curve.bytes_at(-0.1) == (pytest.approx(50), "<")
    assert curve.quality_at(49) == Read(0.0, "<")
    assert curve.quality_at(801) == Read(4.0, ">")


def test_points_that_cost_more_and_are_no_better_are_left_out():
    curve = Curve.of([(300, 0.9), (100, 0.5), (200, 0.4), (100, 0.6), (400, 0.9)])
    assert curve.sizes.tolist() == [100, 300]
    assert curve.qualities.tolist() == [0.6, 0.9]
    between = [curve.bytes_at(q).value for q in np.linspace(0.6, 0.9, 20)]
    assert between == sorted(between)


def test_a_curve_of_one_point():
    curve = Curve.of([(100, 0.5)])
    assert [curve.bytes_at(q).side for q in (0.4, 0.5, 0.6)] == ["<", "", ">"]
    assert curve.bytes_at(0.5).value == pytest.approx(100)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.3])
def test_bd_rate_of_curves_that_differ_by_a_factor_is_that_factor(factor):
    other = logarithmic(50 * factor, 1.0, 6.0)  # the ranges overlap in 1..4 only
    assert bd_rate(logarithmic(50), other) == pytest.approx(factor - 1)
    assert bd_rate(other, logarithmic(50)) == pytest.approx(1 / factor - 1)


def test_bd_rate_is_the_mean_over_the_common_range():
    steeper = Curve.of((50 * 3**q, q) for q in np.linspace(0, 4, 5))
    expected = math.exp(np.mean([q * math.log(1.5) for q in np.linspace(0, 4, 1001)])) - 1
    assert bd_rate(logarithmic(50), steeper) == pytest.approx(expected)
    assert bd_rate(logarithmic(50), logarithmic(50, 5.0, 9.0)) is None
