"""A trained codec -> the bundle that is deployed (`isthmus bundle build`).

    run folder  -> latents of real pictures, at every level -> quantise -> entropy.safetensors
                -> fronts, fusion, transform                -> edge.onnx
                -> gains, extractor                         -> extractor.onnx
                -> inverse gains, reconstruction, separation, tails -> cloud.safetensors, tail.NAME.onnx
                -> everything decoded again    -> report -> manifest.json

The folder appears whole or not at all. The report compares, on the same pictures, the bits of the float model that was
trained, the bits of the integer model that is deployed, and the bytes that the range coder really wrote.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors.numpy import save as save_arrays
from safetensors.torch import save as save_tensors
from torch import Tensor

from shared.bundle import (
    CLOUD,
    EDGE,
    ENTROPY,
    EXTRACTOR,
    MANIFEST,
    ONNX,
    Bundle,
    Manifest,
    Preprocess,
    Quality,
    Task,
    tail_file,
)
from shared.codec.bitstream import Bitstream
from shared.codec.latent_codec import LatentCodec, Levels, fingerprint
from shared.errors import DataError
from shared.files import write_atomically
from shared.sealed import FileEntry
from shared.types import Frozen
from train.bundle.export import EdgeHalf, ExtractorHalf, export, export_tail
from train.codec.codec_recipe import lambdas_of
from train.codec.quantise import BitWidths, quantise
from train.codec.split_networks import SplitNetworks, load_run
from train.data.dataset import Dataset, in_order, network_input
from train.networks.load import reference_cut
from train.networks.network_folder import NetworkCard

NAME: TypeAdapter[str] = TypeAdapter(Annotated[str, Manifest.model_fields["name"]])


class LevelReport(Frozen):
    """Mean sizes a picture at one level. bits: ideal; bytes: written; decoded: how many pictures gave their z."""

    float_bits_v: float
    float_bits_z: float
    integer_bits_v: float
    integer_bits_z: float
    bytes_v: float
    bytes_z: float
    bytes_total: float
    decoded: int

    @property
    def integer_excess(self) -> float:
        """The integer model's bits over the float model's, less one."""
        return (self.integer_bits_v + self.integer_bits_z) / (self.float_bits_v + self.float_bits_z) - 1

    @property
    def coded_excess(self) -> float:
        """Bytes of b_v and b_z over the integer model's ideal, less one."""
        return 8 * (self.bytes_v + self.bytes_z) / (self.integer_bits_v + self.integer_bits_z) - 1


class Report(Frozen):
    """Over `pictures` pictures, by quality; bounds: of the exact path's layers."""

    pictures: int
    levels: dict[int, LevelReport]
    bounds: dict[str, tuple[int, str]]


