"""How far a task's answer is from what it should be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from train.codec.distortion import crop_for, distortion
from train.codec.split_networks import Head


def one_hot(classes: torch.Tensor, count: int) -> torch.Tensor:
    """Features (B, K, h, w) of classes (B, h, w), so large that nothing is left to lose."""
    return 40 * nn.functional.one_hot(classes, count).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize("pixels", [2, 4])
@pytest.mark.parametrize("crop", [None, 3, 8])
def test_a_piece_of_a_map_is_held_against_its_own_labels(pixels, crop):
    """A tail that doubles its map at the end, of which a piece is cut before; `pixels` of the labels to a cell."""
    classes = torch.randint(5, (4, 8, 8), generator=torch.Generator().manual_seed(0))
    truth = classes.numpy().repeat(pixels, 1).repeat(pixels, 2).astype(np.uint8)
    tail = nn.Sequential(
        nn.Upsample(scale_factor=pixels // 2, mode="nearest"), nn.Upsample(scale_factor=2, mode="nearest")
    )
    head = Head(tail, "segmentation", (5, 8, 8))
    y = one_hot(classes, 5)
    for _ in range(8):
        assert float(distortion("task", head, head, y, y, truth, crop).max()) < 1e-6
        assert float(distortion("task", head, head, y.flip(3), y, truth, crop).min()) > 1


def test_a_hint_is_added_to_either():
    torch.manual_seed(0)
    head = Head(nn.Upsample(scale_factor=2, mode="bilinear"), "segmentation", (5, 8, 8))
    y, made = torch.randn(4, 5, 8, 8), torch.randn(4, 5, 8, 8)
    truth = torch.randint(5, (4, 16, 16)).numpy().astype(np.uint8)

    def d(kind: str) -> torch.Tensor:
        return distortion(kind, head, head, made, y, truth, None)

    assert torch.allclose(d("task-hint"), d("task") + d("feature"))
    assert torch.allclose(d("distill-hint"), d("distill") + d("feature"))
    assert not torch.allclose(d("task"), d("distill"))


def test_a_tail_that_makes_maps_of_one_size_is_held_against_all_labels():
    classes = torch.randint(5, (4, 8, 8), generator=torch.Generator().manual_seed(0))
    truth = classes.numpy().repeat(2, 1).repeat(2, 2).astype(np.uint8)
    head = Head(nn.Sequential(nn.Upsample((16, 16)), nn.Identity()), "segmentation", (5, 8, 8))
    y = one_hot(classes, 5)
    assert float(distortion("task", head, head, y, y, truth, 3).max()) < 1e-6


class Inner(nn.Module):
    """Enlarges its map to `size` inside, and to 32 x 32 from 8 x 8 in any case."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, y):
        if self.size is not None:
            y = nn.functional.interpolate(y, size=self.size)
        return nn.functional.interpolate(y, scale_factor=32 // (8 if self.size is None else self.size[0]))


def test_a_tail_that_fixes_a_map_inside_is_given_whole_maps():
    assert crop_for(Head(Inner(None), "segmentation", (3, 8, 8)), 4) == 4
    assert crop_for(Head(Inner((16, 16)), "segmentation", (3, 8, 8)), 4) is None
    assert crop_for(Head(Inner((16, 16)), "segmentation", (3, 8, 8)), None) is None
