"""Everything about a cloud server that can be chosen, checked where it enters."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

from shared.codec.bitstream import MAX_STREAM_BYTES
from shared.errors import RequestError
from shared.image import MAX_FILE_BYTES

ADMIN_TOKEN_MIN = 16  # characters


@dataclass(frozen=True)
class CloudSettings:
    """One cloud process. Raises RequestError for a value out of range.

    bundle: folder of the bundle. host: address that both ports bind. grpc_port, http_port: 0 takes a free one.
    device: torch's name ("cpu", "cuda"). threads: of torch, None leaves torch's choice. encode_threads: of ONNX
    Runtime, for images that arrive over HTTP.
    batch_max: pictures in one batch. batch_wait_ms: how long the first of a batch waits for more.
    queue_max: pictures that wait; more are turned away. rpcs_max: gRPC calls served at once; requests_max: HTTP
    requests, fewer because each may hold a whole image file.
    streams_max: open streams of each gRPC method that has them, well below rpcs_max, so that other calls are answered.
    stream_requests_max: requests of one stream that are worked on at once. stream_idle_ms: a stream with nothing to
    read and nothing in work for so long is ended.
    deadline_ms: for a request that brings none, and the most that any may take.
    message_bytes_max: a gRPC message. image_bytes_max: an HTTP body. bodies_bytes_max: the HTTP bodies that are held
    at once; more are turned away. grid_cells_max: latent cells of a picture (a small stream may claim a large grid; the
    bundle's own grid is always allowed).
    answers_kept: answers remembered by request id. answers_bytes_max: memory that they take, about.
    connections_max: open connections of each port; None takes a quarter of the process's descriptors. head_ms: time
    for the head of an HTTP request, and for the preface of an HTTP/2 connection. keep_alive_ms: an HTTP connection
    without a request for so long is closed.
    drain_ms: time to finish what runs when the process is told to end.
    tasks_poll_ms: how often the bundle's folder is looked at for tasks that were added or taken out.
    admin_token: what POST /admin/reload asks for; None: there is no such call.
    archive: folder that keeps every bitstream that was answered; None keeps nothing. archive_bytes_max: all its files
    together. archive_age_max_days: older records are deleted.
    """

    bundle: Path
    host: str = "127.0.0.1"
    grpc_port: int = 50051
    http_port: int = 8080
    device: str = "cpu"
    threads: int | None = None
    encode_threads: int = 1
    batch_max: int = 16
    batch_wait_ms: float = 2.0
    queue_max: int = 64
    rpcs_max: int = 128
    requests_max: int = 32
    streams_max: int = 32
    stream_requests_max: int = 16
    stream_idle_ms: int = 60_000
    deadline_ms: int = 30_000
    message_bytes_max: int = MAX_STREAM_BYTES + 65_536
    image_bytes_max: int = MAX_FILE_BYTES
    bodies_bytes_max: int = 128 << 20
    grid_cells_max: int = 1024
    answers_kept: int = 1024
    answers_bytes_max: int = 64 << 20
    connections_max: int | None = None
    head_ms: int = 10_000
    keep_alive_ms: int = 30_000
    drain_ms: int = 10_000
    tasks_poll_ms: int = 1000
    admin_token: str | None = field(default=None, repr=False)
    archive: Path | None = None
    archive_bytes_max: int = 1 << 30
    archive_age_max_days: float = 30.0

    def __post_init__(self) -> None:
        lows: dict[str, float] = dict.fromkeys(("grpc_port", "http_port", "batch_wait_ms", "drain_ms"), 0)
        lows["archive_age_max_days"] = 0.001
        for one in fields(self):
            value = getattr(self, one.name)
            low = lows.get(one.name, 1)
            if isinstance(value, int | float) and not value >= low:  # NaN too
                raise RequestError(f"{one.name} is {value}; it must be at least {low}")
        if max(self.grpc_port, self.http_port) > 65_535:
            raise RequestError("a port is at most 65535; 0 takes a free one")
        if self.admin_token is not None and len(self.admin_token) < ADMIN_TOKEN_MIN:
            raise RequestError(
                f"the admin token has {len(self.admin_token)} characters, not {ADMIN_TOKEN_MIN} or more"
            )
        if self.bodies_bytes_max < self.image_bytes_max:
            raise RequestError(f"bodies_bytes_max is {self.bodies_bytes_max}; less than image_bytes_max")
        if self.streams_max * 4 > self.rpcs_max:  # three methods have streams
            raise RequestError(f"streams_max is {self.streams_max}; at most a quarter of rpcs_max")