def build(
    run: Path,
    out: Path,
    name: str,
    pictures: Dataset,
    *,
    default_quality: int | None = None,
    precision: BitWidths | None = None,
    licences: dict[str, str] | None = None,
) -> Report:
    """Make the bundle `out` from the run folder of a codec; `pictures`: to calibrate and to report on.

    default_quality: None takes the recipe's, where the scale of lambda is 1.

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
    model, recipe, cards = load_run(run)
    if recipe.prior != "codebook":
        raise DataError(
            f"{run} was trained with --prior {recipe.prior}, for comparison only; a bundle takes the codebook"
        )
    default = recipe.default_quality if default_quality is None else default_quality
    if default not in Levels(recipe.qualities):
        raise DataError(f"--default-quality {default} is not within the codec's {Levels(recipe.qualities)}")
    preprocess = cards[0].preprocess
    x, u = _transformed(model, pictures, preprocess)
    levels = [_latents(model, u, level, len(recipe.qualities)) for level in range(len(recipe.qualities))]
    tensors = quantise(
        model.codec.core, torch.cat([level.v for level in levels]), precision, qualities=recipe.qualities
    )
    codec = LatentCodec(tensors)
    mark = fingerprint(tensors)
    report = Report(
        pictures=len(u),
        levels={
            quality: _report(codec, mark, quality, level)
            for quality, level in zip(recipe.qualities, levels, strict=True)
        },
        bounds=codec.path.bounds(),
    )
    manifest = Manifest(
        name=name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        fingerprint=mark.hex(),
        preprocess=preprocess,
        codec=model.codec.core.config.model_dump(mode="json"),
        qualities=tuple(
            Quality.model_validate({"quality": quality, "lambda": scale * lambdas_of(recipe)[0]})
            for quality, scale in zip(recipe.qualities, recipe.scales, strict=True)
        ),
        default_quality=default,
        tasks=tuple(
            Task(
                name=task,
                kind=card.task,
                labels=card.labels,
                **tail_spec(card),
                feature=tuple(head.feature),
                options=card.options,
            )
            for task, card, head in zip(model.names, cards, model.heads, strict=True)
        ),
        training={
            "networks": {
                task: without_paths(card.recipe) for task, card in zip(model.names, cards, strict=True)
            },
            "codec": without_paths(recipe.model_dump(mode="json")),
        },
        figures={"build": report.model_dump(mode="json")},
        licences=licences or {},
        files={},
    )
    files = {
        EDGE: export(EdgeHalf(model), {"x": torch.zeros(2, 3, preprocess.height, preprocess.width)}, ["u"]),
        EXTRACTOR: export(
            ExtractorHalf(model), {"u": torch.zeros(2, *u.shape[1:]), "position": torch.zeros(2)}, ["v", "z"]
        ),
        ENTROPY: save_arrays(tensors),
        CLOUD: save_tensors(_cloud_tensors(model, cards)),
    }
    for task, card, head in zip(model.names, cards, model.heads, strict=True):
        if not reference_cut(card):
            files[tail_file(task)] = export_tail(head)
    with folder_atomically(out) as temporary:
        entries = {f: FileEntry(sha256=hashlib.sha256(d).hexdigest(), bytes=len(d)) for f, d in files.items()}
        for file, data in files.items():
            write_atomically(temporary / file, data)
        write_manifest(temporary, manifest.model_copy(update={"files": entries}))
        for quality, level in zip(recipe.qualities, levels, strict=True):
            check_edge(Bundle.open(temporary), x, level.z, quality)
    return report


@contextlib.contextmanager
def folder_atomically(out: Path) -> Iterator[Path]:
    """A new folder that appears as `out` when all that was put into it is whole, or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        yield temporary
        os.chmod(temporary, 0o755)
        os.rename(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def without_paths(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe whose folders are names: where they lay is nobody's business but this machine's."""
    out = {
        key: Path(value).name
        if key in ("data", "validation", "bundle", "network", "init", "weights", "labels")
        and isinstance(value, str)
        else value
        for key, value in recipe.items()
    }
    if "parts" in out:
        out["parts"] = [without_paths(part) for part in out["parts"]]
    return out


def write_manifest(folder: Path, manifest: Manifest) -> None:
    write_atomically(folder / MANIFEST, manifest.sealed_json())


@torch.no_grad()
def _transformed(
    model: SplitNetworks, pictures: Dataset, preprocess: Preprocess
) -> tuple[NDArray[np.float32], Tensor]:
    """Input of the first pictures, and u (M, N, h, w) of all."""
    half = EdgeHalf(model)
    first: NDArray[np.float32] | None = None
    out = []
    for indices in in_order(len(pictures), 64):
        x = network_input(pictures.images(indices), preprocess)
        first = x.numpy() if first is None else first
        out.append(half(x))
    assert first is not None
    return first, torch.cat(out)


class _Level(NamedTuple):
    """v (M, V) and z (M, N, h, w) of all pictures at one level, and the float model's bits of v and z in sum."""

    v: Tensor
    z: Tensor
    bits: NDArray[np.float64]


@torch.no_grad()
def _latents(model: SplitNetworks, u: Tensor, level: int, levels: int) -> _Level:
    core = model.codec.core
    vs, zs, bits = [], [], np.zeros(2)
    for piece in u.split(64):
        position = torch.full((len(piece),), float(level)) if levels > 1 else None
        z = core.z_of(piece, position).round()
        bits_z, bits_v = core.rate(z, z, position)
        bits += [float(bits_v.sum()), float(bits_z.sum())]
        vs.append(core.extractor(z).round())
        zs.append(z)
    return _Level(torch.cat(vs), torch.cat(zs), bits)


def _report(codec: LatentCodec, mark: bytes, quality: int, level: _Level) -> LevelReport:
    size = len(level.v)
    bits, sizes, decoded = np.zeros(2), np.zeros(3), 0
    for v, z in zip(level.v.numpy().astype(np.int32), level.z.numpy().astype(np.int32), strict=True):
        bits += codec.bits(v, z, quality)
        b_v, b_z = codec.encode(v, z, quality)
        h, w = z.shape[1:]
        sizes += [len(b_v), len(b_z), len(Bitstream(mark[:4], quality, h, w, b_v, b_z).pack())]
        decoded += int(np.array_equal(codec.decode(b_v, b_z, h, w, quality), z))
    return LevelReport(
        float_bits_v=level.bits[0] / size,
        float_bits_z=level.bits[1] / size,
        integer_bits_v=bits[0] / size,
        integer_bits_z=bits[1] / size,
        bytes_v=sizes[0] / size,
        bytes_z=sizes[1] / size,
        bytes_total=sizes[2] / size,
        decoded=decoded,
    )


def tail_spec(card: NetworkCard) -> dict[str, Any]:
    """What a manifest says of how a task's tail is built."""
    if reference_cut(card):
        return {"network": card.network, "network_config": card.config, "split": int(card.split or 0)}
    return {"network": ONNX, "network_config": {"of": card.network}, "split": card.split}


def _cloud_tensors(model: SplitNetworks, cards: Sequence[NetworkCard]) -> dict[str, Tensor]:
    core = model.codec.core
    tensors = {f"reconstruction.{n}": t for n, t in core.reconstruction.state_dict().items()}
    tensors |= {f"separation.{n}": t for n, t in model.codec.separation.state_dict().items()}
    if core.gains is not None:
        tensors["gains.log_inverse"] = core.gains.log_inverse.detach()
    for name, card, head in zip(model.names, cards, model.heads, strict=True):
        if not reference_cut(card):
            continue
        tensors |= {f"tails.{name}.{n}": t for n, t in head.tail.state_dict().items()}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def check_edge(bundle: Bundle, x: NDArray[np.float32], z: Tensor, quality: int) -> None:
    """The exported files give the z of the trained model, but for the rare element on the edge of two integers.

    Raises DataError.
    """
    from shared.encoder import Encoder

    encoder = Encoder(bundle)
    _, own = encoder.latents(encoder.features(x), bundle.position(quality))
    differing = float((own != z[: len(x)].numpy()).mean())
    if differing > 1e-3:
        raise DataError(
            f"the exported edge differs from the trained model in {differing:.2%} of z; the export is wrong"
        )


def add_figures(bundle: Path, figures: dict[str, Any]) -> None:
    """Put measured figures into a bundle's manifest."""
    manifest = Bundle.open(bundle).manifest
    write_manifest(bundle, manifest.model_copy(update={"figures": manifest.figures | figures}))
