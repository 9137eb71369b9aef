"""A trained codec -> the bundle that is deployed (`isthmus train build`).

    run folder  -> latents of real pictures -> quantise -> entropy.safetensors
                -> front, transform, extractor -> edge.onnx
                -> reconstruction, tail        -> cloud.safetensors
                -> everything decoded again    -> report -> manifest.json

The folder appears whole or not at all. The report compares, on the same pictures, the bits of the float model that was
trained, the bits of the integer model that is deployed, and the bytes that the range coder really wrote.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors.numpy import save as save_arrays
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from cloud.models.codec import PRESETS
from cloud.models.networks import build_network
from cloud.training.data import Pictures, in_order, network_input
from cloud.training.network import CARD, NetworkCard
from cloud.training.quantise import Precision, quantise
from cloud.training.single import SingleRecipe, SplitCodec, as_map
from shared.bundle import (
    CLOUD,
    EDGE,
    ENTROPY,
    MANIFEST,
    Bundle,
    FileEntry,
    Manifest,
    Preprocess,
    Quality,
    Task,
)
from shared.codec.bitstream import Bitstream
from shared.codec.codec import LatentCodec, fingerprint
from shared.errors import DataError
from shared.files import write_atomically
from shared.types import Frozen

# z beyond this is clamped by edge.onnx, so that whatever the network does fits int32 on every runtime.
Z_REACH = 30_000
NAME: TypeAdapter[str] = TypeAdapter(Annotated[str, Manifest.model_fields["name"]])


class Report(Frozen):
    """Mean sizes a picture over `pictures` pictures. bits: ideal; bytes: written; decoded: how many gave their z."""

    pictures: int
    float_bits_v: float
    float_bits_z: float
    integer_bits_v: float
    integer_bits_z: float
    bytes_v: float
    bytes_z: float
    bytes_total: float
    decoded: int
    bounds: dict[str, tuple[int, str]]

    @property
    def integer_excess(self) -> float:
        """The integer model's bits over the float model's, less one."""
        return (self.integer_bits_v + self.integer_bits_z) / (self.float_bits_v + self.float_bits_z) - 1

    @property
    def coded_excess(self) -> float:
        """Bytes of b_v and b_z over the integer model's ideal, less one."""
        return 8 * (self.bytes_v + self.bytes_z) / (self.integer_bits_v + self.integer_bits_z) - 1


class EdgeHalf(nn.Module):
    """x (B, 3, H, W) -> v (B, V) and z (B, N, h, w), int32: what edge.onnx holds."""

    def __init__(self, model: SplitCodec) -> None:
        super().__init__()
        self.front, self.transform, self.extractor = model.front, model.codec.transform, model.codec.extractor

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.transform(as_map(self.front(x))).round().clamp(-Z_REACH, Z_REACH)
        v = self.extractor(z).round().clamp(-Z_REACH, Z_REACH)
        return v.to(torch.int32), z.to(torch.int32)


