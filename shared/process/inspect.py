"""Lists every field of a bitstream or of a bundle: `isthmus inspect`, `isthmus bundle inspect`.

Decodes no payload and runs no network.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from shared.bundle import FILES, TAIL, TASKS, WEIGHTS, AddedTask, Bundle, tail_file
from shared.codec.bitstream import MAGIC, VERSION, Bitstream
from shared.codec.latent_codec import LatentCodec
from shared.errors import BundleDamagedError
from shared.process.cli import STANDARD, read_stream
from shared.process.commands import CommandTable

app = CommandTable(no_args_is_help=True)


@dataclass(frozen=True)
class Field:
    """name: dotted, as in the format's description; note: its unit or meaning."""

    name: str
    value: Any
    note: str = ""


@dataclass(frozen=True)
class Report:
    title: str
    fields: tuple[Field, ...]

    def as_json(self) -> str:
        return json.dumps({field.name: field.value for field in self.fields}, indent=2, ensure_ascii=False)

    def as_text(self) -> str:
        """A table, as wide as the terminal."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=self.title, title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0)
        )
        for style in ("cyan", "", "dim"):
            table.add_column(style=style, overflow="fold")
        for field in self.fields:
            # Text and not str: what stands in a file must not be read as rich's markup.
            table.add_row(Text(field.name), Text(_text(field.value)), Text(field.note))
        out = io.StringIO()
        Console(file=out, width=None if Console().is_terminal else 160).print(table)
        return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


@app.command(name="inspect")
def inspect_command(
    bundle: Annotated[Path, typer.Argument(help="the bundle's folder")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show every field of a bundle, and check every file in it."""
    report = inspect_bundle(Bundle.open(bundle))
    typer.echo(report.as_json() if as_json else report.as_text())


def inspect_path(path: Path) -> Report:
    """Reads a folder as a bundle, a file or standard input as a bitstream.

    Raises RequestError (nothing there), BitstreamError or a subclass, or BundleError or a subclass.
    """
    if path.is_dir():
        return inspect_bundle(Bundle.open(path))
    return inspect_bitstream(read_stream(path), "standard input" if path == STANDARD else str(path))


def inspect_bitstream(data: bytes, name: str) -> Report:
    """Lists the fields of a packed bitstream. Raises BitstreamError or a subclass."""
    stream = Bitstream.unpack(data)
    payload = len(stream.b_v) + len(stream.b_z)
    return Report(
        f"{name}: an Isthmus bitstream",
        (
            Field("magic", f"0x{MAGIC:02x}"),
            Field("version", VERSION),
            Field("fingerprint", stream.fingerprint.hex(), "of the bundle that made it"),
            Field("quality", stream.quality, "0..100, on the scale of the bundle that made it"),
            Field("h", stream.h, "rows of the latent grid"),
            Field("w", stream.w, "columns of the latent grid"),
            Field("b_v.bytes", len(stream.b_v), "coded hyperprior"),
            Field("b_z.bytes", len(stream.b_z), "coded latent"),
            Field("crc32", data[-4:][::-1].hex(), "of all bytes before it; it fits"),
            Field("total.bytes", len(data), f"{len(data) - payload} of them container"),
            Field("b_v", stream.b_v.hex(), "hexadecimal"),
            Field("b_z", stream.b_z.hex(), "hexadecimal"),
        ),
    )


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
        bounds = LatentCodec(tensors).path.bounds()
    except (KeyError, ValueError) as error:
        raise BundleDamagedError(f"{bundle.path}: the integers do not make a codec: {error}") from None
    for name, tensor in sorted(tensors.items()):
        yield Field(f"entropy.{name}", f"{tensor.dtype.name} {list(tensor.shape)}")
    for name, (bound, float_name) in bounds.items():
        yield Field(f"exact.{name}", {"bound": bound, "float": float_name}, "largest partial sum")


def _text(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return f"{len(value)}: {', '.join(value)}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
