"""Weights that 16 bits hold exactly are stored in 16 bits, or in 8 with a scale, and nothing else changes."""

from __future__ import annotations

import numpy as np
import onnxruntime
import torch
from safetensors.torch import load
from torch import nn

from train.bundle.export import export, round_to_eight_bits, round_to_half, save_tensors


def test_only_exact_weights_are_halved_and_answers_stay() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(8, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3)).eval()
    x = torch.randn(2, 8, 9, 9)
    whole = export(network, {"y": x}, ["out"])
    with torch.no_grad():
        network[0].weight.copy_(network[0].weight.half().float())
        wanted = network(x).numpy()
    part = export(network, {"y": x}, ["out"])
    assert (
        len(whole) - len(part) > network[0].weight.numel() * 2 - 500
    )  # of two bytes each, and a cast's name
    assert len(part) > network[2].weight.numel() * 4
    session = onnxruntime.InferenceSession(part, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"y": x.numpy()})
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_rounded_weights_come_back_from_16_bits() -> None:
    torch.manual_seed(0)
    network = nn.Linear(64, 64)
    whole = save_tensors(network.state_dict())
    round_to_half(network)
    half = save_tensors(network.state_dict())
    assert len(whole) - len(half) == network.weight.numel() * 2  # the bias is too short to be worth it
    again = nn.Linear(64, 64)
    again.load_state_dict(load(half))
    assert again.weight.dtype == torch.float32
    assert torch.equal(again.weight, network.weight)
    assert torch.equal(again.bias, network.bias)


def test_weights_of_8_bits_are_stored_so_and_answers_stay() -> None:
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(8, 32, 3), nn.Conv2d(32, 32, 3, groups=32), nn.Flatten(), nn.Linear(800, 20)
    ).eval()
    with torch.no_grad():
        network[0].weight[3] = 0
    x = torch.randn(2, 8, 9, 9)
    whole, plain = export(network, {"y": x}, ["out"]), network(x).detach()
    round_to_eight_bits(network)
    wanted = network(x).detach()
    assert 0 < float((wanted - plain).abs().max()) < 0.05 * float(plain.abs().max())
    assert not network[0].weight[3].any()
    part = export(network, {"y": x}, ["out"])
    saved = sum(layer.weight.numel() for layer in (network[0], network[1], network[3])) * 3
    assert saved - 2_000 < len(whole) - len(part) < saved  # scales, and names of nodes
    session = onnxruntime.InferenceSession(part, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"y": x.numpy()})
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-4)
