"""Makes the scores of a bundle's classes probabilities (`isthmus bundle calibrate`).

A codec makes a network less sure, or sure of something else, and a softmax of what comes out of it does not know that.
One number helps, a temperature that divides the outputs (Guo et al., 2017, "On calibration of modern neural networks").
There it is chosen by labels. Here the uncompressed network answers the same images, and no label is needed: with its
probabilities as the truth, the temperature is the one for which that truth surprises the bundle least. So scores are as
honest as the network's own, over all qualities together; a network that is too sure of itself stays so.

    images -> bitstreams at each level -> outputs (M, K) of the bundle -> temperature -> the task's options
           -> the uncompressed network -> outputs (M, K)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cloud.engine.bundle_model import CloudModel
from cloud.networks.networks import whole_output
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.errors import DataError
from shared.image import to_input
from shared.kinds.classification import Classification
from train.bundle.evaluate import main_qualities, uncompressed_network
from train.bundle.manifest import write_manifest
from train.data.dataset import Dataset, in_order
from train.kinds.training_kind import divergence

KIND = Classification.name
COLDEST, HOTTEST = 1 / 50, 50.0
BATCH = 32


class Calibration(NamedTuple):
    """temperature: of a task. before, after: mean divergence of its probabilities from the network's, nats."""

    temperature: float
    before: float
    after: float
    images: int


def calibrate(
    bundle: Bundle, data: Mapping[str, Dataset], networks: Mapping[str, Path]
) -> dict[str, Calibration]:
    """Chooses a temperature for each task of classes, and writes it to the bundle's manifest.

    data: images, for each task to calibrate; labels are not read. networks: folders of trained networks, by task.

    Raises DataError where no task of classes came with the bundle and has a network, BundleError.
    """
    tasks = [task.name for task in bundle.manifest.tasks if task.kind == KIND and task.name in networks]
    if not tasks:
        raise DataError(
            f"{bundle.path} has no task of {KIND} whose network was named; its scores are compared with "
            "the uncompressed network's",
            setting="network",
        )
    found = {task: _calibration(bundle, task, data[task], networks[task]) for task in tasks}
    manifest = bundle.manifest
    changed = tuple(
        task.model_copy(update={"options": {**task.options, "temperature": found[task.name].temperature}})
        if task.name in found
        else task
        for task in manifest.tasks
    )
    figures = {**manifest.figures, "calibration": {task: one._asdict() for task, one in found.items()}}
    write_manifest(bundle.path, manifest.model_copy(update={"tasks": changed, "figures": figures}))
    return found


@torch.no_grad()
def _calibration(bundle: Bundle, task: str, data: Dataset, folder: Path) -> Calibration:
    network = uncompressed_network(bundle, task, folder, [task])
    encoder, model = Encoder(bundle, threads=2), CloudModel(bundle)
    answers, wanted = [], []
    for indices in in_order(len(data), BATCH):
        x = to_input(data.images(indices), bundle.manifest.preprocess)
        plain = whole_output(network, torch.from_numpy(x), KIND)
        u = encoder.features(x)
        for quality in main_qualities(bundle):
            _, z = encoder.latents(u, bundle.position(quality))
            out = model.outputs(z, {task: range(len(indices))}, [quality] * len(indices))[task]
            answers.append(out.flatten(1).float().cpu())
            wanted.append(plain)
    out, plain = torch.cat(answers), torch.cat(wanted)
    chosen = round(temperature(out, plain), 4)
    return Calibration(
        temperature=chosen,
        before=float(divergence(out, plain).mean()),
        after=float(divergence(out / chosen, plain).mean()),
        images=len(data),
    )


def temperature(out: Tensor, wanted: Tensor) -> float:
    """The T for which softmax(out / T) has the least mean divergence from softmax(wanted), both (M, K).

    In 1 / T the divergence is convex; its slope there is the mean of out under softmax(out / T) less that under
    softmax(wanted).
    """
    target = (torch.softmax(wanted.double(), 1) * out).sum(1).mean()
    cold, hot = np.log(COLDEST), np.log(HOTTEST)
    for _ in range(40):
        middle = (cold + hot) / 2
        scores = torch.softmax(out.double() / np.exp(middle), 1)
        too_sure = (scores * out).sum(1).mean() > target
        cold, hot = (middle, hot) if too_sure else (cold, middle)
    return float(np.exp((cold + hot) / 2))
