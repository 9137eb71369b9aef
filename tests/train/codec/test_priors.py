"""The priors that the codebook is compared with: their bits, and that they train."""

from __future__ import annotations

import fcntl
import json
import math
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from cloud.networks.sizes import PRESETS, CodecConfig
from shared.errors import DataError
from support.untrained import random_run
from train.bundle.build import build
from train.codec.codec_recipe import CodecRecipe, Part
from train.codec.context_model import Latents
from train.codec.entropy_model import bounded_log_scale, gaussian_bits, on_grid
from train.codec.prior_choice import CODECS, codec_of
from train.codec.priors import FactorisedCodec, HyperpriorCodec
from train.codec.split_networks import SplitNetworks, load_codec_weights, load_networks, load_run
from train.codec.train_codec import train_codec
from train.data.feature_cache import cached_features

PRIORS = ["factorised", "hyperprior"]


def tiny(levels: int = 1) -> CodecConfig:
    sizes = {"latent_channels": 3, "hyper_size": 2, "extractor": (4, 4), "generator": (4, 5)}
    return PRESETS["small"].model_copy(update={**sizes, "levels": levels})


def mixture_bits(prior, level: int, element: int, value: float) -> float:
    """-log2 of the mass of a mixture of logistics on [value - 1/2, value + 1/2], in double precision."""
    raw = (prior.logits, prior.means, prior.log_scales)
    logits, means, log_scales = (one[level, element].detach().double() * prior.speed for one in raw)
    upper, lower = (torch.sigmoid((value + half - means) / log_scales.exp()) for half in (0.5, -0.5))
    return -math.log2(float((torch.softmax(logits, 0) * (upper - lower)).sum()))


def scatter(prior) -> None:
    """Densities that differ between elements and levels."""
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.7 / prior.speed)


def scatter_all(module) -> None:
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)


def test_factorised_bits_are_those_of_each_channels_density_at_its_level():
    torch.manual_seed(0)
    codec = FactorisedCodec(4, tiny(levels=3)).eval()
    scatter(codec.prior)
    z = torch.randint(-3, 4, (2, 3, 2, 1)).float()
    bits_z, bits_v, _ = codec.rate(z, z, torch.tensor([0.4, 1.6]))
    assert bits_v.tolist() == [0, 0]
    for b, level in enumerate((0, 2)):
        expected = sum(
            mixture_bits(codec.prior, level, n, float(x)) for n in range(3) for x in z[b, n].flatten()
        )
        assert float(bits_z[b].detach()) == pytest.approx(expected, rel=1e-4)


def test_hyperprior_bits_are_those_of_its_gaussians_and_of_its_hyper_latent():
    torch.manual_seed(0)
    codec = HyperpriorCodec(4, tiny(levels=2)).eval()
    scatter(codec.prior)
    z = torch.randint(-3, 4, (1, 3, 5, 6)).float()
    with torch.no_grad():
        bits_z, bits_v, _ = codec.rate(z, z, torch.ones(1))
    w = codec.analysis(z).round().detach()
    assert w.shape == (1, 2, 2, 2)
    hyper = sum(mixture_bits(codec.prior, 1, n, float(x)) for n in range(2) for x in w[0, n].flatten())
    assert float(bits_v) == pytest.approx(hyper, rel=1e-4)
    with torch.no_grad():
        mean, log_scale = codec.gaussians(w, 5, 6)
    assert torch.equal(mean * 16, (mean * 16).round())
    assert float(bits_z) == pytest.approx(float(gaussian_bits(z, mean, log_scale).sum()), rel=1e-5)


def test_a_place_of_z_is_told_by_the_hyper_latent_beside_it():
    codec = HyperpriorCodec(4, tiny()).eval()
    w = torch.zeros(1, 2, 4, 4)
    plain = codec.gaussians(w, 16, 16)[1]
    w[..., 0, 0] = 20.0
    moved = (codec.gaussians(w, 16, 16)[1] != plain).any(1)[0]
    assert moved[:4, :4].any()
    assert not moved[12:, 12:].any()


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 9), (8, 8), (18, 5)])
def test_any_grid(prior, height, width):
    codec = CODECS[prior](4, tiny(levels=2).for_feature(height, width))
    coded = codec(torch.randn(2, 4, height, width), torch.tensor([0.0, 0.7]))
    assert coded.y_hat.shape == (2, 4, height, width)
    bits = coded.bits_z + coded.bits_v
    bits.sum().backward()
    assert torch.isfinite(bits).all()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in codec.parameters())


@pytest.mark.parametrize("prior", CODECS)
def test_the_rounded_rate_is_that_of_what_is_written_in_training_too(prior):
    torch.manual_seed(0)
    codec, y, position = (
        CODECS[prior](4, tiny(levels=2).for_feature(8, 8)),
        torch.randn(2, 4, 8, 8),
        torch.ones(2),
    )
    scatter(codec.prior)
    with torch.no_grad():
        training = codec.train().rounded_bits(y, position), codec(y, position).bits_z
        written = codec.eval()(y, position)
    assert torch.equal(training[0], written.bits_z + written.bits_v)
    assert not torch.equal(training[1], written.bits_z)  # under noise


