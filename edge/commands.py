"""`isthmus edge ...`. Each command imports what it needs when it runs: `encode` loads no server and no gRPC."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from shared.bundle import Bundle, default_bundle
from shared.errors import RequestError
from shared.files import write_atomically
from shared.process.cli import Failures, MapFolder, MapsOption, complain, told, wanted_of
from shared.process.commands import CommandTable
from shared.types import Analysis, Wanted, check_camera, new_request_id

if TYPE_CHECKING:
    from edge.capture_time import CapturedFrom
    from edge.client import Client
    from shared.encoder import Encoder

SUFFIX = ".isthmus"

app = CommandTable(no_args_is_help=True, help="The camera side: image -> bytes -> cloud.")


def _path(text: str) -> Path:
    """Raises RequestError for an empty one, which Path would take for the folder where the user stands."""
    if not text:
        raise RequestError("the output's name is empty")
    return Path(text)


BundleOption = Annotated[
    Path | None, typer.Option(envvar="ISTHMUS_BUNDLE", help="bundle; the shipped one by default")
]
ThreadsOption = Annotated[int, typer.Option(min=1, help="threads of ONNX Runtime")]
QualityOption = Annotated[
    int | None, typer.Option(min=0, max=100, help="quality; the bundle's default without it")
]
BytesMaxOption = Annotated[
    int | None,
    typer.Option(min=1, help="bytes of a bitstream: takes the best quality that fits, up to --quality"),
]
CloudOption = Annotated[str, typer.Option(envvar="ISTHMUS_CLOUD", help="the cloud's gRPC, HOST:PORT")]
DeadlineOption = Annotated[int, typer.Option(min=1, help="for one request to the cloud, repeats included")]
CameraOption = Annotated[
    str, typer.Option(envvar="ISTHMUS_CAMERA", help="the camera's name, for a cloud that keeps what it gets")
]
CapturedFromOption = Annotated[
    Literal["exif", "mtime", "none"],
    typer.Option(help="where the capture time is from; mtime: the file's where EXIF has none with a zone"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON document a line")]


@app.command()
def encode(
    images: Annotated[list[Path], typer.Argument(help="image files")],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", parser=_path, metavar="PATH", help="file; a folder for several images"
        ),
    ],
    bundle: BundleOption = None,
    quality: QualityOption = None,
    bytes_max: BytesMaxOption = None,
    threads: ThreadsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Encode images into bitstreams: what an edge would send."""
    import json

    targets = _targets(images, output)
    encoder = _encoder(bundle, threads)
    failures = Failures()
    for image, target in zip(images, targets, strict=True):
        with failures.of(image):
            encoded = encoder.encode(image, quality, bytes_max)
            try:
                write_atomically(target, encoded.data)
            except OSError as error:
                raise RequestError(f"cannot write {target}: {error.strerror}") from None
            for warning in encoded.warnings:
                complain(f"{image}: {warning}")
            size, times = encoded.bytes, encoded.times
            if as_json:
                fields = {"image": str(image), "output": str(target), "quality": encoded.stream.quality}
                sizes = {"bytes": size.model_dump(), "times": times.model_dump(exclude_none=True)}
                typer.echo(json.dumps(fields | sizes | {"warnings": encoded.warnings}))
            else:
                total_ms = (times.read_ms or 0) + (times.front_ms or 0) + (times.code_ms or 0)
                typer.echo(
                    f"{image} -> {target}: {size.total} bytes (b_v {size.b_v}, b_z {size.b_z}), "
                    f"quality {encoded.stream.quality}, {size.bits_per_pixel:.4f} bits per pixel, {total_ms:.0f} ms"
                )
    failures.leave()


@app.command()
def analyze(
    images: Annotated[list[Path], typer.Argument(help="image files")],
    cloud: CloudOption = "127.0.0.1:50051",
    task: Annotated[
        list[str] | None, typer.Option(help="task wanted, repeatable; every task by default")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, max=100, help="classes to show")] = 5,
    maps: MapsOption = None,
    bundle: BundleOption = None,
    quality: QualityOption = None,
    bytes_max: BytesMaxOption = None,
    threads: ThreadsOption = 1,
    deadline_ms: DeadlineOption = 10_000,
    camera: CameraOption = "",
    captured_from: CapturedFromOption = "exif",
    as_json: JsonOption = False,
) -> None:
    """Encode images here, send them to a cloud, print its answers."""
    import asyncio

    from edge.client import Client
    from edge.settings import CloudLink

    wanted = wanted_of(task, top_k, maps)
    link = CloudLink.of(address=cloud, deadline_ms=deadline_ms)
    check_camera(camera)
    encoder = _encoder(bundle, threads)
    folder = MapFolder(maps, images)

    def client() -> Client:  # in the event loop that uses it
        return Client(link, camera)

    asyncio.run(_analyze(images, encoder, client, wanted, folder, quality, bytes_max, captured_from, as_json))


