"""`isthmus cloud ...`. Each command imports what it needs when it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cloud.archive_commands import KeyFileOption, unlock
from cloud.archive_commands import app as archive_app
from cloud.token_commands import StateOption
from cloud.token_commands import app as tokens_app
from shared.bundle import Bundle
from shared.errors import IsthmusError, RequestError
from shared.process.cli import (
    HOUR_MS,
    PORT_MAX,
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
    wanted_of,
)
from shared.process.commands import CommandTable
from shared.shipped import chosen_bundle
from shared.times import parse_time
from shared.types import Analysis, Wanted

if TYPE_CHECKING:
    from cloud.archive.replay_answers import RunParts
    from cloud.settings import EngineSettings

app = CommandTable(no_args_is_help=True, help="The server side: bytes -> answers.")
app.add_typer(archive_app, name="archive")
app.add_typer(tokens_app, name="token")

DeviceOption = Annotated[
    str, typer.Option(envvar="ISTHMUS_DEVICE", help="torch's name of the device: cpu, cuda")
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, max=THREADS_MAX, help="threads of torch; its own choice by default")
]
BatchOption = Annotated[int, typer.Option(min=1, max=1024, help="images in one batch")]


ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="TOML file; deploy/cloud.toml shows every key")
]
PrintConfigOption = Annotated[
    bool, typer.Option("--print-config", help="print the settings and where each comes from, and end")
]


# The options of `serve` have no defaults here: those of the settings hold.
ServedBundle = Annotated[
    Path | None, typer.Option(help="the bundle's folder, photos or rooms; rooms by default")
]
BundlesOption = Annotated[
    Path | None, typer.Option(help="a folder with one folder for each bundle; then --bundle is not used")
]
DefaultOption = Annotated[
    str | None,
    typer.Option(help="folder, name or fingerprint of the bundle for plain images; the newest by default"),
]
BundlesBytesMaxOption = Annotated[
    int | None, typer.Option(min=1, max=1 << 50, help="memory of loaded bundles, roughly; 4 GiB by default")
]
HostOption = Annotated[str | None, typer.Option(help="address to listen on; 127.0.0.1 by default")]
GrpcPortOption = Annotated[
    int | None, typer.Option(min=0, max=PORT_MAX, help="gRPC; 0 takes a free port; 50051 by default")
]
HttpPortOption = Annotated[
    int | None, typer.Option(min=0, max=PORT_MAX, help="HTTP; 0 takes a free port; 8080 by default")
]
ServingDevice = Annotated[
    str | None, typer.Option(help="torch's name of the device: cpu (the default), cuda")
]
EngineOption = Annotated[
    Literal["local", "ray"] | None,
    typer.Option(help="what runs tails: this process (the default), or replicas in a Ray cluster"),
]
RayAddressOption = Annotated[
    str | None, typer.Option(help="of a running cluster: auto, or host:6379; by default one is started here")
]
ReplicasOption = Annotated[
    int | None, typer.Option(min=1, max=4096, help="replicas of the engine ray, at most; 1 by default")
]
BatchMaxOption = Annotated[
    int | None, typer.Option(min=1, max=1024, help="images in one batch; 16 by default")
]
BatchWaitMsOption = Annotated[
    float | None,
    typer.Option(min=0, max=HOUR_MS, help="how long a batch's first image waits; 2 by default"),
]
QueueMaxOption = Annotated[
    int | None,
    typer.Option(min=1, max=1 << 16, help="images that wait; more are turned away; 64 by default"),
]
DeadlineMsOption = Annotated[
    int | None,
    typer.Option(min=1, max=HOUR_MS, help="the most that a request may take; 30000 by default"),
]
TokensOption = Annotated[
    Path | None, typer.Option(help="file of tokens; ~/.local/state/isthmus/tokens.json by default")
]
TokenFileOption = Annotated[
    Path | None, typer.Option(help="holds one more token, which may do everything; with it none is made")
]
InsecureOption = Annotated[
    bool | None, typer.Option("--insecure", help="ask nobody for a token, also beyond this machine")
]
CertificateOption = Annotated[
    Path | None, typer.Option(help="PEM, with its chain: TLS on both ports; read again when it changes")
]
KeyOption = Annotated[Path | None, typer.Option(help="PEM, the certificate's key")]
ClientCaOption = Annotated[
    Path | None, typer.Option(help="PEM, who signs the edges' certificates; gRPC then asks each for one")
]
LogFormatOption = Annotated[
    Literal["text", "json"] | None, typer.Option(help="of lines on standard error; text by default")
]
LogLevelOption = Annotated[
    Literal["debug", "info", "warning", "error"] | None,
    typer.Option(help="the least that is logged; info by default, debug has a line a request"),
]
OtlpEndpointOption = Annotated[
    str | None, typer.Option(help="where traces go, OTLP over HTTP: http://localhost:4318; none by default")
]
MetricsCamerasOption = Annotated[
    bool | None, typer.Option("--metrics-cameras", help="show cameras by name at /metrics, too")
]
ArchiveOption = Annotated[
    Path | None, typer.Option(help="folder that keeps the bitstreams; without it nothing is kept")
]
ArchiveBytesMaxOption = Annotated[
    int | None,
    typer.Option(min=1, max=1 << 50, help="size of all files of the archive; 1 GiB by default"),
]
ArchiveAgeMaxDaysOption = Annotated[
    float | None,
    typer.Option(min=0, max=36_500, help="days after which records are deleted; 30 by default"),
]
ArchiveKeyFileOption = Annotated[
    Path | None, typer.Option(help="64 hex digits: bitstreams are stored encrypted, by AES-256-GCM")
]


@app.command()
def serve(
    config: ConfigOption = None,
    print_config: PrintConfigOption = False,
    bundle: ServedBundle = None,
    bundles: BundlesOption = None,
    default: DefaultOption = None,
    bundles_bytes_max: BundlesBytesMaxOption = None,
    host: HostOption = None,
    grpc_port: GrpcPortOption = None,
    http_port: HttpPortOption = None,
    engine: EngineOption = None,
    ray_address: RayAddressOption = None,
    replicas_max: ReplicasOption = None,
    device: ServingDevice = None,
    threads: ThreadsOption = None,
    batch_max: BatchMaxOption = None,
    batch_wait_ms: BatchWaitMsOption = None,
    queue_max: QueueMaxOption = None,
    deadline_ms: DeadlineMsOption = None,
    tokens: TokensOption = None,
    state: StateOption = None,
    token_file: TokenFileOption = None,
    insecure: InsecureOption = None,
    tls_certificate: CertificateOption = None,
    tls_key: KeyOption = None,
    tls_client_ca: ClientCaOption = None,
    archive: ArchiveOption = None,
    archive_bytes_max: ArchiveBytesMaxOption = None,
    archive_age_max_days: ArchiveAgeMaxDaysOption = None,
    archive_key_file: ArchiveKeyFileOption = None,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
    metrics_cameras: MetricsCamerasOption = None,
    otlp_endpoint: OtlpEndpointOption = None,
) -> None:
    """Serve gRPC and HTTP. Prints where it listens, and when it is ready, as JSON lines on stdout.

    A flag goes before its environment variable (ISTHMUS_...), that before the file, that before the default.
    """
    from cloud.settings import CloudSettings
    from shared.process.config import load_settings, print_and_leave
    from shared.process.logs import start_logging

    flags = {
        "bundle": ("--bundle", bundle),
        "shelf.folder": ("--bundles", bundles),
        "shelf.default": ("--default", default),
        "shelf.bytes_max": ("--bundles-bytes-max", bundles_bytes_max),
        "host": ("--host", host),
        "grpc.port": ("--grpc-port", grpc_port),
        "http.port": ("--http-port", http_port),
        "engine.kind": ("--engine", engine),
        "ray.address": ("--ray-address", ray_address),
        "ray.replicas_max": ("--replicas-max", replicas_max),
        "engine.device": ("--device", device),
        "engine.threads": ("--threads", threads),
        "pipeline.batch_max": ("--batch-max", batch_max),
        "pipeline.batch_wait_ms": ("--batch-wait-ms", batch_wait_ms),
        "pipeline.queue_max": ("--queue-max", queue_max),
        "pipeline.deadline_ms": ("--deadline-ms", deadline_ms),
        "auth.tokens": ("--tokens", tokens),
        "state.url": ("--state", state),
        "auth.token_file": ("--token-file", token_file),
        "auth.insecure": ("--insecure", insecure),
        "tls.certificate": ("--tls-certificate", tls_certificate),
        "tls.key": ("--tls-key", tls_key),
        "tls.client_ca": ("--tls-client-ca", tls_client_ca),
        "archive.folder": ("--archive", archive),
        "archive.bytes_max": ("--archive-bytes-max", archive_bytes_max),
        "archive.age_max_days": ("--archive-age-max-days", archive_age_max_days),
        "archive.key_file": ("--archive-key-file", archive_key_file),
        "log.format": ("--log-format", log_format),
        "log.level": ("--log-level", log_level),
        "metrics.cameras": ("--metrics-cameras", metrics_cameras),
        "tracing.otlp_endpoint": ("--otlp-endpoint", otlp_endpoint),
    }
    loaded = load_settings(CloudSettings, config, flags)
    if print_config:
        print_and_leave(loaded)
    start_logging(loaded.settings.log)

    from cloud.server import serve as serve_cloud  # brings gRPC, which logs from here on

    asyncio.run(serve_cloud(loaded.settings))


@app.command()
def replay(
    archive: Annotated[
        str,
        typer.Option(
            envvar="ISTHMUS_ARCHIVE",
            help="folder that `cloud serve` wrote, or a folder or address of segments",
        ),
    ],
    task: Annotated[str, typer.Option(help="task to run, also one that was added later")],
    from_: Annotated[str, typer.Option("--from", help="ISO 8601; UTC where it has no zone; included")],
    to: Annotated[str, typer.Option("--to", help="ISO 8601; UTC where it has no zone; not included")],
    out: Annotated[Path | None, typer.Option(help="JSON lines, one a record")] = None,
    answers: Annotated[
        str | None,
        typer.Option(
            help="in place of --out: folder or address of answers as Parquet, of sealed records, each once; "
            "done again, it goes on"
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            help="with --answers: 1/8 .. 8/8, an eighth of the segments; each may run on its own machine"
        ),
    ] = None,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(
            help="with --answers: ray answers segments side by side on the machines of a Ray cluster"
        ),
    ] = "local",
    ray_address: RayAddressOption = None,
    replicas_max: ReplicasOption = None,
    by: Annotated[
        Literal["captured", "received"],
        typer.Option(help="what --from and --to mean; captured: received where the capture time is unknown"),
    ] = "captured",
    camera: Annotated[str | None, typer.Option(help="of this camera alone")] = None,
    top_k: Annotated[int, typer.Option(min=1, max=100, help="classes a classification returns")] = 5,
    maps: MapsOption = None,
    bundle: BundleOption = None,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    batch: BatchOption = 16,
    force: Annotated[bool, typer.Option("--force", help="replace --out where it exists")] = False,
    archive_key_file: KeyFileOption = None,
) -> None:
    """Run a task over what an archive holds. A server may write to it meanwhile."""
    from cloud.archive.replay import ReplayRequest, replay_archive
    from cloud.archive.replay_answers import Machine, Shard, replay_into

    unlock(archive_key_file)
    since, until = parse_time("from", from_), parse_time("to", to)
    request = ReplayRequest(archive, since, until, camera, task, top_k, maps, by)
    if (out is None) == (answers is None):
        raise RequestError("give either --out, for JSON lines, or --answers, for Parquet")
    if answers is None and (shard is not None or engine == "ray"):
        raise RequestError("--shard and --engine ray go with --answers, which several processes may write to")
    if answers is not None:
        machine, part = Machine(device, threads, batch), None if shard is None else Shard.parse(shard)
        elsewhere = _on_ray(ray_address, replicas_max, device) if engine == "ray" else None
        done = replay_into(request, chosen_bundle(bundle), answers, machine, part, elsewhere)
        counts, more = done.counts, f", {done.known} before, {done.unsealed} not sealed yet"
    else:
        assert out is not None
        counts, more = replay_archive(request, chosen_bundle(bundle), out, force, device, threads, batch), ""
    typer.echo(
        f"{out or answers}: {counts.answered} answered, {counts.failed} not{more}, of {since:%Y-%m-%d %H:%M:%S} to "
        f"{until:%Y-%m-%d %H:%M:%S} UTC"
    )
    for title, number in sorted(counts.errors.items()):
        typer.echo(f"  {title}: {number}")


def _on_ray(address: str | None, replicas_max: int | None, device: str) -> RunParts:
    """What answers parts in processes of a Ray cluster. Raises RequestError without the extra `ray`."""
    from cloud.engine.choice import import_ray
    from cloud.settings import RaySettings

    given = {"address": address, "replicas_max": replicas_max, "gpus": None if device == "cpu" else 1.0}
    settings = RaySettings.of(**{key: value for key, value in given.items() if value is not None})
    engine = import_ray()
    return lambda work: engine.map_items(settings, work.load, len(work.parts))


@app.command()
def decode(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="bitstreams and logs of frames, as `isthmus edge encode` writes them; - for standard input"
        ),
    ],
    task: TaskOption = None,
    top_k: TopKOption = 5,
    maps: MapsOption = None,
    bundle: BundleOption = None,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    force: ForceOption = False,
) -> None:
    """Answer bitstreams and logs of frames from files, in this process: what the server does, without the network.

    A packet that needs another frame finds it among the files before it.
    """
    from cloud.settings import EngineSettings

    wanted = wanted_of(task, top_k, maps)
    settings = EngineSettings.of(device=device, threads=threads)
    opened = Bundle.open(chosen_bundle(bundle))
    for query in wanted.tasks:
        opened.task(query.name)
    _decode(files, opened, settings, wanted, MapFolder(maps, files, force), as_json)


def _decode(
    files: Sequence[Path],
    bundle: Bundle,
    settings: EngineSettings,
    wanted: Wanted,
    folder: MapFolder,
    as_json: bool,
) -> None:
    from cloud.archive.decode_files import FileDecoder
    from cloud.engine.batch_work import Served
    from cloud.engine.load import load
    from cloud.settings import PipelineSettings

    failures = Failures()
    model = load(bundle, settings.device, settings.threads, settings.encode_threads).model
    decoder = FileDecoder(Served(bundle, model), wanted, PipelineSettings().grid_cells_max)
    for path in files:
        with failures.of(path):
            for answer in decoder.answers(path):
                if isinstance(answer.analysis, IsthmusError):
                    with failures.of(path):
                        raise answer.analysis
                    continue
                analysis = folder.save(answer.stem, answer.analysis)
                typer.echo(analysis.model_dump_json() if as_json else _format_answer(answer.name, analysis))
    failures.leave()


def _format_answer(name: str, analysis: Analysis) -> str:
    size, times = analysis.bytes, analysis.times
    head = (
        f"{name}: {size.total} bytes (b_v {size.b_v}, b_z {size.b_z}), quality {analysis.quality}, "
        f"decoded in {times.decode_ms:.1f} ms, answered in {times.tails_ms:.1f} ms"
    )
    return format_analysis(head, analysis)
