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
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from shared.errors import DataError
from train.codec.split_networks import Head, SplitNetworks, as_map

# v and z beyond this are clamped by extractor.onnx, so that whatever the network does fits int32 on every runtime.
Z_REACH = 30_000


class EdgeHalf(nn.Module):
    """x (B, 3, H, W) -> u (B, N, h, w), which is z before gain and rounding.

    Layers that several fronts begin with are shared here, and computed once.
    """

    def __init__(self, model: SplitNetworks) -> None:
        super().__init__()
        self.layers, self.ways = nn.ModuleList(), list[tuple[int, ...]]()
        for front in model.fronts:
            self.ways.append(self._way(list(front) if isinstance(front, nn.Sequential) else [front]))
        self.fusion, self.transform = model.codec.fusion, model.codec.core.transform

    def _way(self, front: list[nn.Module]) -> tuple[int, ...]:
        """The indices of the front's layers; layers that no earlier front has are added."""
        way: tuple[int, ...] = ()
        for layer in front:
            nexts = {
                other[len(way)] for other in self.ways if other[: len(way)] == way and len(other) > len(way)
            }
            known = [i for i in nexts if _alike(self.layers[i], layer)]
            if not known:
                self.layers.append(layer)
            way += (known[0] if known else len(self.layers) - 1,)
        return way

    def forward(self, x: Tensor) -> Tensor:
        known: dict[tuple[int, ...], Tensor] = {(): x}  # by the layers that lead there
        for way in self.ways:
            for i in range(len(way)):
                if way[: i + 1] not in known:
                    known[way[: i + 1]] = self.layers[way[i]](known[way[:i]])
        u: Tensor = self.transform(self.fusion([as_map(known[way]) for way in self.ways]))
        return u


def _alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two layers compute the same, with the same weights."""
    own, its = one.state_dict(), other.state_dict()
    return (
        str(one) == str(other) and own.keys() == its.keys() and all(own[key].equal(its[key]) for key in own)
    )


class ExtractorHalf(nn.Module):
    """u (B, N, h, w) and the level's position (B,) -> v (B, V) and z (B, N, h, w), int32: what extractor.onnx holds."""

    def __init__(self, model: SplitNetworks) -> None:
        super().__init__()
        self.core = model.codec.core

    def forward(self, u: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        z = self.core.z_of(u, position).round().clamp(-Z_REACH, Z_REACH)
        v = self.core.extractor(z).round().clamp(-Z_REACH, Z_REACH)
        return v.to(torch.int32), z.to(torch.int32)


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
    onnx.checker.check_model(proto)
    data: bytes = proto.SerializeToString()
    return data


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
