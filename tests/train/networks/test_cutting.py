"""Any network is cut wherever one tensor crosses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shared.errors import DataError
from support.strangers import SIDE, make_stranger, make_torchvision
from train.networks.cutting import Traced


def whole(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    out = network(x.clone())
    return out["out"] if isinstance(out, dict) else out


@torch.no_grad()
def assert_cuts(network: nn.Module, every: int = 1, side: int = SIDE) -> Traced:
    """At every clean layer front and tail are the network, for a number of pictures that it was not traced with."""
    x = torch.randn(5, 3, side, side)
    wanted, traced = whole(network, x), Traced(network, side, side)
    clean = [layer for layer in traced.layers if not layer.refused]
    for layer in [*clean[::every], clean[-1]]:
        front, tail = traced.cut(layer.number)
        y = front(x.clone())
        kept = y.clone()
        assert torch.equal(tail(y), wanted), layer
        assert torch.equal(y, kept), f"the tail overwrites its feature at {layer}"
        assert tuple(y.shape[1:]) == layer.shape
    assert torch.equal(whole(network, x), wanted), "the network itself stays as it was"
    return traced


def test_a_branched_network_is_cut_wherever_one_tensor_crosses() -> None:
    traced = assert_cuts(make_stranger("branched"))
    layers = {layer.name: layer for layer in traced.layers}
    assert [layer.name for layer in traced.layers if not layer.refused][:3] == ["input", "a", "act"]
    assert layers["b"].crossing == ("act", "b")
    with pytest.raises(DataError, match="cannot be cut at b: 2 tensors cross there: act, b"):
        traced.cut("b")
    assert "neither a map" in layers["view"].refused
    front, tail = traced.cut("input")
    assert len(list(front.children())) == 0
    assert not list(traced.cut("output")[1].parameters())
    assert sum(p.numel() for p in tail.parameters()) == traced.layers[-1].parameters


def test_layers_are_named_by_number_or_name() -> None:
    traced = Traced(make_stranger("branched"), SIDE, SIDE)
    assert traced.layer(1) == traced.layer("1") == traced.layer("a")
    assert traced.layer("input").number == 0
    assert traced.layer("output") == traced.layers[-1]
    for wrong in (99, "nope", ""):
        with pytest.raises(DataError, match=r"has no layer .* it has 0\.\.\d+, from input to head"):
            traced.layer(wrong)
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(5, 6, 1))
    assert Traced(plain, 8, 8).layer("1").shape == (4, 8, 8), "a number is a number, not the layer named 1"


@pytest.mark.parametrize("name", ["squeezenet1_1", "resnet18", "mobilenet_v3_small"])
def test_torchvisions_networks_are_cut_exactly(name: str) -> None:
    traced = assert_cuts(make_torchvision(name), every=5)
    assert len([layer for layer in traced.layers if not layer.refused]) > 20


def test_the_layers_are_counted_as_torchvision_counts_them() -> None:
    layers = Traced(make_torchvision("resnet18"), 224, 224).layers
    assert layers[-1].parameters == 11_689_512
    assert layers[-1].multiply_adds / 1e6 == pytest.approx(1814, abs=1)
    named = {layer.name: layer for layer in layers}
    assert named["layer3.1.relu_1"].shape == (256, 14, 14)
    assert named["layer3.1.relu_1"].refused == ""
    assert named["layer3.1.conv1"].crossing == ("layer3.0.relu_1", "layer3.1.conv1")
    parts = (named["conv1"].parameters, named["conv1"].multiply_adds)
    assert parts == (64 * 3 * 49, 64 * 3 * 49 * 112 * 112)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Choosing", "torch.fx cannot trace Choosing"),
        ("Assigning", "torch.fx cannot trace Assigning.*item assignment"),
        ("Overwriting", "computes something else than the network"),
        ("Two", "returns several values"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_a_line(name: str, told: str) -> None:
    with pytest.raises(DataError, match=told) as caught:
        Traced(make_stranger(name), SIDE, SIDE)
    assert "\n" not in str(caught.value)


def test_pictures_of_the_wrong_size_are_named() -> None:
    with pytest.raises(DataError, match="cannot take images of 8 x 8"):
        Traced(make_torchvision("squeezenet1_1"), 8, 8)
