"""Everything about an edge that can be chosen, by owner, checked where it enters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, field_validator

from shared.bundle import HOLD_MAX
from shared.codec.bitstream import MAX_STREAM_BYTES
from shared.errors import RequestError
from shared.process.config import (
    THREADS_MAX,
    HttpSettings,
    LogSettings,
    MetricsSettings,
    Section,
    ServerSettings,
    TracingSettings,
)
from shared.session_packets import Replies
from shared.shipped import BundlePath, default_bundle
from shared.types import check_camera


class CloudLink(Section):
    """The edge's side of the way to its cloud. Owner: `edge.client`."""

    address: str = Field(
        default="127.0.0.1:50051",
        description="the cloud's gRPC, HOST:PORT; of several, separated by commas, the next is asked where one is away",
    )
    deadline_ms: int = Field(
        default=10_000, ge=1, description="time for one request to the cloud, repeats included"
    )
    attempts_max: int = Field(default=4, ge=1, description="how often one request is sent")
    in_flight_max: int = Field(
        default=8,
        ge=1,
        description="requests that the cloud works on for this edge at once; more wait, within their deadline",
    )
    message_bytes_max: int = Field(
        default=MAX_STREAM_BYTES + 65_536, ge=1, description="size of a message to the cloud"
    )
    answer_bytes_max: int = Field(default=256 << 20, ge=1, description="size of a message from the cloud")
    token: SecretStr | None = Field(default=None, description="what the cloud's `token add` printed")
    token_file: Path | None = Field(
        default=None,
        description="file that holds the token, read again when it changes; it goes before `token`",
    )
    tls: bool = Field(
        default=False,
        description="speak TLS, and trust whom this machine trusts; ca and certificate mean it too",
    )
    ca: Path | None = Field(
        default=None,
        description="PEM file of who signs the cloud's certificate, in place of whom this machine trusts",
    )
    certificate: Path | None = Field(
        default=None, description="PEM file of this edge's own certificate, for a cloud that asks for one"
    )
    key: Path | None = Field(default=None, description="PEM file of its key, without a passphrase")

    def model_post_init(self, _: Any) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key are given together; one of them is missing")

    @property
    def uses_tls(self) -> bool:
        return self.tls or self.ca is not None or self.certificate is not None

    @field_validator("address")
    @classmethod
    def _is_an_address(cls, address: str) -> str:
        for one in address.split(","):
            name, _, port = one.strip().rpartition(":")
            if "/" in name or not name or not port.isdecimal() or not 0 < int(port) < 65_536:
                raise ValueError(f"{one!r} is no address of a cloud; give HOST:PORT (no http://)")
        return address

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(one.strip() for one in self.address.split(","))


class EncoderSettings(Section):
    """Owner: `shared.encoder`."""

    threads: int = Field(default=1, ge=1, le=THREADS_MAX, description="threads of ONNX Runtime")


class SessionSettings(Section):
    """Sessions of one camera's frames, each coded given earlier ones. Owner: `edge.session`."""

    hold: float | None = Field(
        default=None,
        ge=0,
        le=HOLD_MAX,
        description="how far beyond half a step a number may lie before what stands for it is changed; by default the "
        "bundle's",
    )
    intra_every_s: float = Field(
        default=60, gt=0, description="a frame that needs no other is sent at least so often"
    )
    replies: Replies = Field(
        default="changes",
        description="what the cloud sends back: all results, those that differ from the last ones, or none",
    )
    in_flight_max: int = Field(
        default=4,
        ge=1,
        le=64,
        description="frames of a session that the cloud works on at once; with more than 4 it may miss references",
    )
    answers_wait_ms: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="how long an answer 'as before' may wait for others, to save bytes; its place in flight is kept",
    )
    sessions_max: int = Field(
        default=16,
        ge=1,
        description="sessions of clients that send X-Session, at once; the idlest ends for another",
    )


class UpdateSettings(Section):
    """The bundle that the cloud wants this camera to run. Owner: `edge.update`."""

    url: str | None = Field(
        default=None,
        description="the cloud's HTTP, with http:// or https://, from which bundles are downloaded; without it the "
        "edge runs `bundle` and asks for no other",
    )
    folder: Path | None = Field(
        default=None, description="where downloaded bundles are kept; needed with url"
    )
    poll_ms: int = Field(default=60_000, ge=1, description="how often the cloud is asked")
    require_signature: Path | None = Field(
        default=None,
        description="PEM file of the public key of whoever must have signed a bundle, `bundle` as well",
    )

    def model_post_init(self, _: Any) -> None:
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise ValueError("url begins with http:// or https://")
        if self.url is not None and self.folder is None:
            raise ValueError("folder is not set; downloaded bundles are kept there")


class EdgeHttpSettings(HttpSettings):
    """The edge's local API."""

    port: int = Field(default=8081, ge=0, le=65_535, description="0 takes a free one")
    requests_max: int = Field(default=16, ge=1, description="requests at once; more get 429")
    bodies_bytes_max: int = Field(
        default=64 << 20, ge=1, description="size of all bodies held at once; more get 429"
    )


class EdgeSettings(ServerSettings):
    """One edge process."""

    bundle: BundlePath = Field(
        default_factory=default_bundle,
        description="the bundle's folder, or the name of a shipped one: photos, rooms; rooms by default",
    )
    host: str = Field(default="127.0.0.1", min_length=1, description="address that the local API binds")
    camera: str = Field(
        default="", description="the camera's name, for images whose request brings none; empty: no name"
    )
    drain_ms: int = Field(
        default=10_000, ge=0, description="time for running requests when the process is asked to end"
    )
    cloud: CloudLink = CloudLink()
    encoder: EncoderSettings = EncoderSettings()
    session: SessionSettings = SessionSettings()
    update: UpdateSettings = UpdateSettings()
    http: EdgeHttpSettings = EdgeHttpSettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()
    tracing: TracingSettings = TracingSettings()

    @field_validator("camera")
    @classmethod
    def _is_a_camera(cls, camera: str) -> str:
        try:
            return check_camera(camera)
        except RequestError as error:
            raise ValueError(str(error)) from None

    @classmethod
    def variables(cls) -> dict[str, str]:
        return {"cloud.address": "ISTHMUS_CLOUD"}
