"""Lists every field of a bitstream, of a log of frames or of a bundle: `isthmus inspect`, `isthmus bundle inspect`.

Decodes no payload and runs no network.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Annotated

import typer

from shared.bundle import FILES, TAIL, TASKS, WEIGHTS, AddedTask, Bundle, tail_file
from shared.codec.bitstream import MAX_STREAM_BYTES
from shared.codec.latent_codec import LatentCodec
from shared.errors import BundleDamagedError
from shared.process.cli import STANDARD, open_stream
from shared.process.commands import CommandTable
from shared.process.inspect_streams import inspect_bitstream, inspect_log, is_log
from shared.process.report import Field, Report
from shared.shipped import find_bundle

app = CommandTable(no_args_is_help=True)


@app.command(name="inspect")
def inspect_command(
    bundle: Annotated[Path, typer.Argument(help="the bundle's folder")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show every field of a bundle, and check every file in it."""
    typer.echo(_shown(inspect_bundle(Bundle.open(find_bundle(bundle))), as_json))


def inspect_path(path: Path, as_json: bool = False) -> Iterator[str]:
    """Lines to print: of a folder or a name that ships as a bundle, of a file or standard input as a bitstream or a
    log of frames.

    Raises RequestError (nothing there), BitstreamError or a subclass, or BundleError or a subclass; for a log only
    after what comes before the damage.
    """
    if (bundle := find_bundle(path)).is_dir():
        yield _shown(inspect_bundle(Bundle.open(bundle)), as_json)
    else:
        with open_stream(path) as file:
            yield from _inspect_file(file, "standard input" if path == STANDARD else str(path), as_json)


def _inspect_file(file: BufferedReader, name: str, as_json: bool) -> Iterator[str]:
    if is_log(file.peek(1)):
        yield from inspect_log(file, name, as_json)
    else:
        yield _shown(inspect_bitstream(file.read(MAX_STREAM_BYTES + 1), name), as_json)


def _shown(report: Report, as_json: bool) -> str:
    return report.as_json() if as_json else report.as_text()


def inspect_bundle(bundle: Bundle) -> Report:
    """Reads and checks every file of the bundle. Raises BundleDamagedError."""
    manifest = bundle.manifest
    for name in sorted(manifest.files):
        bundle.read(name)
    for added in bundle.added:
        added.read(bundle.path / TASKS / added.task.name)
    fields = [*_bundle_fields(bundle)]
    for task in bundle.tasks:
        values = task.model_dump(mode="json", exclude={"name"})
        fields += [Field(f"task.{task.name}.{key}", value) for key, value in values.items()]
    for group in ("training", "figures", "licences"):
        fields += [Field(f"{group}.{key}", value) for key, value in getattr(manifest, group).items()]
    known = {*FILES, *(tail_file(task.name) for task in manifest.tasks)}
    for name, entry in manifest.files.items():
        note = "checked" if name in known else "checked, of a later version"
        fields.append(Field(f"file.{name}", {"bytes": entry.bytes, "sha256": entry.sha256}, note))
    for added in bundle.added:
        fields += _added_fields(added)
    fields += _entropy_fields(bundle)
    return Report(f"{bundle.path}: an Isthmus bundle", tuple(fields))


def _bundle_fields(bundle: Bundle) -> Iterator[Field]:
    manifest, size, levels = bundle.manifest, bundle.manifest.preprocess, bundle.levels
    yield Field("format", manifest.format)
    yield Field("name", manifest.name)
    yield Field("created", manifest.created)
    yield Field("fingerprint", manifest.fingerprint, f"bitstreams carry {bundle.fingerprint.hex()}")
    yield Field("preprocess.size", [size.height, size.width], "height x width, pixels")
    yield Field("preprocess.fit", size.fit)
    if size.resize:
        yield Field("preprocess.resize", size.resize, "the shorter side, before the cut")
    yield Field("preprocess.interpolation", size.interpolation)
    yield Field("preprocess.mean", list(size.mean), "RGB, of 0..1")
    yield Field("preprocess.std", list(size.std))
    for key, value in manifest.codec.items():
        yield Field(f"codec.{key}", value)
    yield Field("quality.range", [levels.lowest, levels.highest], "every whole number in it can be used")
    yield Field("quality.default", bundle.quality(None))
    for level in manifest.qualities:
        yield Field(f"quality.{level.quality}.lambda", level.lambda_, "a level")


def _added_fields(added: AddedTask) -> Iterator[Field]:
    name = added.task.name
    yield Field(f"added.{name}.created", added.created, "added after the bundle was made")
    for group in ("codec", "training", "figures", "licences"):
        for key, value in getattr(added, group).items():
            yield Field(f"added.{name}.{group}.{key}", value)
    for file, entry in ((WEIGHTS, added.file), (TAIL, added.tail)):
        if entry is not None:
            checked = {"bytes": entry.bytes, "sha256": entry.sha256}
            yield Field(f"file.{TASKS}/{name}/{file}", checked, "checked")


def _entropy_fields(bundle: Bundle) -> Iterator[Field]:
    """The integers, and the proven bounds of their sums. Raises BundleDamagedError."""
    tensors = bundle.entropy()
    try:
        bounds = LatentCodec(tensors).bounds()
    except (KeyError, ValueError) as error:
        raise BundleDamagedError(f"{bundle.path}: the integers do not make a codec: {error}") from None
    for name, tensor in sorted(tensors.items()):
        yield Field(f"entropy.{name}", f"{tensor.dtype.name} {list(tensor.shape)}")
    for name, (bound, float_name) in bounds.items():
        yield Field(f"exact.{name}", {"bound": bound, "float": float_name}, "largest partial sum")
