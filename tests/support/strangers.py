"""Networks as a user might bring them: `support.strangers:FACTORY`."""

from __future__ import annotations

import torch
from torch import nn


class Branched(nn.Module):
    """Two branches, a shortcut, steps in place, and the number of pictures read before the first layer."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, 2, 1)
        self.b = nn.Conv2d(8, 8, 3, 1, 1)
        self.c = nn.Conv2d(8, 8, 1)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        n, _, h, w = x.shape
        y = self.a(x)
        z = self.b(self.act(y))
        z += self.c(y)
        z = z + y
        z.relu_()
        return self.head(z.view(n, 8, (h // 2) * (w // 2)).mean(-1))


class Choosing(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Assigning(nn.Module):
    def forward(self, x):
        y = x * 2
        y[:, 0] = 0
        return y


class Overwriting(nn.Module):
    def forward(self, x):
        y = x * 2
        y.view(-1).fill_(1)
        return y


class Two(nn.Module):
    def forward(self, x):
        return x, x * 2


class Unknown(nn.Module):
    """Holds an operator that ONNX has not, in its first or its last part."""

    def __init__(self, first):
        super().__init__()
        self.first, self.a, self.b = first, nn.Conv2d(3, 4, 3, 8, 1), nn.Linear(4, 3)

    def forward(self, x):
        y = self.a(x)
        if self.first:
            y = y * torch.linalg.svdvals(y).mean()
        y = torch.relu(y)
        y = y.mean((2, 3)) if self.first else torch.linalg.svdvals(y).mean(-1) + y.mean((2, 3))
        return self.b(y)


def branched():
    torch.manual_seed(0)
    return Branched()


def first():
    return Unknown(True)


def last():
    return Unknown(False)


def broken():
    raise KeyError("x")


def number():
    return 3


SIDE = 64  # pixels of their images, high and wide
BRANCHED = {"network": "support.strangers:branched", "size": f"{SIDE}x{SIDE}"}


def make_stranger(name: str) -> nn.Module:
    """One of the networks here, made by its name as a command makes it."""
    from train.networks.external_networks import make

    return make(f"support.strangers:{name}", {}).eval()


def make_torchvision(name: str) -> nn.Module:
    """One of torchvision's networks, always with the same weights."""
    from train.networks.external_networks import make

    torch.manual_seed(0)
    return make(f"torchvision:{name}", {}).eval()
