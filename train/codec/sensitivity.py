"""How much the answers of tails change with their features: the metric in which a codec should be exact.

    F = E[g g^T],   g = d log p(a | y) / d y,   a drawn from p(a | y)

is the Fisher information of the answers about a feature. Where a feature errs by e, the divergence of the answers grows
by e^T F e / 2 nats, to second order (Kullback, 1959, "Information Theory and Statistics"), and F needs no label.
`train.codec.linear_start` makes a transform of it.

Legend: B images, C feature channels, H' x W' its cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shared.errors import DataError
from shared.kinds import KINDS
from train.codec.split_networks import Head
from train.kinds import TRAINING_KINDS

BATCH = 8  # images whose gradients are computed at once


def answer_gradients(head: Head, y: Tensor) -> Tensor:
    """g of features y (B, C, H', W'), one draw an image, float32 of the same shape.

    A map's divergence is a mean over its values, each drawn by itself, hence the root of their number.

    Raises DataError for a kind whose answers are no classes.
    """
    if not TRAINING_KINDS[head.kind].softmax:
        known = " and ".join(kind for kind, its in TRAINING_KINDS.items() if its.softmax)
        raise DataError(f"start answers is for {known}, not for {head.kind}; use power", setting="start")
    found = []
    for piece in torch.split(y, BATCH):
        given = piece.detach().float().requires_grad_(True)
        with torch.enable_grad():
            logits = head(given, light=KINDS[head.kind].mapped).float().movedim(1, -1)
            drawn = _drawn(logits.detach())
            likelihood = logits.log_softmax(-1).gather(-1, drawn[..., None])
            values = max(1, drawn[0].numel())
            (g,) = torch.autograd.grad(likelihood.sum() / values**0.5, given)
        found.append(g.detach())
    return torch.cat(found)


def _drawn(logits: Tensor) -> Tensor:
    """A class for each vector of logits (..., K), by their probabilities."""
    noise = -torch.empty_like(logits).exponential_().log()  # Gumbel's
    return (logits + noise).argmax(-1)
