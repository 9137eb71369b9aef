"""The cloud's half of an added task: a fresh reconstruction of the new network's feature, and its tail.

Legend: B images, N latent channels, h x w latent grid, C x H' x W' the new network's feature, L quality levels.
"""

from __future__ import annotations

import datetime
import hashlib
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from cloud.networks.sizes import CodecConfig, spatial
from cloud.networks.transforms import FeatureReconstruction, Scaling, initialise, interpolated
from shared.bundle import CLOUD, ONNX, TAIL, TASK, WEIGHTS, AddedTask, Bundle, Task
from shared.errors import DataError
from shared.files import write_atomically
from shared.sealed import FileEntry, read_sealed
from train.bundle.export import export_tail, save_tensors
from train.codec.split_networks import Head

FOLDER = "task"  # in a run: the folder that is added to the bundle
RECONSTRUCTION = "reconstruction."  # begins the names of its tensors in a task folder


class TrainableHead(nn.Module):
    """z -> y_hat -> the new task's output. Only the reconstruction learns.

    log_inverse (L, N): the bundle's inverse gains, if it has several levels.
    """

    def __init__(self, head: Head, config: CodecConfig, log_inverse: Tensor | None) -> None:
        super().__init__()
        self.log_inverse: Tensor | None
        self.head, self.config = head.requires_grad_(False), config
        self.reconstruction = FeatureReconstruction(head.feature[0], config)
        initialise(self.reconstruction)
        self.scaling = Scaling(head.feature[0]) if config.scaled else None
        self.register_buffer("log_inverse", log_inverse, persistent=False)

    def feature(self, z: Tensor, position: Tensor) -> Tensor:
        """z (B, N, h, w), position (B,) -> y_hat (B, C, H', W')."""
        if self.log_inverse is not None:
            z = z * interpolated(self.log_inverse, position)
        y_hat: Tensor = self.reconstruction(z, spatial(self.head.feature))
        return self.scaling.back(y_hat) if self.scaling else y_hat


def reconstruction_of(bundle: Bundle, width: float, *, regression: bool) -> tuple[CodecConfig, Tensor | None]:
    """Sizes of a fresh reconstruction for this bundle's z, and the bundle's log inverse gains (L, N).

    regression: with a linear path that `train.tasks.regression` can set. Raises DataError where there is none.
    """
    config = CodecConfig.model_validate(bundle.manifest.codec)
    if regression and not config.shortcut:
        raise DataError("this bundle's codec has no linear paths; use start random", setting="start")
    wide = tuple(max(1, round(channels * width)) for channels in config.reconstruction)
    log_inverse = load_tensors(bundle.read(CLOUD)).get("gains.log_inverse")
    cells = 3 if regression else config.shortcut_cells
    config = config.model_copy(update={"reconstruction": wide, "overhang": True, "shortcut_cells": cells})
    return config, None if log_inverse is None else log_inverse.float()


def load_reconstruction(model: TrainableHead, folder: Path) -> None:
    """Starts `model` from the reconstruction of a task folder, of this bundle or one with an edge like it.

    Raises DataError, BundleDamagedError.
    """
    try:
        added = read_sealed(folder / TASK, AddedTask, "task")
    except FileNotFoundError:
        raise DataError(f"no {TASK} in {folder}: this is not a task folder", setting="init") from None
    tensors = load_tensors(added.read(folder)[WEIGHTS])
    own = {
        name.removeprefix(RECONSTRUCTION): t for name, t in tensors.items() if name.startswith(RECONSTRUCTION)
    }
    try:
        model.reconstruction.load_state_dict(own)
    except RuntimeError:
        raise DataError(
            f"the reconstruction in {folder} has another width or start, or is for another feature",
            setting="init",
        ) from None


def save_task(
    folder: Path,
    bundle: Bundle,
    task: Task,
    model: TrainableHead,
    training: dict[str, Any],
    figures: dict[str, float],
) -> None:
    """Writes a task folder for `bundle`, in place of any that is there."""
    tensors = {f"{RECONSTRUCTION}{n}": t for n, t in model.reconstruction.state_dict().items()}
    if model.scaling:
        tensors |= {f"scaling.{n}": t for n, t in model.scaling.state_dict().items()}
    tail = export_tail(model.head.cpu()) if task.network == ONNX else None
    if tail is None:
        tensors |= {f"tail.{n}": t for n, t in model.head.tail.state_dict().items()}
    data = save_tensors(tensors)
    added = AddedTask(
        task=task,
        fingerprint=bundle.manifest.fingerprint,
        edge_sha256=bundle.manifest.edge_sha256,
        codec=model.config.model_dump(mode="json"),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        training=training,
        figures=figures,
        licences=bundle.manifest.licences,
        file=_entry(data),
        tail=None if tail is None else _entry(tail),
    )
    folder.mkdir(exist_ok=True)
    # Its description goes first and comes last, so that a kill in between leaves nothing that looks whole.
    (folder / TASK).unlink(missing_ok=True)
    write_atomically(folder / WEIGHTS, data)
    if tail is not None:
        write_atomically(folder / TAIL, tail)
    write_atomically(folder / TASK, added.sealed_json())


def _entry(data: bytes) -> FileEntry:
    return FileEntry(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
