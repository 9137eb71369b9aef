"""The context's networks for training; `shared.codec.context` runs their integers.

Legend: B images, n channels of z, h x w latent grid, P cells of a pass, K inputs of its network, M = B * P columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.codec.context import (
    CHANGE_REACH,
    KINDS,
    Z_REACH,
    Cells,
    Kind,
    Pass,
    Passes,
    cells_of,
    rows_to_images,
)

SCALE_MIN = 0.08  # of a channel, which starts no smaller


def _join(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts))


def _padded(planes: Tensor) -> Tensor:
    """(B, n, h, w) with a border of one zero cell, (B, n, (h + 2) * (w + 2))."""
    return F.pad(planes, (1, 1, 1, 1)).flatten(2)


class PassNetwork(nn.Module):
    """One pass's network: inputs x (K, M) -> mean and log scale, (C, M) each.

    Hidden layers with ReLU, and linear shortcuts from the inputs to both outputs. Inputs are divided by their
    deviation, which `measure` takes from real ones.
    """

    deviation: Tensor

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int) -> None:
        super().__init__()
        sizes = (inputs, *hidden)
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        last = inputs + (hidden[-1] if hidden else 0)
        self.mean, self.log_scale = nn.Linear(last, outputs), nn.Linear(last, outputs)
        self.register_buffer("deviation", torch.ones(inputs))
        for out in (self.mean, self.log_scale):
            nn.init.zeros_(out.weight)
            nn.init.zeros_(out.bias)

    @torch.no_grad()
    def measure(self, x: Tensor) -> None:
        self.deviation.copy_(x.float().std(1).clamp(min=0.05))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        own = y = (x / self.deviation[:, None]).T
        for layer in self.hidden:
            y = F.relu(layer(y))
        both = torch.cat([y, own], 1) if len(self.hidden) else own
        return self.mean(both).T, self.log_scale(both).T


class Latents(NamedTuple):
    """What the networks see. z: (B, n, h, w) whole numbers. maps: (B, n, h, w). reference: like z, or None."""

    z: Tensor
    maps: Tensor
    reference: Tensor | None = None


class ContextNetworks(nn.Module):
    """The networks of all passes, of both kinds.

    slices: (n,) the slice of each channel. hidden: widths of the hidden layers.
    measured: whether the inputs' deviations of the kind intra are real ones.
    """

    slices: Tensor
    measured: Tensor

    def __init__(
        self, slices: NDArray[np.int64], hidden: Sequence[int], kinds: Sequence[Kind] = KINDS
    ) -> None:
        super().__init__()
        self.register_buffer("slices", torch.from_numpy(np.asarray(slices, np.int64)))
        self.register_buffer("measured", torch.tensor(False))
        self._passes: Passes | None = None
        passes = Passes(np.asarray(slices))
        self.networks = nn.ModuleDict(
            {
                kind: nn.ModuleList(
                    PassNetwork(len(passes.reaches(kind, one, 1)), hidden, len(one.own)) for one in passes.all
                )
                for kind in kinds
            }
        )
        self.start(self.slices)

    def trained(self, kind: Kind) -> bool:
        """Whether networks of this kind have learned: at the start scales depend on nothing."""
        return any(bool(network.log_scale.weight.any()) for network in self.of_kind(kind))

    @property
    def passes(self) -> Passes:
        slices = self.slices.cpu().numpy()
        if self._passes is None or not np.array_equal(self._passes.slices, slices):
            self._passes = Passes(slices.copy())  # the tensor's own memory would change under it
        return self._passes

    @torch.no_grad()
    def start(self, slices: Tensor) -> None:
        """Divides the channels anew, into slices of the same sizes. Each mean starts as the maps themselves."""
        self.slices.copy_(slices)
        for one, network in zip(self.passes.all, self.of_kind("intra"), strict=True):
            first = network.mean.weight.shape[1] - len(network.deviation)
            network.mean.weight.zero_()
            network.mean.weight[np.arange(len(one.own)), first + one.own] = 1.0

    def of_kind(self, kind: Kind) -> list[PassNetwork]:
        return cast(list[PassNetwork], list(cast(nn.ModuleList, self.networks[kind])))

    def inputs(self, which: Pass, latents: Latents) -> tuple[Cells, Tensor]:
        """The cells of a pass, and its network's inputs (K, M)."""
        images, n, h, w = latents.z.shape
        cells = cells_of(h, w, which.half)
        maps = latents.maps.reshape(images, n, h * w)
        if latents.reference is None:
            seen = _padded(latents.z.clip(-Z_REACH, Z_REACH))
            return cells, self.passes.intra_inputs(which, cells, maps, seen, _join)
        reference = latents.reference
        change = (latents.z - reference).clip(-CHANGE_REACH, CHANGE_REACH)
        seen = _padded(change)
        activity = self.passes.activity(which, h, w, seen)
        known = reference.clip(-Z_REACH, Z_REACH).reshape(images, n, h * w)
        return cells, self.passes.inter_inputs(which, cells, maps, known, seen, activity, _join)

    @torch.no_grad()
    def measure_scales(self, z: Tensor) -> None:
        """Starts each channel's scale, where the kind intra has no other information, at that of latents z."""
        log_scale = z.square().mean((0, 2, 3)).clamp(min=SCALE_MIN**2).log() / 2
        for one, network in zip(self.passes.all, self.of_kind("intra"), strict=True):
            network.log_scale.bias.copy_(log_scale[torch.from_numpy(one.own).to(z.device)])

    @torch.no_grad()
    def measure(self, latents: Latents) -> None:
        """Takes the inputs' deviations from real latents; what the networks compute stays the same."""
        kind: Kind = "intra" if latents.reference is None else "inter"
        for one, network in zip(self.passes.all, self.of_kind(kind), strict=True):
            old = network.deviation.clone()
            network.measure(self.inputs(one, latents)[1])
            ratio = network.deviation / old
            for layer in (network.mean, network.log_scale):
                layer.weight[:, -len(ratio) :] *= ratio
            if len(network.hidden):
                cast(nn.Linear, network.hidden[0]).weight.mul_(ratio)

    def forward(self, latents: Latents) -> tuple[Tensor, Tensor]:
        """Mean (of z minus the reference, where there is one) and log scale of every element, (B, n, h, w) each."""
        images, n, h, w = latents.z.shape
        kind: Kind = "intra" if latents.reference is None else "inter"
        mean = latents.z.new_zeros(images, n, h * w)
        log_scale = torch.zeros_like(mean)
        for one, network in zip(self.passes.all, self.of_kind(kind), strict=True):
            cells, x = self.inputs(one, latents)
            grid = np.ix_(np.arange(images), one.own, cells.at)
            own = tuple(torch.from_numpy(part).to(x.device) for part in grid)
            m, s = (rows_to_images(y, images) for y in network(x))
            mean = mean.index_put(own, m)
            log_scale = log_scale.index_put(own, s)
        shape = (images, n, h, w)
        return mean.reshape(shape), log_scale.reshape(shape)


