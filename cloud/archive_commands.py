"""`isthmus cloud archive ...`: what a server keeps, in the folder of `cloud serve --archive`, and its segments."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from shared.errors import DataError, RequestError
from shared.process.commands import CommandTable, print_error
from shared.times import parse_time, span_of

if TYPE_CHECKING:
    from cloud.archive.encryption import ArchiveKey

app = CommandTable(
    no_args_is_help=True, help="What a server has kept: seal, verify, export, expire, delete, encrypt."
)

ArchiveOption = Annotated[
    str,
    typer.Option(
        envvar="ISTHMUS_ARCHIVE", help="folder that `cloud serve` writes, or a folder or address of segments"
    ),
]
HeadOption = Annotated[Path, typer.Option(envvar="ISTHMUS_ARCHIVE", help="folder that `cloud serve` writes")]
FromOption = Annotated[
    str | None,
    typer.Option("--from", help="ISO 8601; UTC where it has no zone; included; the beginning if absent"),
]
ToOption = Annotated[
    str | None, typer.Option("--to", help="the same; not included; all that is there if absent")
]
ByOption = Annotated[
    Literal["captured", "received"],
    typer.Option(help="what --from and --to mean; captured: received where the capture time is unknown"),
]
KeyFileOption = Annotated[
    Path | None,
    typer.Option(
        "--archive-key-file",
        envvar="ISTHMUS_ARCHIVE_KEY_FILE",
        help="of an encrypted archive: 64 hex digits; ISTHMUS_ARCHIVE_KEY may hold them itself",
    ),
]


@app.command()
def seal(
    archive: HeadOption,
    store: Annotated[
        str | None,
        typer.Option(
            help="folder or address (s3://...) for the segments; segments/ in the archive by default"
        ),
    ] = None,
    older_than: Annotated[
        str, typer.Option(help="since when a record must be there, as 1d, 12h or 30m; 0m for all")
    ] = "1d",
    archive_key_file: KeyFileOption = None,
) -> None:
    """Move older records into segments: immutable files with a Parquet index. A server may run meanwhile."""
    from cloud.segments.seal import seal_archive

    unlock(archive_key_file)
    sealed = seal_archive(archive, _ago("older_than", older_than), store)
    typer.echo(
        f"{archive}: {sealed.records} records ({sealed.bytes:,} bytes) sealed in {sealed.segments} segments"
    )


@app.command()
def verify(archive: ArchiveOption, archive_key_file: KeyFileOption = None) -> None:
    """Check every byte: the index and the data of each segment, and each record of the database."""
    from cloud.segments.verify import Looked, flaws

    unlock(archive_key_file)
    looked, count, started = Looked(), 0, time.monotonic()
    for flaw in flaws(archive, looked):
        count += 1
        typer.echo(flaw)
    seconds = time.monotonic() - started
    summary = (
        f"{looked.records} records ({looked.bytes:,} bytes) in {looked.segments} segments, {seconds:.1f} s"
    )
    if count:
        raise DataError(f"{archive}: {count} flaws in {summary}")
    typer.echo(f"{archive}: no flaw in {summary}")


@app.command()
def export(
    archive: ArchiveOption,
    out: Annotated[str, typer.Option(help="folder or address that takes the segments")],
    from_: FromOption = None,
    to: ToOption = None,
    by: ByOption = "captured",
    camera: Annotated[str | None, typer.Option(help="of this camera alone")] = None,
    archive_key_file: KeyFileOption = None,
) -> None:
    """Copy sealed records into another store, with the frames that they come from. Done again, it goes on."""
    from cloud.segments.change import copy_records
    from cloud.segments.store import SegmentStore, store_of

    unlock(archive_key_file)
    since, until = _span(from_, to)
    copied = copy_records(store_of(archive), SegmentStore(out), since, until, camera, by)
    typer.echo(f"{out}: {copied.records} records in {copied.segments} segments")


@app.command()
def expire(
    archive: ArchiveOption,
    older_than: Annotated[str, typer.Option(help="since when a record must be there, as 365d")],
    archive_key_file: KeyFileOption = None,
) -> None:
    """Delete sealed records that were received too long ago. The server does it for those that are not sealed."""
    from cloud.segments.deleting import expire_everywhere

    unlock(archive_key_file)
    gone = expire_everywhere(archive, _ago("older_than", older_than))
    typer.echo(f"{archive}: {gone.records} records deleted, {gone.segments} segments changed")


@app.command()
def delete(
    archive: ArchiveOption,
    camera: Annotated[str, typer.Option(help="names of cameras, * for any characters")],
    from_: FromOption = None,
    to: ToOption = None,
    by: ByOption = "captured",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would go, and delete nothing")] = False,
    archive_key_file: KeyFileOption = None,
) -> None:
    """Delete records so that the archive's files hold nothing of them. A server may run meanwhile."""
    from cloud.archive.deletion import Deletion
    from cloud.segments.deleting import delete_everywhere, plan_everywhere

    unlock(archive_key_file)
    deletion = Deletion.of(camera, *_span(from_, to), by)
    taken, broken = plan_everywhere(archive, deletion, None if dry_run else print_error)
    if broken:
        print_error(f"{broken} records that stay refer to frames that go; a replay will report them")
    if dry_run:
        typer.echo(f"{archive}: {taken} records would be deleted")
        return
    delete_everywhere(archive, deletion, print_error)
    typer.echo(f"{archive}: {taken} records deleted; no file of the archive holds their bytes")


@app.command()
def encrypt(
    archive: ArchiveOption,
    archive_key_file: KeyFileOption = None,
    new_key_file: Annotated[
        Path | None, typer.Option(help="of a key to use from now on in place of --archive-key-file's")
    ] = None,
) -> None:
    """Encrypt what was kept without a key, by AES-256-GCM, also in segments; or change the key. No server may run.

    Afterwards no bitstream can be read from the archive's files without the key, or with the old one. A kill on the way
    leaves records of both kinds, all whole; doing it again finishes.
    """
    from cloud.archive.encryption import read_key, use_key
    from cloud.segments.encrypting import encrypt_everywhere

    key = unlock(archive_key_file)
    if key is None:
        raise RequestError(
            "name the file of the key; `openssl rand -hex 32 > FILE` makes one", setting="archive_key_file"
        )
    new = read_key(new_key_file)
    if new is not None:
        use_key(new)
    count = encrypt_everywhere(archive, new or key, key if new else None)
    typer.echo(f"{archive}: {count} records encrypted with the key {(new or key).id.hex()}")


def unlock(key_file: Path | None) -> ArchiveKey | None:
    """The key of the option or the environment, with which this process reads from here on. Raises RequestError."""
    from cloud.archive.encryption import key_of_environment, read_key, use_key

    key = read_key(key_file) if key_file is not None else key_of_environment()
    if key is not None:
        use_key(key)
    return key


def _span(from_: str | None, to: str | None) -> tuple[datetime | None, datetime | None]:
    """Raises RequestError."""
    since = None if from_ is None else parse_time("from", from_)
    until = None if to is None else parse_time("to", to)
    if since is not None and until is not None and since >= until:
        raise RequestError("the start of the time must be before its end", setting="from")
    return since, until


def _ago(setting: str, text: str) -> datetime:
    """The time that lies so long ago. Raises RequestError."""
    span = span_of(text)
    if span is None:
        raise RequestError(f"{text!r} is no span of time; give one as 1d, 12h or 30m", setting=setting)
    try:
        return datetime.now(UTC) - span
    except OverflowError:
        raise RequestError(
            f"{text} ago there was no calendar; give a shorter time", setting=setting
        ) from None
