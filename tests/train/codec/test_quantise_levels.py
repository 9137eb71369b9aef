"""The integers of a codec with levels: tables of v by level, from that level's prior; everything else is shared."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cloud.networks.sizes import CodecConfig
from shared.codec.latent_codec import LEVELS, LatentCodec
from train.codec.entropy_model import level_of
from train.codec.feature_codec import FeatureCodec
from train.codec.quantise import quantise

QUALITIES = (10, 40, 90)
CONFIG = CodecConfig(
    transform=(8,),
    strides=(1, 1),
    latent_channels=6,
    extractor=(8, 8),
    extractor_linear=8,
    hyper_size=5,
    generator=(12,),
    tau=8,
    grid=(4, 4),
    predictor=(8,),
    reconstruction=(8, 8),
)


def made(levels: int) -> tuple[FeatureCodec, torch.Tensor]:
    """A codec whose priors differ from level to level, and hyperpriors to calibrate on."""
    torch.manual_seed(0)
    codec = FeatureCodec(4, CONFIG.model_copy(update={"levels": levels})).eval()
    with torch.no_grad():
        codec.prior.log_scales += torch.arange(levels)[:, None, None]
        codec.prior.means += torch.randn_like(codec.prior.means)
    return codec, torch.randn(64, CONFIG.hyper_size).mul(3).round()


def test_each_level_codes_v_by_its_own_prior() -> None:
    codec, v = made(3)
    tensors = quantise(codec, v, qualities=QUALITIES)
    np.testing.assert_array_equal(tensors[LEVELS], QUALITIES)
    deployed = LatentCodec(tensors)
    one, z = v[0].numpy().astype(np.int32), np.zeros((6, 4, 4), np.int32)
    for quality in range(10, 91, 5):
        position = torch.tensor([deployed.levels.position(quality)])  # type: ignore[union-attr]
        with torch.no_grad():
            expected = float(codec.prior.bits(v[:1], level_of(position)).sum())
        assert deployed.bits(one, z, quality)[0] == pytest.approx(expected, rel=1e-3)
        b_v, b_z = deployed.encode(one, z, quality)
        np.testing.assert_array_equal(deployed.decode(b_v, b_z, 4, 4, quality), z)
    assert len({round(deployed.bits(one, z, quality)[0], 3) for quality in QUALITIES}) == 3


def test_one_level_is_the_plain_codec() -> None:
    codec, v = made(1)
    tensors = quantise(codec, v, qualities=(50,))
    assert LEVELS not in tensors
    assert len(tensors["v.tables.firsts"]) == CONFIG.hyper_size


@pytest.mark.parametrize("qualities", [(), (10, 40), (10, 10, 90), (90, 40, 10)])
def test_qualities_that_do_not_fit(qualities: tuple[int, ...]) -> None:
    codec, v = made(3)
    with pytest.raises(ValueError, match=r"qualities"):
        quantise(codec, v, qualities=qualities)
