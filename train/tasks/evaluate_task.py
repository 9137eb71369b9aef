"""What an added task does on images held out, from the z that the bundle's edge really sends."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.encoder import Encoder
from train.codec.split_networks import as_map
from train.data.dataset import Dataset, in_order, network_input
from train.loop.distributed import Workers
from train.loop.scores import Scores
from train.loop.scoring import Scoring, target_of
from train.loop.sheets import sheet, sheet_indices
from train.tasks.trainable_head import TrainableHead

BATCH = 32


@torch.no_grad()
def evaluate_task(
    model: TrainableHead,
    encoder: Encoder,
    front: nn.Module,
    data: Dataset,
    workers: Workers,
    most: int | None = None,
) -> Scores:
    """The task's metrics, uncompressed and at the quality of each level, counted by all processes together.

    front: of the new network, for its answers without compression; without labels these are the truth.
    most: the number of images to use, from the first on; by default all.
    """
    model.eval()
    device = next(model.parameters()).device
    manifest = encoder.bundle.manifest
    scoring = Scoring()
    for indices in workers.part(in_order(min(len(data), most or len(data)), BATCH)):
        x = network_input(data.images(indices), manifest.preprocess)
        u = encoder.features(x.numpy())
        plain = model.head(as_map(front(x.to(device))))
        target = target_of(model.head.kind, data, indices, plain)
        if target.against == "labels":
            scoring.count("", "uncompressed", plain, target)
        for level, described in enumerate(manifest.qualities):
            scoring.count("", described.quality, _outputs(model, encoder, u, level), target)
    return workers.merged(scoring).scores()


def _outputs(model: TrainableHead, encoder: Encoder, u: NDArray[np.float32], level: float) -> Tensor:
    """The task's outputs from what the edge sends of u (B, N, h, w) at a level."""
    device = next(model.parameters()).device
    position = np.full(len(u), level, np.float32)
    _, z = encoder.latents(u, position)
    y_hat = model.feature(
        torch.from_numpy(z).to(device, torch.float32), torch.from_numpy(position).to(device)
    )
    out: Tensor = model.head(y_hat)
    return out


@torch.no_grad()
def task_sheet(model: TrainableHead, encoder: Encoder, front: nn.Module, data: Dataset) -> NDArray[np.uint8]:
    """A sheet of the first images: image, prediction without the codec, with it at the default quality, labels."""
    model.eval()
    bundle = encoder.bundle
    x = network_input(data.images(sheet_indices(data)), bundle.manifest.preprocess)
    plain = model.head(as_map(front(x.to(next(model.parameters()).device))))
    level = bundle.position(bundle.quality(None))
    return sheet(model.head.kind, data, plain, _outputs(model, encoder, encoder.features(x.numpy()), level))
