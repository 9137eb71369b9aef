"""What a bundle does on pictures that nobody trained on, measured on the bytes that it really makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from cloud.model import CloudModel
from cloud.training.data import Pictures, in_order
from cloud.training.network import load_classifier
from shared.bundle import Bundle
from shared.codec.bitstream import Bitstream
from shared.encoder import Encoder
from shared.image import to_input
from shared.types import Frozen, TaskQuery


class Evaluation(Frozen):
    """Over `pictures` pictures. Shares are 0..1; bytes are of whole bitstreams; agreement: same best class."""

    pictures: int
    top1: float
    top1_uncompressed: float
    agreement: float
    bytes_mean: float
    bytes_median: float
    bytes_max: int
    bytes_v_mean: float
    bytes_z_mean: float
    decoded_exactly: int


@torch.no_grad()
def evaluate_bundle(bundle: Bundle, network: Path, pictures: Pictures, batch: int = 32) -> Evaluation:
    """Encode, pack, unpack, decode and answer every picture, beside the uncompressed network. Raises IsthmusError."""
    encoder, model = Encoder(bundle, threads=2), CloudModel(bundle)
    whole, _ = load_classifier(network)
    task = bundle.manifest.tasks[0].name
    right = plain = same = exact = 0
    sizes: list[int] = []
    parts = np.zeros(2)
    for indices in track(list(in_order(len(pictures), batch)), "evaluating"):
        x = to_input(pictures.pixels(indices), bundle.manifest.preprocess)
        v, z = encoder.latents(x)
        streams = []
        for one_v, one_z in zip(v, z, strict=True):
            b_v, b_z = encoder.codec.encode(one_v, one_z)
            data = Bitstream(bundle.fingerprint, bundle.quality(None), *one_z.shape[1:], b_v, b_z).pack()
            sizes.append(len(data))
            parts += [len(b_v), len(b_z)]
            stream = Bitstream.unpack(data)
            streams.append((stream.b_v, stream.b_z))
        decoded = model.codec.decode_batch(streams, *z.shape[2:])
        exact += int((decoded == z).all(axis=(1, 2, 3)).sum())
        answers = model.answer(decoded, [[TaskQuery(name=task, top_k=1)]] * len(indices))
        best = np.array([a[task].top[0].index for a in answers])
        teacher = whole(torch.from_numpy(x)).argmax(1).numpy()
        labels = pictures.labels[indices]
        right += int((best == labels).sum())
        plain += int((teacher == labels).sum())
        same += int((best == teacher).sum())
    size = len(pictures)
    return Evaluation(
        pictures=size,
        top1=right / size,
        top1_uncompressed=plain / size,
        agreement=same / size,
        bytes_mean=float(np.mean(sizes)),
        bytes_median=float(np.median(sizes)),
        bytes_max=max(sizes),
        bytes_v_mean=parts[0] / size,
        bytes_z_mean=parts[1] / size,
        decoded_exactly=exact,
    )
