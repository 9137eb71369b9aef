"""Every field of a bitstream or of a bundle, for a person to read. Decodes no payload and runs no network."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.bundle import FILES, TAIL, TASKS, WEIGHTS, Bundle, tail_file
from shared.codec.bitstream import MAGIC, VERSION, Bitstream
from shared.codec.latent_codec import LatentCodec
from shared.errors import BundleDamagedError
from shared.process.cli import read_stream


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
            table.add_row(Text(field.name), Text(_told(field.value)), Text(field.note))
        out = io.StringIO()
        Console(file=out, width=None if Console().is_terminal else 160).print(table)
        return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def inspect_path(path: Path) -> Report:
    """A folder is taken for a bundle, a file for a bitstream.

    Raises RequestError (nothing there), BitstreamError and its kin, or BundleError and its kin.
    """
    if path.is_dir():
        return inspect_bundle(Bundle.open(path))
    return inspect_bitstream(read_stream(path), str(path))


def inspect_bitstream(data: bytes, name: str) -> Report:
    """Raises BitstreamError and its kin."""
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
    tensors = bundle.entropy()
    try:
        bounds = LatentCodec(tensors).path.bounds()
    except (KeyError, ValueError) as error:
        raise BundleDamagedError(f"{bundle.path}: the integers do not make a codec: {error}") from None
    size, levels = manifest.preprocess, bundle.levels
    fields = [
        Field("format", manifest.format),
        Field("name", manifest.name),
        Field("created", manifest.created),
        Field("fingerprint", manifest.fingerprint, f"bitstreams carry {bundle.fingerprint.hex()}"),
        Field("preprocess.size", [size.height, size.width], "height x width, pixels"),
        Field("preprocess.fit", size.fit),
        *(
            [Field("preprocess.resize", size.resize, "the shorter side, before the cut")]
            if size.resize
            else []
        ),
        Field("preprocess.interpolation", size.interpolation),
        Field("preprocess.mean", list(size.mean), "RGB, of 0..1"),
        Field("preprocess.std", list(size.std)),
        *(Field(f"codec.{key}", value) for key, value in manifest.codec.items()),
        Field("quality.range", [levels.lowest, levels.highest], "every whole quality of it can be used"),
        Field("quality.default", bundle.quality(None)),
        *(Field(f"quality.{level.quality}.lambda", level.lambda_, "a level") for level in manifest.qualities),
    ]
    for added in bundle.added:
        added.read(bundle.path / TASKS / added.task.name)
    for task in bundle.tasks:
        given = task.model_dump(mode="json", exclude={"name"})
        fields += [Field(f"task.{task.name}.{key}", value) for key, value in given.items()]
    for group in ("training", "figures", "licences"):
        fields += [Field(f"{group}.{key}", value) for key, value in getattr(manifest, group).items()]
    known = {*FILES, *(tail_file(task.name) for task in manifest.tasks)}
    for name, entry in manifest.files.items():
        note = "checked" if name in known else "checked, of a later version"
        fields.append(Field(f"file.{name}", {"bytes": entry.bytes, "sha256": entry.sha256}, note))
    for added in bundle.added:
        fields.append(
            Field(f"added.{added.task.name}.created", added.created, "added after the bundle was made")
        )
        for group in ("codec", "training", "figures", "licences"):
            fields += [
                Field(f"added.{added.task.name}.{group}.{key}", value)
                for key, value in getattr(added, group).items()
            ]
        for name, file in ((WEIGHTS, added.file), (TAIL, added.tail)):
            if file is not None:
                told = {"bytes": file.bytes, "sha256": file.sha256}
                fields.append(Field(f"file.{TASKS}/{added.task.name}/{name}", told, "checked"))
    for name, tensor in sorted(tensors.items()):
        fields.append(Field(f"entropy.{name}", f"{tensor.dtype.name} {list(tensor.shape)}"))
    for name, (bound, float_name) in bounds.items():
        fields.append(Field(f"exact.{name}", {"bound": bound, "float": float_name}, "largest partial sum"))
    return Report(f"{bundle.path}: an Isthmus bundle", tuple(fields))


def _told(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return f"{len(value)}: {', '.join(value)}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
