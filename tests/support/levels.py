"""A bundle of several quality levels without any training: small ONNX networks and random integers.

Legend: N = 6 channels of z, 4 x 4 latent grid, V = 5 elements of v.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save

from shared.bundle import CLOUD, EDGE, ENTROPY, EXTRACTOR, MANIFEST
from shared.codec.latent_codec import fingerprint
from shared.sealed import seal
from support.context_tensors import context_tensors
from support.random_codec import random_tensors

SIZE, N, V = 64, 6, 5
QUALITIES = (10, 30, 80)


def edge_model(seed: int = 0) -> bytes:
    """x (B, 3, 64, 64) -> u (B, N, 4, 4)."""
    weight = np.random.default_rng(seed).normal(0, 0.05, (N, 3, 16, 16)).astype(np.float32)
    return _model(
        [helper.make_node("Conv", ["x", "weight"], ["u"], strides=[16, 16])],
        {"x": (TensorProto.FLOAT, ["B", 3, SIZE, SIZE])},
        {"u": (TensorProto.FLOAT, ["B", N, 4, 4])},
        {"weight": weight},
    )


def extractor_model(sticky: bool = False) -> bytes:
    """u, position -> z = round(4 ** position * u), and v: sums over the first channels of z.

    sticky: has the inputs reference and hold, too; z is the reference where 4 ** position * u lies within hold of it.
    """
    nodes = [
        helper.make_node("Pow", ["four", "position"], ["gain"]),
        helper.make_node("Reshape", ["gain", "column"], ["gains"]),
        helper.make_node("Mul", ["u", "gains"], ["scaled"]),
        helper.make_node("Round", ["scaled"], ["plain" if sticky else "rounded"]),
        helper.make_node("Cast", ["rounded"], ["z"], to=TensorProto.INT32),
        helper.make_node("ReduceMean", ["rounded"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["means", "first"], ["chosen"]),
        helper.make_node("Cast", ["chosen"], ["v"], to=TensorProto.INT32),
    ]
    more: Ports = {}
    if sticky:
        nodes[4:4] = [
            helper.make_node("Sub", ["scaled", "reference"], ["difference"]),
            helper.make_node("Abs", ["difference"], ["distance"]),
            helper.make_node("Reshape", ["hold", "column"], ["holds"]),
            helper.make_node("LessOrEqual", ["distance", "holds"], ["near"]),
            helper.make_node("Where", ["near", "reference", "plain"], ["rounded"]),
        ]
        more = {"reference": (TensorProto.FLOAT, ["B", N, 4, 4]), "hold": (TensorProto.FLOAT, ["B"])}
    return _model(
        nodes,
        {"u": (TensorProto.FLOAT, ["B", N, 4, 4]), "position": (TensorProto.FLOAT, ["B"]), **more},
        {"v": (TensorProto.INT32, ["B", V]), "z": (TensorProto.INT32, ["B", N, 4, 4])},
        {
            "four": np.array(4, np.float32),
            "column": np.array([-1, 1, 1, 1], np.int64),
            "first": np.eye(N, V, dtype=np.float32),
        },
    )


def write_levels(
    folder: Path,
    qualities: tuple[int, ...] = QUALITIES,
    default_quality: int | None = None,
    video: bool = False,
    hold: float | None = None,
) -> Path:
    """A bundle whose edge half works; it has one task, and a cloud half that nothing can load.

    video: it has a context and rounds towards references, so that it makes frames P.
    """
    tensors = random_tensors(7, n=N, v_size=V, qualities=qualities if len(qualities) > 1 else ())
    # Every element is expected around 0, so that larger numbers cost more, as in a trained codec.
    for name in ("mean.1.weight", "mean.1.bias", "scale.1.weight"):
        tensors[name] = np.zeros_like(tensors[name])
    if video:
        tensors |= context_tensors((0, 0, 1, 1, 2, 2))
    files = {
        EDGE: edge_model(),
        EXTRACTOR: extractor_model(sticky=video),
        ENTROPY: save(tensors),
        CLOUD: b"none",
    }
    task = {
        "name": "classification",
        "kind": "classification",
        "labels": ["red", "green", "blue"],
        "network": "reference",
        "network_config": {},
        "split": 1,
        "feature": [N, 4, 4],
    }
    raw: dict[str, Any] = {
        "format": 2,
        "name": "levels",
        "created": "2026-11-22T00:00:00Z",
        "fingerprint": fingerprint(tensors).hex(),
        "preprocess": {"height": SIZE, "width": SIZE},
        "codec": {"grid": [4, 4]},
        "qualities": [{"quality": q, "lambda": 4.0**i} for i, q in enumerate(qualities)],
        "default_quality": default_quality,
        "tasks": [task],
        "training": {},
        "figures": {},
        "licences": {},
        "files": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            for name, data in files.items()
        },
    }
    if hold is not None:
        raw["hold"] = hold
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / MANIFEST).write_text(json.dumps(raw | {"sha256": seal(raw)}))
    return folder


Ports = dict[str, tuple[int, list[Any]]]


def _model(nodes: list[Any], inputs: Ports, outputs: Ports, constants: dict[str, np.ndarray]) -> bytes:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, *port) for name, port in inputs.items()],
        [helper.make_tensor_value_info(name, *port) for name, port in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data