def build(
    run: Path,
    out: Path,
    name: str,
    pictures: Pictures,
    *,
    quality: int = 50,
    task: str = "classification",
    precision: Precision | None = None,
    licences: dict[str, str] | None = None,
) -> Report:
    """Make the bundle `out` from the run folder of `train single`; `pictures`: to calibrate and to report on.

    Raises DataError where the run or the name is unusable or `out` exists, InexactError where a bound cannot be proven.
    """
    try:
        NAME.validate_python(name)
    except ValidationError:
        raise DataError(
            f"a bundle cannot be named {name!r}: up to 64 of A-Z a-z 0-9 . _ -, the first a letter or a digit; "
            "give it a --name"
        ) from None
    if out.exists():
        raise DataError(f"{out} exists already; delete it, or choose another --out")
    model, recipe, card = load_run(run)
    x, v, z, float_bits = _latents(model, pictures, card.preprocess)
    tensors = quantise(model.codec, v, precision)
    codec = LatentCodec(tensors)
    mark = fingerprint(tensors)
    report = _report(codec, mark, v, z, float_bits)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        files = {
            EDGE: export_edge(model, card.preprocess),
            ENTROPY: save_arrays(tensors),
            CLOUD: save_tensors(_cloud_tensors(model, task)),
        }
        for file, data in files.items():
            write_atomically(temporary / file, data)
        manifest = Manifest(
            name=name,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            fingerprint=mark.hex(),
            preprocess=card.preprocess,
            codec=model.codec.config.model_dump(mode="json"),
            qualities=(Quality.model_validate({"quality": quality, "lambda": recipe.lambda_}),),
            tasks=(
                Task(
                    name=task,
                    kind="classification",
                    labels=card.labels,
                    network=card.network,
                    network_config=card.config,
                    split=card.split,
                    feature=model.feature,
                ),
            ),
            training={"network": _named(card.recipe), "codec": _named(recipe.model_dump(mode="json"))},
            figures={"build": report.model_dump(mode="json")},
            licences=licences or {},
            files={
                f: FileEntry(sha256=hashlib.sha256(d).hexdigest(), bytes=len(d)) for f, d in files.items()
            },
        )
        write_manifest(temporary, manifest)
        check_edge(Bundle.open(temporary), x, z)
        os.chmod(temporary, 0o755)
        os.rename(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return report


def _named(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe whose folders are names: where they lay is nobody's business but this machine's."""
    folders = {key: Path(recipe[key]).name for key in ("data", "network") if isinstance(recipe.get(key), str)}
    return recipe | folders


def write_manifest(folder: Path, manifest: Manifest) -> None:
    write_atomically(folder / MANIFEST, manifest.sealed_json())


def load_run(run: Path) -> tuple[SplitCodec, SingleRecipe, NetworkCard]:
    """The trained model of a run folder, in evaluation mode. Raises DataError."""
    try:
        recipe = SingleRecipe.model_validate(json.loads((run / "recipe.json").read_text())["recipe"])
        card = NetworkCard.model_validate_json((run / CARD).read_text())
        state = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)
        model = SplitCodec(
            build_network(card.network, card.config), card.split, PRESETS[recipe.preset], card.preprocess
        )
        model.load_state_dict(state["model"])
    except FileNotFoundError as error:
        raise DataError(
            f"no finished codec training in {run} ({Path(error.filename).name} is missing); see `isthmus train single`"
        ) from None
    except (ValueError, KeyError, RuntimeError) as error:
        raise DataError(f"the run in {run} cannot be read: {str(error).splitlines()[0]}") from None
    return model.eval(), recipe, card


@torch.no_grad()
def _latents(
    model: SplitCodec, pictures: Pictures, preprocess: Preprocess
) -> tuple[NDArray[np.float32], Tensor, Tensor, NDArray[np.float64]]:
    """Input of the first pictures, v and z of all, and the float model's bits of v and z in sum."""
    first: NDArray[np.float32] | None = None
    vs, zs, bits = [], [], np.zeros(2)
    for indices in in_order(len(pictures), 64):
        x = network_input(pictures.pixels(indices), preprocess)
        first = x.numpy() if first is None else first
        y = as_map(model.front(x))
        z, v = model.codec.latents(y)
        coded = model.codec(y)
        bits += [float(coded.bits_v.sum()), float(coded.bits_z.sum())]
        vs.append(v)
        zs.append(z)
    assert first is not None
    return first, torch.cat(vs), torch.cat(zs), bits


def _report(codec: LatentCodec, mark: bytes, v: Tensor, z: Tensor, float_bits: NDArray[np.float64]) -> Report:
    size = len(v)
    bits, sizes, decoded = np.zeros(2), np.zeros(3), 0
    for one_v, one_z in zip(v.numpy().astype(np.int32), z.numpy().astype(np.int32), strict=True):
        bits += codec.bits(one_v, one_z)
        b_v, b_z = codec.encode(one_v, one_z)
        h, w = one_z.shape[1:]
        sizes += [len(b_v), len(b_z), len(Bitstream(mark[:4], 0, h, w, b_v, b_z).pack())]
        decoded += int(np.array_equal(codec.decode(b_v, b_z, h, w), one_z))
    return Report(
        pictures=size,
        float_bits_v=float_bits[0] / size,
        float_bits_z=float_bits[1] / size,
        integer_bits_v=bits[0] / size,
        integer_bits_z=bits[1] / size,
        bytes_v=sizes[0] / size,
        bytes_z=sizes[1] / size,
        bytes_total=sizes[2] / size,
        decoded=decoded,
        bounds=codec.path.bounds(),
    )


def _cloud_tensors(model: SplitCodec, task: str) -> dict[str, Tensor]:
    tensors = {f"reconstruction.{n}": t for n, t in model.codec.reconstruction.state_dict().items()}
    tensors |= {f"tails.{task}.{n}": t for n, t in model.tail.state_dict().items()}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def export_edge(model: SplitCodec, preprocess: Preprocess) -> bytes:
    """edge.onnx, with a free batch size. Raises DataError where the front holds something that ONNX cannot say."""
    half = EdgeHalf(model).eval()
    x = torch.zeros(2, 3, preprocess.height, preprocess.width)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / EDGE
        try:
            program = torch.onnx.export(
                half,
                (x,),
                dynamo=True,
                input_names=["x"],
                output_names=["v", "z"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise DataError(
                f"the network's front cannot be exported to ONNX: {str(error).splitlines()[0]}"
            ) from None
        assert program is not None
        program.save(path, external_data=False)
        return _without_notes(path.read_bytes())


def _without_notes(model: bytes) -> bytes:
    """The exporter notes on every node from which lines of which files it came: size, and paths of this machine."""
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
    """The exporter warns of its own internals; its failures are exceptions."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def check_edge(bundle: Bundle, x: NDArray[np.float32], z: Tensor) -> None:
    """edge.onnx gives the z of the trained model, but for the rare element that lies on the edge of two integers.

    Raises DataError.
    """
    from shared.encoder import Encoder

    _, own = Encoder(bundle).latents(x)
    differing = float((own != z[: len(x)].numpy()).mean())
    if differing > 1e-3:
        raise DataError(
            f"edge.onnx differs from the trained model in {differing:.2%} of z; the export is wrong"
        )


def add_figures(bundle: Path, figures: dict[str, Any]) -> None:
    """Put measured figures into a bundle's manifest."""
    manifest = Bundle.open(bundle).manifest
    write_manifest(bundle, manifest.model_copy(update={"figures": manifest.figures | figures}))
