"""The peers built from compressai's entropy models: their bits are compressai's and ours, and they train."""

from __future__ import annotations

import json

import pytest
import torch

from cloud.networks.sizes import PRESETS, CodecConfig
from shared.errors import DataError
from train.bundle.build import build
from train.codec.codec_recipe import CodecRecipe, Part
from train.codec.entropy_model import gaussian_bits
from train.codec.prior_choice import codec_of
from train.codec.split_networks import SplitNetworks, load_codec_weights, load_networks, load_run
from train.codec.train_codec import train_codec
from train.networks.torchvision_shim import import_torchvision

import_torchvision()
EntropyBottleneck = pytest.importorskip("compressai.entropy_models").EntropyBottleneck

from train.codec.compressai_priors import PEERS, Bottleneck, Bottlenecks, Gaussian, bits_of  # noqa: E402


def tiny(levels: int = 1) -> CodecConfig:
    sizes = {"latent_channels": 3, "hyper_size": 2, "extractor": (4, 4), "generator": (4, 5)}
    return PRESETS["small"].model_copy(update={**sizes, "levels": levels})


def recipe_of(network, prior: str, **given) -> CodecRecipe:
    part = Part(network=str(network), lambda_=300.0)
    levels = {"scales": (0.3, 1.0), "qualities": (0, 100)}
    return CodecRecipe.model_validate(
        {"data": "patches", "parts": (part,), "steps": 60, "batch": 24, "learning_rate": 3e-3}
        | {"prior": prior, **levels, **given}
    )


def test_our_gaussian_bits_are_compressais_where_its_likelihoods_are_exact():
    torch.manual_seed(0)
    log_scale = torch.rand(2, 3, 8, 8) * 3 - 1
    mean = torch.randn_like(log_scale)
    z = (mean + log_scale.exp() * torch.randn_like(mean)).round()
    theirs = -Gaussian()(z, log_scale.exp(), mean)[1].log2()
    torch.testing.assert_close(gaussian_bits(z, mean, log_scale), theirs, rtol=1e-3, atol=1e-4)


def test_a_fast_bottleneck_is_a_bottleneck_whose_parameters_move_further():
    torch.manual_seed(0)
    plain = EntropyBottleneck(3)
    torch.manual_seed(0)
    fast, x = Bottleneck(3, speed=10.0), torch.randint(-4, 5, (2, 3, 4, 5)).float()
    given, likelihoods = fast.train()(x)
    assert torch.equal(given, x)  # no noise of its own
    torch.testing.assert_close(likelihoods, plain.eval()(x)[1])
    before = fast.biases[0].detach().clone()
    moved = torch.optim.Adam([p for p in fast.parameters() if p.requires_grad], lr=1e-3)
    bits_of(likelihoods).sum().backward()
    moved.step()
    assert float((fast.biases[0].detach() - before).abs().max()) == pytest.approx(1e-2, rel=1e-3)


def test_each_picture_is_coded_with_the_bottleneck_of_its_level():
    torch.manual_seed(0)
    priors, x = Bottlenecks(3, 3), torch.randint(-3, 4, (4, 3, 2, 5)).float()
    bits = priors.bits(x, torch.tensor([0.4, 1.6, 2.0, 0.0]))
    for k, (picture, level) in enumerate(zip(x, (0, 2, 2, 0), strict=True)):
        own = -priors.of_level[level](picture[None])[1].log2().sum()
        assert float(bits[k].detach()) == pytest.approx(float(own.detach()), rel=1e-5)
    assert len(set(bits.tolist())) == 4
    bits.sum().backward()
    learning = [p for p in priors.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in learning)  # of the level that nobody had too
    assert not priors.of_level[1].biases.parametrizations["0"].original.grad.any()


def test_the_masses_of_a_bottleneck_add_up_to_one():
    torch.manual_seed(0)
    x = torch.arange(-400.0, 401.0)[None, None, :, None].expand(1, 3, -1, 1)
    whole = Bottleneck(3)(x)[1].sum((0, 2, 3))
    assert whole.tolist() == pytest.approx([1, 1, 1], abs=1e-3)


@pytest.mark.parametrize("prior", PEERS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 9)])
def test_any_grid_and_what_is_coded_is_whole(prior, height, width):
    torch.manual_seed(0)
    codec = codec_of(prior)(4, tiny(levels=2).for_feature(height, width))
    y, position = torch.randn(2, 4, height, width), torch.tensor([0.0, 0.7])
    coded = codec(y, position)
    bits = coded.bits_z + coded.bits_v
    bits.sum().backward()
    assert torch.isfinite(bits).all()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in codec.parameters())
    with torch.no_grad():
        training = codec.rounded_bits(y, position)
        written = codec.eval()(y, position)
    assert torch.equal(training, written.bits_z + written.bits_v)
    assert not torch.equal(training, bits)  # under noise


@pytest.mark.parametrize("prior", PEERS)
def test_the_rate_falls_in_training_and_the_run_is_read_again(tmp_path, patches, tiny_network, prior):
    chosen, out = recipe_of(tiny_network, prior), tmp_path / "run"
    figures = train_codec(chosen, patches[:1], patches[1:], out, resume=False)
    curve = [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]
    assert curve[-1]["bytes"] < 0.95 * curve[0]["bytes"]
    assert (figures.value("bytes_v", quality=100) == 0) == (prior == "compressai-factorised")
    model, recipe, _ = load_run(out)
    assert (type(model.codec.core), recipe) == (PEERS[prior], chosen)
    saved = torch.load(out / "checkpoint.pt", weights_only=True)["model"]
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(DataError, match=f"the prior {prior}, for comparison only"):
        build(out, tmp_path / "bundle", "x", patches[1])
    other = recipe_of(tiny_network, prior, scales=(0.1, 0.3, 1.0), qualities=(0, 50, 100))
    with pytest.raises(DataError, match="other sizes, features or prior"):
        load_codec_weights(SplitNetworks(load_networks(other.parts), other), other, out)
