"""Everything about an edge that can be chosen, checked where it enters."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from shared.codec.bitstream import MAX_STREAM_BYTES
from shared.errors import RequestError
from shared.image import MAX_FILE_BYTES
from shared.types import check_camera


@dataclass(frozen=True)
class EdgeSettings:
    """One edge process. Raises RequestError for a value out of range.

    bundle: folder of the bundle. cloud: host:port of the cloud's gRPC. host, http_port: of the local API; port 0
    takes a free one. threads: of ONNX Runtime. camera: the name that pictures are sent under where a request brings
    none; empty: no name.
    deadline_ms: for one request to the cloud, its repeats included. attempts_max: how often one request is sent.
    in_flight_max: requests that the cloud works on for this edge at once; more wait, within their deadline.
    requests_max: requests of the local API at once; more are turned away.
    message_bytes_max, answer_bytes_max: a gRPC message to the cloud, and one from it. image_bytes_max: an HTTP body.
    bodies_bytes_max: the HTTP bodies that are held at once; more are turned away.
    connections_max: open HTTP connections; None takes a quarter of the process's descriptors. head_ms: time for the
    head of a request. keep_alive_ms: a connection without a request for so long is closed.
    drain_ms: time to finish what runs when the process is told to end.
    """

    bundle: Path
    cloud: str = "127.0.0.1:50051"
    host: str = "127.0.0.1"
    http_port: int = 8081
    threads: int = 1
    camera: str = ""
    deadline_ms: int = 10_000
    attempts_max: int = 4
    in_flight_max: int = 8
    requests_max: int = 16
    message_bytes_max: int = MAX_STREAM_BYTES + 65_536
    answer_bytes_max: int = 256 << 20
    image_bytes_max: int = MAX_FILE_BYTES
    bodies_bytes_max: int = 64 << 20
    connections_max: int | None = None
    head_ms: int = 10_000
    keep_alive_ms: int = 30_000
    drain_ms: int = 10_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            low = 0 if field.name in ("http_port", "drain_ms") else 1
            if isinstance(value, int) and value < low:
                raise RequestError(f"{field.name} is {value}; it must be at least {low}")
        if self.http_port > 65_535:
            raise RequestError("a port is at most 65535; 0 takes a free one")
        if self.bodies_bytes_max < self.image_bytes_max:
            raise RequestError(f"bodies_bytes_max is {self.bodies_bytes_max}; less than image_bytes_max")
        check_camera(self.camera)
        name, _, port = self.cloud.rpartition(":")
        if "/" in name or not name or not port.isdecimal() or not 0 < int(port) < 65_536:
            raise RequestError(f"{self.cloud!r} is no address of a cloud; give HOST:PORT (no http://)")
