"""The networks of the edge as they are exported: image to u, and u to the integers v and z."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from train.codec.split_networks import SplitNetworks, as_map

# v and z beyond this are clamped by extractor.onnx, so that whatever the network does fits int32 on every runtime.
Z_REACH = 30_000


class EdgeHalf(nn.Module):
    """x (B, 3, H, W) -> u (B, N, h, w), which is z before gain and rounding.

    Layers that several fronts begin with are shared here, and computed once.
    """

    def __init__(self, model: SplitNetworks) -> None:
        super().__init__()
        self.layers, self.ways = nn.ModuleList(), list[tuple[int, ...]]()
        for front in model.fronts:
            self.ways.append(self._way(list(front) if isinstance(front, nn.Sequential) else [front]))
        self.fusion, self.transform = model.codec.fusion, model.codec.core.transform

    def _way(self, front: list[nn.Module]) -> tuple[int, ...]:
        """The indices of the front's layers; layers that no earlier front has are added."""
        way: tuple[int, ...] = ()
        for layer in front:
            nexts = {
                other[len(way)] for other in self.ways if other[: len(way)] == way and len(other) > len(way)
            }
            known = [i for i in nexts if _alike(self.layers[i], layer)]
            if not known:
                self.layers.append(layer)
            way += (known[0] if known else len(self.layers) - 1,)
        return way

    def forward(self, x: Tensor) -> Tensor:
        known: dict[tuple[int, ...], Tensor] = {(): x}  # by the layers that lead there
        for way in self.ways:
            for i in range(len(way)):
                if way[: i + 1] not in known:
                    known[way[: i + 1]] = self.layers[way[i]](known[way[:i]])
        u: Tensor = self.transform(self.fusion([as_map(known[way]) for way in self.ways]))
        return u


def _alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two layers compute the same, with the same weights."""
    own, its = one.state_dict(), other.state_dict()
    return (
        str(one) == str(other) and own.keys() == its.keys() and all(own[key].equal(its[key]) for key in own)
    )


class ExtractorHalf(nn.Module):
    """What extractor.onnx holds: u (B, N, h, w) and more -> v (B, V) and z (B, N, h, w), int32.

    position (B,): of the level. reference (B, N, h, w): the latent of another frame. hold (B,): an element keeps the
    reference's integer while u times its gain is within `hold` of it, and is rounded otherwise; below 0 none keeps it.
    """

    def __init__(self, model: SplitNetworks) -> None:
        super().__init__()
        self.core = model.codec.core

    def forward(self, u: Tensor, position: Tensor, reference: Tensor, hold: Tensor) -> tuple[Tensor, Tensor]:
        s = self.core.z_of(u, position)
        z = torch.where((s - reference).abs() <= hold[:, None, None, None], reference, s.round())
        z = z.clamp(-Z_REACH, Z_REACH)
        v = self.core.extractor(z).round().clamp(-Z_REACH, Z_REACH)
        return v.to(torch.int32), z.to(torch.int32)
