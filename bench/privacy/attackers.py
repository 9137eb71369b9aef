"""Attackers that learn to draw the image from a latent, by pairs of both. They know no codec and no network.

Such pairs are what anyone has who owns a camera of the same kind, or whose bundle it is.

Legend: M images, N channels and h x w cells of the latent, S the side of the drawn image in pixels, a multiple of both
h and w. Images are float32 in 0..1.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional

RIDGES = (1e-4, 1e-2, 1.0)  # relative to the mean variance of a feature
BATCH = 16
LEARNING_RATE = 1e-3
WIDTH = 96


class Attacker(Protocol):
    """Draws images from latents."""

    name: str

    def fit(self, latents: Tensor, images: Tensor) -> None:
        """Learns from pairs: latents (M, N, h, w), images (M, 3, S, S)."""

    def draw(self, latents: Tensor) -> Tensor:
        """(M, N, h, w) -> (M, 3, S, S) in 0..1."""


class MeanAttacker:
    """Always draws the mean of the images that it knows: what is gained without any bytes."""

    name = "mean"

    def fit(self, latents: Tensor, images: Tensor) -> None:
        self._mean = images.mean(0)

    def draw(self, latents: Tensor) -> Tensor:
        return self._mean.expand(len(latents), -1, -1, -1)


class LinearAttacker:
    """Ridge regression from a cell and its eight neighbours to the cell's pixels, one matrix for all cells.

    What varies by place alone is taken off both sides first. A tenth of the pairs chooses the strength of the ridge.
    """

    name = "linear"

    def fit(self, latents: Tensor, images: Tensor) -> None:
        self._block = images.shape[-1] // latents.shape[-1]
        self._side = images.shape[-1]
        cells, pixels = _cells(latents), functional.unfold(images, self._block, stride=self._block)
        self._cell_mean, self._pixel_mean = cells.mean(0), pixels.mean(0)
        held = max(1, len(latents) // 10)
        x, y = self._rows(cells - self._cell_mean), self._rows(pixels - self._pixel_mean)
        split = held * cells.shape[-1]
        gram, cross = x[split:].T @ x[split:], x[split:].T @ y[split:]
        scale = gram.diagonal().mean().clamp(min=1e-12)
        eye = torch.eye(len(gram), dtype=gram.dtype)
        found = [torch.linalg.solve(gram + ridge * scale * eye, cross) for ridge in RIDGES]
        errors = [float((x[:split] @ one - y[:split]).square().mean()) for one in found]
        self._matrix = found[errors.index(min(errors))]

    def draw(self, latents: Tensor) -> Tensor:
        cells = (_cells(latents) - self._cell_mean).transpose(1, 2).double()
        pixels = (cells @ self._matrix).float().transpose(1, 2) + self._pixel_mean
        return functional.fold(pixels, self._side, self._block, stride=self._block).clamp(0, 1)

    @staticmethod
    def _rows(x: Tensor) -> Tensor:
        """(M, F, cells) -> (M * cells, F), in double precision."""
        return x.transpose(1, 2).reshape(-1, x.shape[1]).double()


class ConvolutionalAttacker:
    """A small network of 3 x 3 convolutions that doubles the side until it has S, trained on the squared error."""

    name = "convolutional"

    def __init__(self, steps: int, seed: int = 0) -> None:
        self._steps, self._seed = steps, seed

    def fit(self, latents: Tensor, images: Tensor) -> None:
        torch.manual_seed(self._seed)
        self._mean, self._scale = images.mean(0), latents.std().clamp(min=1e-6)
        doublings = round(math.log2(images.shape[-1] / latents.shape[-1]))
        self._network = _drawing_network(latents.shape[1], doublings)
        optimiser = torch.optim.Adam(self._network.parameters(), LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, self._steps)
        chosen = torch.Generator().manual_seed(self._seed)
        for _ in track(range(self._steps), "convolutional attacker"):
            batch = torch.randint(len(latents), (BATCH,), generator=chosen)
            loss = (self._drawn(latents[batch]) - images[batch]).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()

    @torch.no_grad()
    def draw(self, latents: Tensor) -> Tensor:
        return torch.cat([self._drawn(part) for part in latents.split(BATCH)]).clamp(0, 1)

    def _drawn(self, latents: Tensor) -> Tensor:
        drawn: Tensor = self._network(latents / self._scale) + self._mean
        return drawn


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(functional.relu(x))


def _drawing_network(channels: int, doublings: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(channels, WIDTH, 3, padding=1), _Residual(WIDTH), _Residual(WIDTH)]
    width = WIDTH
    for _ in range(doublings):
        narrower = max(24, width * 2 // 3)
        layers += [
            nn.ReLU(),
            nn.Conv2d(width, 4 * narrower, 3, padding=1),
            nn.PixelShuffle(2),
            _Residual(narrower),
        ]
        width = narrower
    return nn.Sequential(*layers, nn.Conv2d(width, 3, 3, padding=1))


def _cells(latents: Tensor) -> Tensor:
    """(M, N, h, w) -> (M, N * 9, h * w): each cell with its neighbours, zeros beyond the edge."""
    return functional.unfold(latents, 3, padding=1)
