"""Exports parts of a trained model to ONNX files, which a camera or the cloud's runtime loads without torch.

EdgeHalf becomes edge.onnx, ExtractorHalf extractor.onnx; export_tail makes the file of a tail for which the cloud has
no class.
"""

from __future__ import annotations

import contextlib
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from shared.errors import DataError
from train.codec.split_networks import Head


def export_tail(head: Head) -> bytes:
    """An ONNX model: feature y -> output. Raises DataError."""
    return export(head.tail, {"y": torch.zeros(2, *head.feature)}, ["out"], "tail")


def export(half: nn.Module, inputs: dict[str, Tensor], outputs: list[str], what: str = "front") -> bytes:
    """An ONNX model with a free batch size. Raises DataError where ONNX has no operator for a part of it.

    what: the part of the network, for the error.
    """
    batch = torch.export.Dim("batch", min=1)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "model.onnx"
        try:
            program = torch.onnx.export(
                half.eval(),
                tuple(inputs.values()),
                dynamo=True,
                input_names=list(inputs),
                output_names=outputs,
                dynamic_shapes=tuple({0: batch} for _ in inputs),
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise DataError(
                f"the network's {what} cannot be exported to ONNX: {_unsupported(error)}; "
                "cut the network at another layer",
                setting="split",
            ) from None
        assert program is not None
        program.save(path, external_data=False)
        return _without_notes(path.read_bytes())


def _unsupported(error: BaseException) -> str:
    """The operator that ONNX lacks, where one of the errors names it; otherwise the first error's first line."""
    texts = []
    at: BaseException | None = error
    while at is not None:
        texts.append(str(at))
        at = at.__cause__ or at.__context__
    found = re.search(r"OpOverload\(op='([\w.:]+)'", "\n".join(texts))
    return f"it has no operator for {found[1]}" if found else texts[-1].splitlines()[0]


def _without_notes(model: bytes) -> bytes:
    """Drops the exporter's notes, which hold paths of this machine and take space."""
    import onnx

    proto = onnx.load_from_string(model)
    graph = proto.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    _narrow(graph)
    _halve(graph)
    onnx.checker.check_model(proto)
    data: bytes = proto.SerializeToString()
    return data


HALVED_MIN = 256  # values of a tensor that is worth it
LARGEST = 127  # of 8 bits with a sign
SCALE_STEPS = 4096  # of a scale's fraction: few enough that LARGEST times a scale is exact


def _narrow(graph: Any) -> None:
    """Stores tensors whose rows or columns are each a scale times whole numbers of 8 bits as these.

    They are cast and multiplied rather than dequantised: a session then does it once, when it is made.
    """
    from onnx import TensorProto, helper, numpy_helper

    added = []
    for tensor in list(graph.initializer):
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.ndim < 2 or values.size < HALVED_MIN:
            continue
        for axis in (0, 1):
            others = tuple(i for i in range(values.ndim) if i != axis)
            scale = np.abs(values).max(others, keepdims=True) / np.float32(LARGEST)
            scale = np.where(scale > 0, scale, np.float32(1))
            whole = np.rint(values / scale)
            if not np.array_equal(whole * scale, values):
                continue
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(whole.astype(np.int8), f"{name}.whole"))
            graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
            wide = f"{name}.wide"
            added += [
                helper.make_node(
                    "Cast", [f"{name}.whole"], [wide], name=f"{name}.cast", to=TensorProto.FLOAT
                ),
                helper.make_node("Mul", [wide, f"{name}.scale"], [name], name=f"{name}.scaled"),
            ]
            break
    for node in reversed(added):
        graph.node.insert(0, node)


def _halve(graph: Any) -> None:
    """Stores tensors whose values 16 bits hold exactly in 16 bits. A session casts them back once, when it is made."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if values.size < HALVED_MIN or not np.array_equal(half.astype(np.float32), values):
            continue
        name, stored = tensor.name, f"{tensor.name}.half"
        tensor.CopyFrom(numpy_helper.from_array(half, stored))
        casts.append(helper.make_node("Cast", [stored], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
    for node in reversed(casts):
        graph.node.insert(0, node)


@torch.no_grad()
def round_to_half(*parts: nn.Module) -> None:
    """Rounds weights to values that 16 bits hold, so that `export` and `save_tensors` halve them."""
    for part in parts:
        for parameter in part.parameters():
            parameter.copy_(parameter.half().float())


@torch.no_grad()
def round_to_eight_bits(*parts: nn.Module) -> None:
    """Rounds weights of convolutions and linear layers to 8 bits and a scale for each output, as `export` stores them.

    What is short stays as it is.
    """
    for part in parts:
        for layer in part.modules():
            if not isinstance(layer, nn.Conv2d | nn.Linear) or layer.weight.numel() < HALVED_MIN:
                continue
            rows = layer.weight.flatten(1)
            fraction, exponent = torch.frexp(rows.abs().amax(1) / LARGEST)
            scale = torch.ldexp((fraction * SCALE_STEPS).round() / SCALE_STEPS, exponent)[:, None]
            scale = torch.where(scale > 0, scale, 1.0)
            whole = (rows / scale).round().clamp(-LARGEST, LARGEST)
            layer.weight.copy_((whole * scale).reshape(layer.weight.shape))


def save_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file, in 16 bits where these hold all values of a tensor exactly. Modules cast them back."""

    def stored(tensor: Tensor) -> Tensor:
        tensor = tensor.detach().cpu().contiguous()
        half = tensor.half()
        exact = tensor.dtype == torch.float32 and torch.equal(half.float(), tensor)
        return half if exact and tensor.numel() >= HALVED_MIN else tensor

    return save({name: stored(tensor) for name, tensor in tensors.items()})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter, which warns of its own internals. Its failures are exceptions."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
