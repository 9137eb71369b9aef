"""A part's tilt: at low levels its distortion weighs more than that of the others."""

from __future__ import annotations

import pytest

from train.codec.codec_recipe import CodecRecipe, Part, weighted


def test_a_tilted_part_gives_up_less_at_low_levels():
    parts = (Part(network="a", lambda_=100.0, tilt=0.5), Part(network="b", lambda_=300.0))
    recipe = CodecRecipe(data="photos", parts=parts, steps=1)
    assert weighted(recipe, [1.0, 0.0], 1.0) == pytest.approx(0.25)
    assert weighted(recipe, [1.0, 0.0], 0.25) == pytest.approx(0.5)
    assert weighted(recipe, [0.0, 1.0], 0.25) == pytest.approx(0.75)
