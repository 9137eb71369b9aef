"""Makes the bundle that is deployed from a trained codec (`isthmus bundle build`).

    run folder  -> latents of real images, at every level  -> quantise -> entropy.safetensors
                -> fronts, fusion, transform                -> edge.onnx
                -> gains, extractor                         -> extractor.onnx
                -> inverse gains, reconstruction, separation, tails -> cloud.safetensors, tail.NAME.onnx
                -> everything decoded again    -> report    -> manifest.json

The folder appears whole or not at all.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors.numpy import save as save_arrays
from torch import Tensor

from shared.bundle import (
    CLOUD,
    EDGE,
    ENTROPY,
    EXTRACTOR,
    Bundle,
    Manifest,
    Preprocess,
    Quality,
    Task,
    tail_file,
)
from shared.codec.latent_codec import LatentCodec, Levels, fingerprint
from shared.encoder import Encoder
from shared.errors import DataError
from shared.files import new_folder, refuse_existing, write_atomically
from shared.sealed import FileEntry
from train.bundle.export import export, export_tail, round_to_eight_bits, round_to_half, save_tensors
from train.bundle.manifest import tail_spec, without_paths, write_manifest
from train.bundle.size_report import Report, latents_of, report_of
from train.bundle.stretch import stretch
from train.codec.codec_recipe import CodecRecipe, lambdas_of
from train.codec.codec_training import FILES
from train.codec.fixed_point import BitWidths
from train.codec.halves import EdgeHalf, ExtractorHalf
from train.codec.quantise import quantise
from train.codec.quantise_context import Sample
from train.codec.split_networks import SplitNetworks, load_run
from train.data.dataset import Dataset, in_order, network_input
from train.networks.load import reference_cut
from train.networks.network_folder import NetworkCard

NAME: TypeAdapter[str] = TypeAdapter(Annotated[str, Manifest.model_fields["name"]])
DIFFERING_MAX = 1e-3  # of z, between the trained model and its export


def build(
    run: Path,
    out: Path,
    name: str,
    data: Dataset,
    *,
    default_quality: int | None = None,
    hold: float | None = None,
    precision: BitWidths | None = None,
    licences: dict[str, str] | None = None,
    half: bool = False,
    eight_bit_tails: bool = False,
    factors: Mapping[str, float] | None = None,
) -> Report:
    """Makes the bundle `out` from the run folder of a codec.

    data: images to calibrate on and to report on.
    default_quality: by default the recipe's, where the scale of lambda is 1. hold: see `Manifest`.
    half: rounds weights to 16 bits, which halves their files; integers are not concerned. eight_bit_tails: and those of
        tails to 8.
    factors: by task, how much the decoded feature is stretched; see `train.bundle.stretch`.

    Raises DataError where the run or the name is unusable or `out` exists, InexactError where a bound cannot be proven.
    """
    _check_name(name)
    refuse_existing(out)
    model, recipe, cards = load_run(run)
    default = _default_quality(run, recipe, default_quality)
    if half:
        core = model.codec.core
        round_to_half(*model.fronts, *model.heads, core.transform, core.extractor, core.reconstruction)
    if eight_bit_tails:
        round_to_eight_bits(*model.heads)
    preprocess = cards[0].preprocess
    stretch(model, factors or {}, data, preprocess)
    x, u = _transformed(model, data, preprocess)
    count = len(recipe.qualities)
    levels = [latents_of(model, u, level, count) for level in range(count)]
    # The integers are calibrated on the v of all levels, because one path serves them all.
    calibration = torch.cat([level.v for level in levels])
    sample = Sample(calibration, torch.cat([level.z for level in levels]))
    tensors = quantise(model.codec.core, calibration, precision, recipe.qualities, _thinned(sample))
    mark = fingerprint(tensors)
    report = report_of(LatentCodec(tensors), mark, recipe.qualities, levels)
    manifest = _manifest(name, mark, default, model, recipe, cards, report, licences or {}, _learnt_from(run))
    if factors:
        training = manifest.training | {"stretch": dict(factors)}
        manifest = manifest.model_copy(update={"training": training})
    manifest = manifest.model_copy(update={"hold": hold})
    files = _files(model, cards, preprocess, u, tensors)
    with new_folder(out) as temporary:
        _write(temporary, manifest, files)
        for quality, level in zip(recipe.qualities, levels, strict=True):
            check_edge(Bundle.open(temporary), x, level.z, quality)
    return report


def _learnt_from(run: Path) -> list[str]:
    """Names of the images that a codec learnt from, at most `LISTED_MAX`; none for a set that is no files."""
    try:
        files: list[str] = json.loads((run / FILES).read_text())
    except FileNotFoundError:  # older trainings have none
        return []
    return files if len(files) <= LISTED_MAX else []


LISTED_MAX = 10_000  # names of images in a manifest
CALIBRATED = 512  # latents that a context is calibrated on


def _thinned(sample: Sample) -> Sample:
    """Evenly chosen latents, of all levels alike."""
    chosen = torch.linspace(0, len(sample.v) - 1, min(len(sample.v), CALIBRATED)).long()
    return Sample(sample.v[chosen], sample.z[chosen])


def _check_name(name: str) -> None:
    try:
        NAME.validate_python(name)
    except ValidationError:
        raise DataError(
            f"a bundle cannot be named {name!r}: up to 64 of A-Z a-z 0-9 . _ -, the first a letter or a digit",
            setting="name",
        ) from None


def _default_quality(run: Path, recipe: CodecRecipe, chosen: int | None) -> int:
    """The quality of an edge that asks for none. Raises DataError, also for a prior that no bundle can hold."""
    if recipe.prior != "codebook":
        raise DataError(
            f"{run} was trained with the prior {recipe.prior}, for comparison only; a bundle takes the codebook"
        )
    default = recipe.default_quality if chosen is None else chosen
    if default not in Levels(recipe.qualities):
        raise DataError(
            f"quality {default} is not within the codec's {Levels(recipe.qualities)}",
            setting="default_quality",
        )
    return default


@torch.no_grad()
def _transformed(
    model: SplitNetworks, data: Dataset, preprocess: Preprocess
) -> tuple[NDArray[np.float32], Tensor]:
    """Input of the first images, and u (M, N, h, w) of all."""
    half = EdgeHalf(model)
    first: NDArray[np.float32] | None = None
    out = []
    for indices in in_order(len(data), 64):
        x = network_input(data.images(indices), preprocess)
        first = x.numpy() if first is None else first
        out.append(half(x))
    assert first is not None
    return first, torch.cat(out)


def _manifest(
    name: str,
    mark: bytes,
    default_quality: int,
    model: SplitNetworks,
    recipe: CodecRecipe,
    cards: Sequence[NetworkCard],
    report: Report,
    licences: dict[str, str],
    files: Sequence[str],
) -> Manifest:
    """The manifest, without the files' digests. files: names of the images that the codec learnt from."""
    named = list(zip(model.names, cards, model.heads, strict=True))
    return Manifest(
        format=3 if recipe.context != "none" or recipe.base else 2,
        base=(recipe.base,) if recipe.base else (),
        name=name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        fingerprint=mark.hex(),
        preprocess=cards[0].preprocess,
        codec=model.codec.core.config.model_dump(mode="json"),
        qualities=tuple(
            Quality.model_validate({"quality": quality, "lambda": scale * lambdas_of(recipe)[0]})
            for quality, scale in zip(recipe.qualities, recipe.scales, strict=True)
        ),
        default_quality=default_quality,
        tasks=tuple(
            Task(
                name=task,
                kind=card.task,
                labels=card.labels,
                **tail_spec(card),
                feature=tuple(head.feature),
                options=card.options,
            )
            for task, card, head in named
        ),
        training={
            "networks": {task: without_paths(card.recipe) for task, card, _ in named},
            "codec": without_paths(recipe.model_dump(mode="json")),
            **({"files": list(files)} if files else {}),
        },
        figures={"build": report.model_dump(mode="json")},
        licences=licences,
        files={},
    )


