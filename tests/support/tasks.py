"""Task folders with random weights, for any bundle: what `isthmus task train` writes, without the training."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from shared.bundle import TASK, WEIGHTS, AddedTask, Bundle
from shared.sealed import FileEntry
from shared.types import TaskKind

SIZES = {"stride": 16, "feature_channels": 5, "widths": [4, 4, 8, 8], "classes": 4, "head_widths": [8]}


# A dense network of the same front; normals and segmentation differ in what its three channels mean.
DENSE = {"stride": 16, "feature_channels": 5, "widths": [4, 4, 8, 8], "outputs": 3, "tail_widths": [8]}
LABELS = {
    "classification": ("calm", "busy", "dim", "bright"),
    "normals": (),
    "segmentation": ("wall", "floor", "lamp"),
    "depth": (),
    "embedding": (),
    "multilabel": ("dusty", "tidy", "sunny", "empty"),
}
# The network that answers a kind, and its sizes.
NETWORKS = {
    "depth": ("reference-dense", DENSE | {"outputs": 1}),
    "embedding": ("reference-embedder", SIZES),
    "normals": ("reference-dense", DENSE),
    "segmentation": ("reference-dense", DENSE),
}


def write_task(
    bundle: Path,
    folder: Path,
    name: str = "mood",
    seed: int = 0,
    kind: TaskKind = "classification",
    options: dict[str, Any] | None = None,
    half: bool = False,
    **changed: Any,
) -> Path:
    """A sound task folder, with a feature of 5 channels: four numbers, or a map of the image's size.

    options: of the task. half: its weights are stored in 16 bits. changed: fields of task.json. Returns `folder`.
    """
    import torch
    from safetensors.torch import save

    from cloud.networks.networks import build_network, feature_shape, split
    from cloud.networks.sizes import CodecConfig
    from cloud.networks.transforms import FeatureReconstruction

    manifest = Bundle.open_without_added(bundle).manifest
    config = CodecConfig.model_validate(manifest.codec)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        named, sizes = NETWORKS.get(kind, ("reference-classifier", SIZES))
        network = build_network(named, sizes)
        front, tail = split(network, network.split_layer)
        feature = feature_shape(front, manifest.preprocess.height, manifest.preprocess.width)
        reconstruction = FeatureReconstruction(feature[0], config)
    tensors = {f"reconstruction.{n}": t for n, t in reconstruction.state_dict().items()}
    tensors |= {f"tail.{n}": t for n, t in tail.state_dict().items()}
    data = save({name: tensor.half() for name, tensor in tensors.items()} if half else tensors)
    fields = {
        "task": {
            "name": name,
            "kind": kind,
            "labels": LABELS.get(kind, ("calm", "busy", "dim", "bright")),
            "network": named,
            "network_config": sizes,
            "split": network.split_layer,
            "feature": feature,
            "options": options or {},
        },
        "fingerprint": manifest.fingerprint,
        "edge_sha256": manifest.edge_sha256,
        "codec": config.model_dump(mode="json"),
        "created": "2026-11-22T00:00:00+00:00",
        "training": {},
        "figures": {},
        "licences": {},
        "file": FileEntry(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)),
    }
    folder.mkdir(parents=True)
    (folder / TASK).write_bytes(AddedTask.model_validate(fields | changed).sealed_json())
    (folder / WEIGHTS).write_bytes(data)
    return folder