@app.command()
def serve(
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file; deploy/edge.toml shows every key")
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="print the settings and where each comes from, and end")
    ] = False,
    cloud: Annotated[
        str | None, typer.Option(help="the cloud's gRPC, HOST:PORT; 127.0.0.1:50051 by default")
    ] = None,
    host: Annotated[str | None, typer.Option(help="address to listen on; 127.0.0.1 by default")] = None,
    port: Annotated[int | None, typer.Option(help="HTTP port; 0 takes a free one; 8081 by default")] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="the bundle's folder; the shipped one by default")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="threads of ONNX Runtime; 1 by default")] = None,
    deadline_ms: Annotated[
        int | None, typer.Option(help="time for one request to the cloud, repeats included; 10000 by default")
    ] = None,
    camera: Annotated[
        str | None, typer.Option(help="the camera's name, for images whose request brings none")
    ] = None,
) -> None:
    """Serve POST /analyze on this box. Prints where it listens, and when it is ready, as JSON lines on stdout.

    A flag goes before its environment variable (ISTHMUS_...), that before the file, that before the default.
    """
    import asyncio

    from edge.server import serve as serve_edge
    from edge.settings import EdgeSettings
    from shared.process.config import load_settings, print_and_leave
    from shared.process.process import log_to_stderr

    flags = {
        "bundle": ("--bundle", bundle),
        "host": ("--host", host),
        "camera": ("--camera", camera),
        "http.port": ("--port", port),
        "cloud.address": ("--cloud", cloud),
        "cloud.deadline_ms": ("--deadline-ms", deadline_ms),
        "encoder.threads": ("--threads", threads),
    }
    loaded = load_settings(EdgeSettings, config, flags)
    if print_config:
        print_and_leave(loaded)
    log_to_stderr()
    asyncio.run(serve_edge(loaded.settings))


async def _analyze(
    images: Sequence[Path],
    encoder: Encoder,
    client: Callable[[], Client],
    wanted: Wanted,
    folder: MapFolder,
    quality: int | None,
    bytes_max: int | None,
    captured_from: CapturedFrom,
    as_json: bool,
) -> None:
    from edge.capture_time import capture_time
    from edge.pipeline import Pipeline

    pipeline = Pipeline(encoder, client())
    try:
        for image in images:
            taken = capture_time(image, captured_from)
            analysis = await pipeline.analyze(
                image, wanted, new_request_id(), quality, bytes_max, captured_at=taken.captured_at
            )
            if taken.warning:
                warnings = (*analysis.warnings, taken.warning)
                analysis = analysis.model_copy(update={"warnings": warnings})
            analysis = folder.keep(image.stem, analysis)
            typer.echo(analysis.model_dump_json() if as_json else _told(image, analysis))
    finally:
        await pipeline.close()


def _told(image: Path, analysis: Analysis) -> str:
    size = analysis.bytes
    return told(f"{image}: {size.total} bytes sent (b_v {size.b_v}, b_z {size.b_z})", analysis)


def _targets(images: Sequence[Path], output: Path) -> list[Path]:
    """Where each bitstream goes. Raises RequestError."""
    if len(images) == 1 and not output.is_dir():
        return [output]
    if output.exists() and not output.is_dir():
        raise RequestError(f"{output} is a file; several images need a folder as -o")
    try:
        output.mkdir(exist_ok=True)
    except OSError as error:
        raise RequestError(f"cannot make the folder {output}: {error.strerror}") from None
    targets = [output / (image.stem + SUFFIX) for image in images]
    if len(set(targets)) < len(targets):
        raise RequestError("two of the images have the same name, and would overwrite each other's bitstream")
    return targets


def _encoder(bundle: Path | None, threads: int) -> Encoder:
    from shared.encoder import Encoder

    return Encoder(Bundle.open(bundle or default_bundle()), threads)