@pytest.mark.parametrize("prior", ["factorised", "hyperprior"])
def test_a_context_sees_what_the_prior_knows_and_no_place_before_it_is_decoded(prior):
    torch.manual_seed(0)
    config = tiny(levels=2).with_context().model_copy(update={"context_hidden": (8,)})
    codec = CODECS[prior](4, config.for_feature(8, 8)).eval()
    scatter_all(codec.context)
    z, position = torch.randint(-3, 4, (2, 3, 8, 8)).float(), torch.tensor([0.0, 1.0])
    with torch.no_grad():
        if prior == "factorised":
            codec.means.of_level.copy_(torch.tensor([[0.5, -1.0, 2.0], [-0.5, 1.0, 0.25]]))
        v = codec.extract(z).round()
        maps = codec.maps(v, 8, 8, position)
        mean, log_scale = codec.context(Latents(z, maps))
        bits = codec.rate(z, z, position).bits_z
        other = codec.context(Latents(z, maps + 1))[0]
    expected = gaussian_bits(z, on_grid(mean), bounded_log_scale(log_scale)).sum((1, 2, 3))
    assert torch.allclose(bits, expected, rtol=1e-5)
    assert not torch.equal(mean, other)
    if prior == "factorised":
        assert maps[1, :, 3, 4].tolist() == [-0.5, 1.0, 0.25]
        assert codec.rate(z, z, position).bits_v.tolist() == [0, 0]


@pytest.mark.parametrize("prior", CODECS)
def test_an_entropy_model_begins_anew_on_latents_that_stay(tmp_path, tiny_network, prior):
    run = random_run(tmp_path / "run", [tiny_network], context=True)
    old, recipe, _ = load_run(run)
    begun = {}
    for anew in (True, False):
        torch.manual_seed(5)
        changed = recipe.model_copy(
            update={"prior": prior, "trains": "entropy", "init": str(run), "anew": anew}
        )
        model = SplitNetworks(load_networks(recipe.parts), changed)
        load_codec_weights(model, changed, run)
        begun[anew] = model.codec.core
        for name, tensor in old.codec.core.transform.state_dict().items():
            assert torch.equal(begun[anew].transform.state_dict()[name], tensor)
    contexts = [core.context.networks["intra"][0].hidden[0].weight for core in (begun[True], begun[False])]
    known = old.codec.core.context.networks["intra"][0].hidden[0].weight
    assert [torch.equal(one, known) for one in contexts] == [False, True]


@pytest.mark.parametrize("prior", ["factorised", "hyperprior"])
def test_a_codec_with_another_prior_and_the_same_context_learns(tmp_path, patches, tiny_network, prior):
    part = Part(network=str(tiny_network), lambda_=300.0)
    recipe = CodecRecipe(
        data="patches", parts=(part,), scales=(0.3, 1.0), qualities=(0, 100), steps=40, batch=24, learning_rate=3e-3,
        prior=prior, context="slices", context_hidden=(8,),
    )  # fmt: skip
    train_codec(recipe, patches[:1], patches[1:], tmp_path / "run", resume=False)
    curve = [json.loads(line) for line in (tmp_path / "run/curve.jsonl").read_text().splitlines()]
    assert curve[-1]["bytes"] < 0.95 * curve[0]["bytes"]
    assert load_run(tmp_path / "run")[0].codec.core.context.trained("intra")


@pytest.mark.parametrize("prior", PRIORS)
def test_the_rate_falls_in_training_and_a_bundle_is_refused(tmp_path, patches, tiny_network, prior):
    part = Part(network=str(tiny_network), lambda_=300.0)
    levels = {"scales": (0.3, 1.0), "qualities": (0, 100)}
    chosen = CodecRecipe(
        data="patches", parts=(part,), steps=60, batch=24, learning_rate=3e-3, prior=prior, **levels
    )
    out, kept = tmp_path / "run", tmp_path / "kept"
    figures = train_codec(chosen, patches[:1], patches[1:], out, resume=False, features=kept)
    curve = [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]
    assert curve[-1]["bytes"] < 0.95 * curve[0]["bytes"]
    assert (figures.value("bytes_v", quality=100) == 0) == (prior == "factorised")
    assert (kept / "classification" / "about.json").is_file()
    assert not (out / "features").exists()
    model, recipe, _ = load_run(out)
    assert (type(model.codec.core), recipe.prior) == (CODECS[prior], prior)
    with pytest.raises(DataError, match=f"the prior {prior}, for comparison only"):
        build(out, tmp_path / "bundle", "x", patches[1])
    assert not (tmp_path / "bundle").exists()


def test_without_compressai_one_line_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "train.codec.compressai_priors", raising=False)
    monkeypatch.setitem(sys.modules, "compressai.entropy_models", None)
    with pytest.raises(DataError, match=r"^a compressai prior needs compressai .*isthmus\[peers\]'$"):
        codec_of("compressai-hyperprior")


def test_a_run_waits_while_another_computes_the_same_features(tmp_path: Path, patches):
    folder = tmp_path / "kept"
    folder.mkdir()
    made = threading.Event()

    def compute(indices, flip):
        made.set()
        return np.zeros((len(indices), 1), np.float16)

    def keep() -> None:
        cached_features(folder, compute, patches[1], {"of": "one"}, False)

    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = threading.Thread(target=keep)
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        assert not made.is_set()
    waiting.join(30)
    assert made.is_set()
    assert (folder / "00000.npy").is_file()
