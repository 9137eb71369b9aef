"""Which images turn right or wrong from one quality to the next."""

from __future__ import annotations

import numpy as np

from train.bundle.evaluate import flips


def test_flips_are_of_the_same_images_and_the_next_lower_quality():
    right = {
        0: [np.array([True, True, False]), np.array([False, True])],
        50: [np.array([True, False, True]), np.array([False, False])],
        25: [np.array([True, True, True]), np.array([True, True])],
    }
    assert flips(right, 25) == (0, 2)
    assert flips(right, 50) == (3, 0)