def slices_by_energy(energy: Tensor, sizes: Sequence[int]) -> NDArray[np.int64]:
    """The slice of each channel: the `sizes[0]` of the most energy first. energy: (n,). Raises ValueError."""
    if sum(sizes) != len(energy):
        raise ValueError(f"slices of {list(sizes)} channels for {len(energy)} channels")
    order = torch.argsort(energy, descending=True).cpu().numpy()
    slices = np.empty(len(energy), np.int64)
    slices[order] = np.repeat(np.arange(len(sizes)), sizes)
    return slices


def parts_of(sizes: Sequence[int]) -> NDArray[np.int64]:
    """Slices of these sizes in the channels' own order, (n,)."""
    return np.repeat(np.arange(len(sizes)), sizes)


def heavy_tailed_bits(x: Tensor, log_scale: Tensor) -> Tensor:
    """-log2 of the mass of Student's t with 4 degrees of freedom on [x - 1/2, x + 1/2]; x is relative to the mean."""
    away, inverse = x.abs(), torch.exp(-log_scale)
    mass = upper_tail((away - 0.5) * inverse) - upper_tail((away + 0.5) * inverse)
    return -torch.log2(mass.clamp(min=1e-12))


def upper_tail(t: Tensor) -> Tensor:
    """P(T > t) of Student's t with 4 degrees of freedom, exact far out as well.

    With r = t / sqrt(4 + t^2) it is q^2 (3 - q) / 4 for q = 1 - r, and 1 - r = 4 / (s (s + t)) for s = sqrt(4 + t^2).
    """
    s = torch.sqrt(4 + t * t)
    q = torch.where(t > 0, 4 / (s * (s + t.clamp(min=0))), 1 - t / s)
    return q * q * (3 - q) / 4