def _files(
    model: SplitNetworks,
    cards: Sequence[NetworkCard],
    preprocess: Preprocess,
    u: Tensor,
    tensors: dict[str, NDArray[Any]],
) -> dict[str, bytes]:
    """The contents of the bundle's files by name, but for the manifest. Raises DataError."""
    x = torch.zeros(2, 3, preprocess.height, preprocess.width)
    shape = (2, *u.shape[1:])
    extracted = {"u": torch.zeros(shape), "position": torch.zeros(2)}
    # Tensors of their own: the exporter would take one that stands in two places for one input.
    extracted |= {"reference": torch.zeros(shape), "hold": torch.zeros(2)}
    files = {
        EDGE: export(EdgeHalf(model), {"x": x}, ["u"]),
        EXTRACTOR: export(ExtractorHalf(model), extracted, ["v", "z"]),
        ENTROPY: save_arrays(tensors),
        CLOUD: save_tensors(_cloud_tensors(model, cards)),
    }
    for task, card, head in zip(model.names, cards, model.heads, strict=True):
        if not reference_cut(card):
            files[tail_file(task)] = export_tail(head)
    return files


def _cloud_tensors(model: SplitNetworks, cards: Sequence[NetworkCard]) -> dict[str, Tensor]:
    core = model.codec.core
    tensors = {f"reconstruction.{n}": t for n, t in core.reconstruction.state_dict().items()}
    tensors |= {f"separation.{n}": t for n, t in model.codec.separation.state_dict().items()}
    if core.gains is not None:
        tensors["gains.log_inverse"] = core.gains.log_inverse
    if model.base is not None:
        tensors |= {f"base.{n}": t for n, t in model.base.state_dict().items()}
    for name, card, head in zip(model.names, cards, model.heads, strict=True):
        if reference_cut(card):
            tensors |= {f"tails.{name}.{n}": t for n, t in head.tail.state_dict().items()}
    return tensors


def _write(folder: Path, manifest: Manifest, files: dict[str, bytes]) -> None:
    entries = {
        name: FileEntry(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
        for name, content in files.items()
    }
    for name, content in files.items():
        write_atomically(folder / name, content)
    write_manifest(folder, manifest.model_copy(update={"files": entries}))


def check_edge(bundle: Bundle, x: NDArray[np.float32], z: Tensor, quality: int) -> None:
    """Raises DataError where the exported files do not give the z of the trained model.

    Rare elements that lie between two integers may differ.
    """
    encoder = Encoder(bundle)
    _, exported = encoder.latents(encoder.features(x), bundle.position(quality))
    differing = float((exported != z[: len(x)].numpy()).mean())
    if differing > DIFFERING_MAX:
        raise DataError(
            f"the exported edge differs from the trained model in {differing:.2%} of z; the export is wrong"
        )
