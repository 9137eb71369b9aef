"""`isthmus edge serve`. Imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from shared.process.cli import HOUR_MS, PORT_MAX, THREADS_MAX

# The options have no defaults here: those of the settings hold.
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="TOML file; deploy/edge.toml shows every key")
]
PrintConfigOption = Annotated[
    bool, typer.Option("--print-config", help="print the settings and where each comes from, and end")
]
CloudOption = Annotated[
    str | None, typer.Option(help="the cloud's gRPC, HOST:PORT; 127.0.0.1:50051 by default")
]
HostOption = Annotated[str | None, typer.Option(help="address to listen on; 127.0.0.1 by default")]
PortOption = Annotated[
    int | None, typer.Option(min=0, max=PORT_MAX, help="HTTP; 0 takes a free port; 8081 by default")
]
BundleOption = Annotated[
    Path | None, typer.Option(help="the bundle's folder, photos or rooms; rooms by default")
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, max=THREADS_MAX, help="of ONNX Runtime; 1 by default")
]
DeadlineMsOption = Annotated[
    int | None,
    typer.Option(min=1, max=HOUR_MS, help="for a request to the cloud, repeats included; 10000 by default"),
]
CameraOption = Annotated[
    str | None, typer.Option(help="the camera's name, for images whose request brings none")
]
UpdateFromOption = Annotated[
    str | None, typer.Option(metavar="URL", help="the cloud's HTTP; runs the bundle that the cloud wants")
]
BundlesOption = Annotated[Path | None, typer.Option(help="folder of the bundles that are downloaded")]
RequireSignatureOption = Annotated[
    Path | None, typer.Option(metavar="KEY", help="PEM, the public key of who must have signed bundles")
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(help="holds the token for the cloud; ISTHMUS_CLOUD_TOKEN may hold it itself"),
]
TlsOption = Annotated[
    bool | None, typer.Option("--tls", help="speak TLS to the cloud, and trust whom this machine trusts")
]
CaOption = Annotated[Path | None, typer.Option(help="PEM, who signs the cloud's certificate; means --tls")]
CertificateOption = Annotated[Path | None, typer.Option(help="PEM, this edge's own certificate; means --tls")]
KeyOption = Annotated[Path | None, typer.Option(help="PEM, the certificate's key")]
LogFormatOption = Annotated[
    Literal["text", "json"] | None, typer.Option(help="of lines on standard error; text by default")
]
LogLevelOption = Annotated[
    Literal["debug", "info", "warning", "error"] | None,
    typer.Option(help="the least that is logged; info by default, debug has a line a request"),
]
MetricsCamerasOption = Annotated[
    bool | None, typer.Option("--metrics-cameras", help="show cameras by name at /metrics, too")
]
OtlpEndpointOption = Annotated[
    str | None,
    typer.Option(help="where traces go, OTLP over HTTP: http://localhost:4318; none by default"),
]


def serve(
    config: ConfigOption = None,
    print_config: PrintConfigOption = False,
    cloud: CloudOption = None,
    host: HostOption = None,
    port: PortOption = None,
    bundle: BundleOption = None,
    threads: ThreadsOption = None,
    deadline_ms: DeadlineMsOption = None,
    camera: CameraOption = None,
    update_from: UpdateFromOption = None,
    bundles: BundlesOption = None,
    require_signature: RequireSignatureOption = None,
    token_file: TokenFileOption = None,
    tls: TlsOption = None,
    ca: CaOption = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
    metrics_cameras: MetricsCamerasOption = None,
    otlp_endpoint: OtlpEndpointOption = None,
) -> None:
    """Serve POST /analyze on this box. Prints where it listens, and when it is ready, as JSON lines on stdout.

    A flag goes before its environment variable (ISTHMUS_...), that before the file, that before the default.
    """
    import asyncio

    from edge.settings import EdgeSettings
    from shared.process.config import load_settings, print_and_leave
    from shared.process.logs import start_logging

    flags = {
        "bundle": ("--bundle", bundle),
        "host": ("--host", host),
        "camera": ("--camera", camera),
        "http.port": ("--port", port),
        "cloud.address": ("--cloud", cloud),
        "cloud.deadline_ms": ("--deadline-ms", deadline_ms),
        "update.url": ("--update-from", update_from),
        "update.folder": ("--bundles", bundles),
        "update.require_signature": ("--require-signature", require_signature),
        "cloud.token_file": ("--token-file", token_file),
        "cloud.tls": ("--tls", tls),
        "cloud.ca": ("--ca", ca),
        "cloud.certificate": ("--certificate", certificate),
        "cloud.key": ("--key", key),
        "encoder.threads": ("--threads", threads),
        "log.format": ("--log-format", log_format),
        "log.level": ("--log-level", log_level),
        "metrics.cameras": ("--metrics-cameras", metrics_cameras),
        "tracing.otlp_endpoint": ("--otlp-endpoint", otlp_endpoint),
    }
    loaded = load_settings(EdgeSettings, config, flags)
    if print_config:
        print_and_leave(loaded)
    start_logging(loaded.settings.log)

    from edge.server import serve as serve_edge  # brings gRPC, which logs from here on

    asyncio.run(serve_edge(loaded.settings))
