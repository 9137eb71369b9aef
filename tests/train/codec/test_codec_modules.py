"""The torch modules: sizes, densities, gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cloud.networks.networks import ClassifierConfig, ReferenceClassifier, feature_shape, split
from cloud.networks.sizes import PRESETS, CodecConfig
from cloud.networks.transforms import FeatureReconstruction
from train.codec.entropy_model import FactorisedPrior, ProbabilityPredictor, gaussian_bits
from train.codec.feature_codec import FeatureCodec, JointCodec


def widths(module: torch.nn.Module, kind: type[torch.nn.Module]) -> list[tuple[int, int]]:
    """(inputs, outputs) of every layer of a kind, in order."""
    return [(m.weight.shape[1], m.weight.shape[0]) for m in module.modules() if isinstance(m, kind)]


def test_reference_preset_has_the_sizes_of_the_worked_example():
    codec = FeatureCodec(8, PRESETS["reference"])
    conv, linear = torch.nn.Conv2d, torch.nn.Linear
    assert widths(codec.transform, conv) == [
        (8, 128),
        (128, 256),
        (256, 512),
        (512, 1024),
        (1024, 1024),
        (1024, 128),
    ]
    assert widths(codec.extractor, conv) == [(128, 64), (64, 512)]
    assert widths(codec.extractor, linear) == [(512, 512), (512, 128)]
    assert widths(codec.generator, linear) == [(128, 512), (512, 512), (512, 512), (512, 128 * 512)]
    assert codec.codebook.entries.shape[0] == 512
    chain = [(128, 1024), (1024, 1024), (1024, 512), (512, 256), (256, 128), (128, 8)]
    assert widths(codec.reconstruction, conv) == chain
    shapes = codec(torch.zeros(2, 8, 4, 4))
    assert shapes.y_hat.shape == (2, 8, 4, 4)
    assert codec.gaussians(torch.zeros(2, 128), 4, 4)[0].shape == (2, 128, 4, 4)


@pytest.mark.parametrize("stride", [4, 16, 64])
@pytest.mark.parametrize("channels", [3, 8])
def test_the_feature_has_the_stride_and_channels_asked_for(stride: int, channels: int):
    network = ReferenceClassifier(ClassifierConfig(classes=5, stride=stride, feature_channels=channels))
    front, tail = split(network, network.split_layer)
    assert feature_shape(front, 128, 192) == (channels, 128 // stride, 192 // stride)
    assert tail.eval()(torch.zeros(1, channels, 128 // stride, 192 // stride)).shape == (1, 5)


def test_front_then_tail_is_the_network_at_every_split():
    torch.manual_seed(0)
    network = ReferenceClassifier(ClassifierConfig(classes=5, widths=(8, 8, 8, 8), head_widths=(8,))).eval()
    x = torch.randn(2, 3, 64, 64)
    whole = network(x)
    for layer in range(len(network) + 1):
        front, tail = split(network, layer)
        assert torch.equal(tail(front(x)), whole)
    with pytest.raises(ValueError, match="layers 0"):
        split(network, len(network) + 1)


def test_gaussian_bits_are_those_of_the_mass_and_add_up_to_one():
    k = torch.arange(-80, 81, dtype=torch.float64)
    for mean, scale in [(0.0, 0.11), (0.3, 0.5), (-7.4, 3.0), (0.5, 9.0)]:
        bits = gaussian_bits(k, torch.tensor(mean), torch.tensor(math.log(scale), dtype=torch.float64))
        assert float(torch.exp2(-bits).sum()) == pytest.approx(1, abs=1e-5)
        upper, lower = ((math.erf((x - mean) / scale / math.sqrt(2))) for x in (0.5, -0.5))
        assert float(bits[80]) == pytest.approx(-math.log2((upper - lower) / 2), abs=1e-3)


@pytest.mark.parametrize("hyper", [1, 2])
def test_the_second_hyperprior_tells_where_a_thing_is(hyper):
    torch.manual_seed(0)
    extractor = FeatureCodec(8, PRESETS["small"].with_hyper(hyper)).extractor
    z = torch.zeros(3, 64, 8, 8)
    z[0, :, 2, 2] = z[1, :, 5, 4] = 3.0  # the same thing, far from the borders
    with torch.no_grad():
        here, there, nowhere = extractor(z)
        assert extractor(torch.zeros(1, 64, 5, 9)).shape == (1, 48)  # any grid
    assert not torch.allclose(here, nowhere, atol=1e-4)
    assert torch.allclose(here, there, atol=1e-4) == (hyper == 1)


def test_the_second_hyperprior_begins_with_the_codebooks_combination_as_the_mean():
    torch.manual_seed(0)
    codec = FeatureCodec(8, PRESETS["small"].with_hyper(2))
    maps = torch.randn(2, 64, 8, 8)
    mean, log_scale = codec.predictor(maps)
    assert torch.allclose(mean, maps, atol=1e-5)
    assert float(log_scale.detach().abs().mean()) < 0.5
    with pytest.raises(ValueError, match="twice the latent's channels"):
        CodecConfig(hyper=2)


@pytest.mark.parametrize("away", [0.0, 3.0, 30.0, 300.0, 3000.0])
def test_the_gradient_of_the_rate_is_alive_in_the_tails(away: float):
    mean = torch.tensor(0.0, requires_grad=True)
    log_scale = torch.tensor(math.log(0.2), requires_grad=True)
    bits = gaussian_bits(torch.tensor(away), mean, log_scale)
    bits.backward()
    assert torch.isfinite(bits)
    assert torch.isfinite(mean.grad)
    if away:
        assert mean.grad < 0  # a larger mean makes it cheaper
        assert log_scale.grad < 0


def test_the_prior_is_a_distribution_with_live_tails():
    prior = FactorisedPrior(3)
    v = torch.arange(-400, 401, dtype=torch.float32)[:, None].expand(-1, 3)
    assert torch.exp2(-prior.bits(v)).sum(0).detach().numpy() == pytest.approx([1, 1, 1], abs=1e-3)
    far = torch.tensor([[5000.0, -5000.0, 0.0]], requires_grad=True)
    prior.bits(far).sum().backward()
    assert far.grad[0, 0] > 0 > far.grad[0, 1]


def test_a_scale_at_its_bound_is_not_stuck_there():
    predictor = ProbabilityPredictor(PRESETS["small"])
    with torch.no_grad():
        predictor.log_scale[-1].bias.fill_(-50.0)
    _, log_scale = predictor(torch.zeros(1, 64, 2, 2))
    assert float(log_scale.detach().max()) == pytest.approx(math.log(0.11))
    (-log_scale.sum()).backward()  # asks for a larger scale
    assert predictor.log_scale[-1].bias.grad.abs().sum() > 0
    predictor.zero_grad()
    predictor(torch.zeros(1, 64, 2, 2))[1].sum().backward()  # asks for a smaller one, which there is not
    assert predictor.log_scale[-1].bias.grad.abs().sum() == 0


def test_odd_features_come_back_in_their_own_size():
    codec = FeatureCodec(4, PRESETS["small"].for_feature(7, 9)).eval()
    assert codec.config.grid == (4, 5)
    assert codec(torch.randn(2, 4, 7, 9)).y_hat.shape == (2, 4, 7, 9)


def test_evaluation_rounds_and_training_does_not_change_what_is_reconstructed():
    torch.manual_seed(0)
    codec = FeatureCodec(8, PRESETS["small"]).eval()
    y = torch.randn(2, 8, 16, 16)
    z, v = codec.latents(y)
    assert torch.equal(z, z.round())
    assert torch.equal(v, v.round())
    assert z.unique().numel() > 2, "z must start alive"
    assert torch.equal(codec(y).y_hat, codec.reconstruction(z, (16, 16)))


def test_config_refuses_strides_that_do_not_fit():
    with pytest.raises(ValueError, match="strides"):
        CodecConfig(transform=(8,), strides=(1,))
    with pytest.raises(ValueError, match="1 or 2"):
        CodecConfig(transform=(8,), strides=(1, 3))


def test_quantised_predictions_follow_the_float_model():
    """To a step of the mean's grid and 0.2 % of the largest mean at 12 bits; four times closer than at 10 bits."""
    from shared.codec.exact import ExactPath
    from train.codec.fixed_point import BitWidths
    from train.codec.quantise import quantise

    torch.manual_seed(3)
    codec = FeatureCodec(8, PRESETS["small"]).eval()
    for last in (codec.predictor.mean[-1], codec.predictor.log_scale[-1]):
        last.weight.data *= 8
    v = torch.randint(-6, 7, (64, 48)).float()
    mean, log_scale = (t.detach().numpy() for t in codec.gaussians(v, 8, 8))
    assert np.array_equal(mean * 16, np.round(mean * 16)), "the mean is learnt on the grid of the tables"
    steps = (log_scale - math.log(0.11)) / (math.log(64 / 0.11) / 63)
    errors = {}
    for bits in (10, 12):
        index, offset = ExactPath(quantise(codec, v, BitWidths(bits, bits)))(v.numpy().astype(np.int32), 8, 8)
        errors[bits] = np.abs(offset + index % 16 / 16 - mean), np.abs(index // 16 - steps)
    assert errors[12][0].max() <= 1 / 16 + 0.002 * np.abs(mean).max()
    assert errors[12][0].mean() < errors[10][0].mean() / 3
    assert errors[12][1].max() < 0.5 + 1
    assert errors[12][1].mean() < 0.15  # rounding to a step alone costs up to 0.25 in the mean


@pytest.mark.parametrize("size", [(16, 16), (15, 16), (1, 1), (4, 4), (32, 32), (16, 40)])
def test_a_reconstruction_gives_any_grid(size):
    """Also of a later task, whose feature has not the grid that z was made from."""
    reconstruction = FeatureReconstruction(5, PRESETS["small"])
    assert reconstruction(torch.randn(2, 64, 8, 8), size).shape == (2, 5, *size)


@pytest.mark.parametrize("stride", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("size", [(32, 48), (33, 19), (5, 1)])
def test_any_stride_fits_any_feature(stride: int, size: tuple[int, int]):
    """Rows and columns that the stride does not divide are rounded up in z and cut behind it."""
    config = PRESETS["small"].with_stride(stride).widened(0.25).for_feature(*size)
    assert config.stride == stride
    assert config.latent_channels == 16
    codec = FeatureCodec(3, config).eval()
    z, _ = codec.latents(torch.randn(2, 3, *size))
    assert z.shape == (2, 16, *(-(-side // stride) for side in size))
    assert codec.reconstruct(z, None, size).shape == (2, 3, *size)


def test_a_stride_that_cannot_be_is_refused():
    for stride in (0, 3, 32):
        with pytest.raises(ValueError, match="a power of two up to 16"):
            PRESETS["small"].with_stride(stride)


def test_the_finer_cells_of_a_latent_cell_are_told_apart():
    torch.manual_seed(0)
    reconstruction = FeatureReconstruction(3, PRESETS["small"])
    with torch.no_grad():
        y = reconstruction(torch.randn(1, 64, 1, 1), (2, 2))[0]
    assert len({tuple(cell) for cell in y.flatten(1).T.tolist()}) == 4


def test_the_linear_way_carries_a_feature_whole():
    """With all convolutions at zero, 64 latent channels hold 16 channels of 2 x 2 cells without loss."""
    joint = JointCodec([(8, 16, 16), (8, 16, 16)], PRESETS["small"])
    core, y = joint.core, torch.randn(2, 16, 16, 16)
    with torch.no_grad():
        for part in (core.transform, core.reconstruction):
            for parameter in part.layers.chain.parameters():
                parameter.zero_()
        matrix = torch.linalg.qr(torch.randn(64, 64))[0]
        core.transform.layers.linear.weight.copy_(matrix.reshape(64, 16, 2, 2))
        core.reconstruction.layers.linear.weight.copy_(matrix.reshape(64, 16, 2, 2))
        assert torch.allclose(core.reconstruction(core.transform(y), (16, 16)), y, atol=1e-4)


@pytest.mark.parametrize("features", [[(32, 9, 9)], [(8, 16, 16), (8, 16, 16)]])
def test_a_codec_begins_as_a_linear_one_that_loses_little(features: list[tuple[int, ...]]):
    torch.manual_seed(0)
    codec = JointCodec(features, PRESETS["small"].with_stride(1 if len(features) == 1 else 2)).eval()
    ys = [torch.randn(4, *feature) for feature in features]
    u = codec.core.transform(codec.fusion(ys))
    y_hat = codec.core.reconstruction(u, codec.grid)
    for k, y in enumerate(ys):
        assert (codec.separation(y_hat, k) - y).square().mean() < 0.15  # of a variance of 1


def test_a_sample_turns_the_first_channels_to_where_features_vary_most():
    torch.manual_seed(0)
    few = torch.randn(4, 64)  # 64 channels of which only 4 directions are used
    features = torch.einsum("kc,bkhw->bchw", few, torch.randn(32, 4, 9, 9))
    codec = JointCodec(
        [(64, 9, 9)], PRESETS["small"].with_stride(1).model_copy(update={"scaled": True})
    ).eval()
    codec.measure([features])
    ways = codec.core.transform.layers.linear, codec.core.reconstruction.layers.linear
    y = codec.fusion([features])
    u = ways[0](y)
    assert u[:, 4:].abs().max() < 1e-3 < u[:, :4].abs().mean()
    torch.testing.assert_close(ways[1](u), y, atol=1e-3, rtol=0)
