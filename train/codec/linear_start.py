"""The linear transform that a codec begins with: Karhunen and Loeve's, of features or in the metric of their answers.

Power in the metric F (`train.codec.sensitivity`) is what the answers depend on. With A = F^(1/2) the transform of A y
is orthogonal, so that an error of one step costs the same divergence in each element of z, and elements that no tail
reads stay zero.

Legend: D values of the features that one cell of z stands for, M cells of a sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

RIDGE = 0.01  # share of the mean sensitivity that every direction has at least
# The step of z in which a nat weighs one bit. Fine uniform quantisation would take 12 (an error of step^2 / 12, and two
# derivatives that agree); where most elements are zero, half of it was better.
STEP = 6 / math.log(2)


def linear_start(y: Tensor, g: Tensor | None = None, sizes: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
    """Analysis (D, D), most power first, and synthesis (D, D), its inverse, of cells y (D, M).

    g: (D, M'), gradients of the answers' log-likelihood times the root of their weights in bits; None: F = 1.
    sizes: those of the parts, D in all, whose gradients have nothing in common but by chance.
    """
    power = y @ y.T / y.shape[1]
    if g is None:
        components = torch.linalg.eigh(power).eigenvectors.flip(1).T
        return components, components.T
    root, inverse = _roots(_metric(g, sizes))
    components = torch.linalg.eigh(root @ power @ root).eigenvectors.flip(1).T
    step = STEP**0.5
    return components @ root / step, inverse @ components.T * step


def blocks_of(y: Tensor, block: int) -> Tensor:
    """Squares of cells of y (B, C, H', W') as columns (C * block * block, M), image by image; a rest is left out."""
    whole = y[:, :, : y.shape[2] // block * block, : y.shape[3] // block * block]
    return F.pixel_unshuffle(whole, block).transpose(0, 1).flatten(1)


def _metric(g: Tensor, sizes: Sequence[int]) -> Tensor:
    """F (D, D) of gradients g (D, M) of parts of these sizes, D in all."""
    metric, end = torch.zeros(len(g), len(g), device=g.device), 0
    for size in sizes:
        own = slice(end, end := end + size)
        metric[own, own] = g[own] @ g[own].T / g.shape[1]
        metric.diagonal()[own] += RIDGE * metric.diagonal()[own].mean().clamp(min=1e-20)
    return metric


def _roots(metric: Tensor) -> tuple[Tensor, Tensor]:
    """The symmetric root of a metric, and its inverse."""
    values, vectors = torch.linalg.eigh(metric)
    values = values.clamp(min=1e-9 * float(values[-1]))
    return vectors * values.sqrt() @ vectors.T, vectors * values.rsqrt() @ vectors.T
