"""`isthmus edge ...`. Each command imports what it needs when it runs: `encode` loads no server and no gRPC."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edge.serve_command import serve
from shared.bundle import Bundle
from shared.codec.bitstream import MAX_STREAM_BYTES
from shared.errors import RequestError
from shared.process.cli import (
    HOUR_MS,
    STANDARD,
    THREADS_MAX,
    BundleOption,
    Failures,
    ForceOption,
    JsonOption,
    MapFolder,
    MapsOption,
    TaskOption,
    TopKOption,
    format_analysis,
    is_standard_output,
    read_standard_input,
    stem_of,
    wanted_of,
    write_output,
)
from shared.process.commands import CommandTable, print_error
from shared.shipped import chosen_bundle
from shared.types import Analysis, Wanted, check_camera, new_request_id

if TYPE_CHECKING:
    from edge.capture_time import CapturedFrom
    from edge.client import Client
    from edge.settings import SessionSettings
    from shared.encoder import Encoded, Encoder

SUFFIX = ".isthmus"

app = CommandTable(no_args_is_help=True, help="The camera side: image -> bytes -> cloud.")


def _path(text: str) -> Path:
    """Raises RequestError for an empty text, which Path would take for the current folder."""
    if not text:
        raise RequestError("the output's name is empty")
    return Path(text)


ImagesArgument = Annotated[
    list[Path], typer.Argument(help="image files, - for standard input; or one video, or with --fps a folder")
]
ThreadsOption = Annotated[int, typer.Option(min=1, max=THREADS_MAX, help="threads of ONNX Runtime")]
QualityOption = Annotated[
    int | None, typer.Option(min=0, max=100, help="quality; the bundle's default if absent")
]
BytesMaxOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MAX_STREAM_BYTES,
        help="bytes of a bitstream: takes the best quality that fits, up to --quality",
    ),
]
CloudOption = Annotated[str, typer.Option(envvar="ISTHMUS_CLOUD", help="the cloud's gRPC, HOST:PORT")]
DeadlineOption = Annotated[
    int, typer.Option(min=1, max=HOUR_MS, help="for one request to the cloud, repeats included")
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        envvar="ISTHMUS_CLOUD_TOKEN_FILE",
        help="holds the token for the cloud; ISTHMUS_CLOUD_TOKEN may hold the token itself",
    ),
]
TlsOption = Annotated[
    bool,
    typer.Option(
        "--tls", envvar="ISTHMUS_CLOUD_TLS", help="speak TLS to the cloud, and trust whom this machine trusts"
    ),
]
CaOption = Annotated[
    Path | None,
    typer.Option(envvar="ISTHMUS_CLOUD_CA", help="PEM, who signs the cloud's certificate; means --tls"),
]
CertificateOption = Annotated[
    Path | None,
    typer.Option(envvar="ISTHMUS_CLOUD_CERTIFICATE", help="PEM, this edge's own certificate; means --tls"),
]
KeyOption = Annotated[
    Path | None, typer.Option(envvar="ISTHMUS_CLOUD_KEY", help="PEM, the certificate's key")
]
CameraOption = Annotated[
    str, typer.Option(envvar="ISTHMUS_CAMERA", help="the camera's name, for a cloud that keeps what it gets")
]
CapturedFromOption = Annotated[
    Literal["exif", "mtime", "none"],
    typer.Option(help="where the capture time is from; mtime: the file's where EXIF has none with a zone"),
]

FpsOption = Annotated[
    float | None,
    typer.Option(min=0.01, max=1000, help="of a clip: images a second; all of a video's by default"),
]
HoldOption = Annotated[
    float | None,
    typer.Option(
        min=0, max=4, help="of a clip: how far beyond half a step z may lie from what it is kept at"
    ),
]


@app.command()
def encode(
    images: ImagesArgument,
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            parser=_path,
            metavar="PATH",
            help="file, - for standard output; a folder for several images",
        ),
    ],
    bundle: BundleOption = None,
    quality: QualityOption = None,
    bytes_max: BytesMaxOption = None,
    threads: ThreadsOption = 1,
    fps: FpsOption = None,
    hold: HoldOption = None,
    as_json: JsonOption = False,
) -> None:
    """Encode images into bitstreams, or a clip into a log of frames: what an edge would send."""
    clip = _clip(images, fps, hold, bytes_max)
    targets = _targets(images, output)
    if clip is not None:
        from edge.clip_commands import encode_clip

        encode_clip(clip, targets[0], _encoder(bundle, threads), fps, quality, _settings(hold), as_json)
        return
    encoder = _encoder(bundle, threads)
    failures = Failures()
    for image, target in zip(images, targets, strict=True):
        with failures.of(image):
            encoded = encoder.encode(_source(image), quality, bytes_max, _name(image))
            write_output(target, encoded.data)
            for warning in encoded.warnings:
                print_error(f"{image}: {warning}")
            # Standard output then holds the bitstream and nothing else.
            typer.echo(_format(image, target, encoded, as_json), err=is_standard_output(target))
    failures.leave()


def _format(image: Path, target: Path, encoded: Encoded, as_json: bool) -> str:
    size, times = encoded.bytes, encoded.times
    if as_json:
        fields = {"image": str(image), "output": str(target), "quality": encoded.quality}
        sizes = {"bytes": size.model_dump(), "times": times.model_dump(exclude_none=True)}
        return json.dumps(fields | sizes | {"warnings": encoded.warnings})
    total_ms = (times.read_ms or 0) + (times.front_ms or 0) + (times.code_ms or 0)
    return (
        f"{image} -> {target}: {size.total} bytes (b_v {size.b_v}, b_z {size.b_z}), "
        f"quality {encoded.quality}, {size.bits_per_pixel:.4f} bits per pixel, {total_ms:.0f} ms"
    )


@app.command()
def analyze(
    images: ImagesArgument,
    cloud: CloudOption = "127.0.0.1:50051",
    task: TaskOption = None,
    top_k: TopKOption = 5,
    maps: MapsOption = None,
    bundle: BundleOption = None,
    quality: QualityOption = None,
    bytes_max: BytesMaxOption = None,
    threads: ThreadsOption = 1,
    deadline_ms: DeadlineOption = 10_000,
    camera: CameraOption = "",
    token_file: TokenFileOption = None,
    tls: TlsOption = False,
    ca: CaOption = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
    captured_from: CapturedFromOption = "exif",
    fps: FpsOption = None,
    hold: HoldOption = None,
    as_json: JsonOption = False,
    force: ForceOption = False,
) -> None:
    """Encode images or a clip here, send them to a cloud, print its answers."""
    import asyncio

    from edge.client import Client
    from edge.settings import CloudLink

    wanted = wanted_of(task, top_k, maps)
    link = CloudLink.of(
        address=cloud,
        deadline_ms=deadline_ms,
        token=os.environ.get("ISTHMUS_CLOUD_TOKEN") or None,
        token_file=token_file,
        tls=tls,
        ca=ca,
        certificate=certificate,
        key=key,
    )
    check_camera(camera)
    clip = _clip(images, fps, hold, bytes_max)
    encoder = _encoder(bundle, threads)
    folder = MapFolder(maps, images, force)
    if clip is not None:
        from edge.clip_commands import analyze_clip

        settings = _settings(hold)
        asyncio.run(
            analyze_clip(clip, encoder, link, wanted, camera, folder, fps, quality, settings, as_json)
        )
        return

    def client() -> Client:  # in the event loop that uses it
        return Client(link, camera)

    asyncio.run(_analyze(images, encoder, client, wanted, folder, quality, bytes_max, captured_from, as_json))


app.command()(serve)


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

    failures = Failures()
    pipeline = Pipeline(encoder, client())
    try:
        for image in images:
            with failures.of(image):
                source = _source(image)
                taken = capture_time(source, captured_from)
                analysis = await pipeline.analyze(
                    source, wanted, new_request_id(), quality, bytes_max, captured_at=taken.captured_at
                )
                if taken.warning:
                    warnings = (*analysis.warnings, taken.warning)
                    analysis = analysis.model_copy(update={"warnings": warnings})
                analysis = folder.save(stem_of(image), analysis)
                typer.echo(analysis.model_dump_json() if as_json else _format_answer(image, analysis))
    finally:
        await pipeline.close()
    failures.leave()


def _format_answer(image: Path, analysis: Analysis) -> str:
    size = analysis.bytes
    return format_analysis(f"{image}: {size.total} bytes sent (b_v {size.b_v}, b_z {size.b_z})", analysis)


def _source(image: Path) -> Path | bytes:
    """What the encoder reads: a file, or the bytes of standard input."""
    from shared.image import MAX_FILE_BYTES

    return read_standard_input(MAX_FILE_BYTES) if image == STANDARD else image


def _name(image: Path) -> str:
    return "standard input" if image == STANDARD else str(image)


def _targets(images: Sequence[Path], output: Path) -> list[Path]:
    """The file of each bitstream. Raises RequestError, also where one of them is an image that is to be read."""
    if len(images) == 1 and not output.is_dir():
        _refuse_inputs(images, [output])
        return [output]
    if is_standard_output(output):
        raise RequestError(
            "standard output takes one bitstream; several images need a folder", setting="output"
        )
    if output.exists() and not output.is_dir():
        raise RequestError(f"{output} is a file; several images need a folder", setting="output")
    targets = [output / (stem_of(image) + SUFFIX) for image in images]
    if len(set(targets)) < len(targets):
        raise RequestError("two of the images have the same name, and would overwrite each other's bitstream")
    _refuse_inputs(images, targets)
    try:
        output.mkdir(exist_ok=True)
    except OSError as error:
        raise RequestError(f"cannot make the folder {output}: {error.strerror}") from None
    return targets


def _refuse_inputs(images: Sequence[Path], targets: Sequence[Path]) -> None:
    """Raises RequestError where a bitstream would replace a photograph that may have no copy."""
    from edge.clips import IMAGES

    inputs = {image.resolve() for image in images if image != STANDARD}
    for folder in filter(Path.is_dir, images):  # one that is encoded as a clip
        inputs |= {one.resolve() for one in folder.iterdir() if one.suffix.lower() in IMAGES}
    for target in targets:
        if not is_standard_output(target) and target.resolve() in inputs:
            raise RequestError(
                f"{target} is what is to be encoded; give the output another name", setting="output"
            )


def _clip(
    images: Sequence[Path], fps: float | None, hold: float | None, bytes_max: int | None
) -> Path | None:
    """The clip among the arguments, if there is one. Raises RequestError where it is not the only one."""
    from edge.clips import is_clip

    clips = [image for image in images if is_clip(image, fps)]
    if not clips:
        given = "fps" if fps is not None else "hold" if hold is not None else None
        if given:
            raise RequestError(
                "no clip is given that this could be of: name a video or a folder", setting=given
            )
        return None
    if len(images) > 1:
        raise RequestError(f"{clips[0]} is a clip; name it alone")
    if bytes_max is not None:
        raise RequestError("frames of a clip have one quality, not one size", setting="bytes_max")
    return clips[0]


def _settings(hold: float | None) -> SessionSettings:
    from edge.settings import SessionSettings

    return SessionSettings.of(**({} if hold is None else {"hold": hold}))


def _encoder(bundle: Path | None, threads: int) -> Encoder:
    from shared.encoder import Encoder

    return Encoder(Bundle.open(chosen_bundle(bundle)), threads)
