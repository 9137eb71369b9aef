"""The start of a codec in the metric of its tails' answers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cloud.networks.sizes import PRESETS
from shared.errors import DataError
from train.codec.distortion import distortion
from train.codec.feature_codec import JointCodec
from train.codec.linear_start import blocks_of, linear_start
from train.codec.sensitivity import answer_gradients
from train.codec.split_networks import Head


class Reads(nn.Module):
    """A tail that reads the first channel alone; its last lies in no answer."""

    def __init__(self, mapped: bool) -> None:
        super().__init__()
        self.mapped = mapped
        self.weight = nn.Parameter(torch.tensor([[2.0], [-1.0], [0.5]]))

    def forward(self, y: Tensor) -> Tensor:
        out = torch.einsum("kc,bchw->bkhw", self.weight, y[:, :1])
        return out if self.mapped else out.mean((2, 3))


def head_of(kind: str) -> Head:
    head = Head(Reads(kind == "segmentation"), kind, (4, 8, 8))  # type: ignore[arg-type]
    return head.requires_grad_(False)


def features(count: int = 64) -> Tensor:
    torch.manual_seed(0)
    scale = torch.tensor([0.5, 1.0, 1.0, 2.0])[:, None, None]
    return torch.randn(count, 4, 8, 8) * scale


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_gradients_give_the_divergence_of_small_errors(kind: str) -> None:
    """E[(g e)^2] / 2, over draws of one feature, is how far the answers move."""
    head, one = head_of(kind), features(1)
    error = 0.05 * torch.randn(one.shape)
    torch.manual_seed(1)
    g = answer_gradients(head, one.expand(2000, -1, -1, -1))
    found = (g * error).sum((1, 2, 3)).square().mean() / 2
    given = distortion("distill", head, head, one + error, one, None, None)
    assert float(found) == pytest.approx(float(given), rel=0.2)


def test_a_kind_without_classes_is_refused():
    with pytest.raises(DataError, match="normals") as error:
        answer_gradients(head_of("normals"), features(2))
    assert error.value.setting == "start"


def test_what_no_answer_depends_on_comes_last_and_nothing_is_lost():
    y, head = features(), head_of("segmentation")
    cells, g = blocks_of(y, 2), blocks_of(answer_gradients(head, y), 2)
    analysis, synthesis = linear_start(cells, g, [16])
    torch.testing.assert_close(synthesis @ analysis @ cells, cells, atol=1e-3, rtol=1e-3)
    # Four elements hold the four cells of the only channel that is read; it varies least.
    assert missed(cells[:4], (analysis @ cells)[:4]) < 0.02
    assert missed(cells[:4], (linear_start(cells)[0] @ cells)[:4]) > 0.9


def missed(wanted: Tensor, given: Tensor) -> float:
    """The share of the power of `wanted` (K, M) that no linear function of `given` (L, M) explains."""
    weights = torch.linalg.lstsq(given.T, wanted.T).solution
    return float((wanted.T - given.T @ weights).square().sum() / wanted.square().sum())


def test_a_weight_of_four_times_as_many_bits_halves_the_step():
    y, head = features(), head_of("classification")
    cells, g = blocks_of(y, 2), blocks_of(answer_gradients(head, y), 2)
    once, more = (linear_start(cells, factor * g, [16])[0] @ cells for factor in (1, 2))
    torch.testing.assert_close(more.abs(), 2 * once.abs(), atol=1e-3, rtol=1e-3)


def test_joined_features_come_back_as_they_were():
    torch.manual_seed(0)
    shapes = [(4, 16, 16), (4, 16, 16)]
    config = PRESETS["blocks"].model_copy(update={"scaled": True})
    codec = JointCodec(shapes, config).eval()
    ys = [3 + 2 * torch.randn(16, *shape) for shape in shapes]
    codec.measure(ys, [torch.randn(16, *shape) for shape in shapes])
    for part in (codec.core.transform.layers, codec.core.reconstruction.layers):
        part.weaken_chain(0.0)
        for layer in part.modules():
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                layer.bias.data.zero_()
    y_hat = codec.core.reconstruction(codec.core.transform(codec.fusion(ys)), codec.grid)
    for k, y in enumerate(ys):
        torch.testing.assert_close(codec.separation(y_hat, k), y, atol=2e-3, rtol=2e-3)
