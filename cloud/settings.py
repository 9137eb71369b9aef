"""Everything about a cloud server that can be chosen, by owner, checked where it enters."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, SecretStr, field_validator

from cloud.batch_settings import BatchSettings, pace_of
from cloud.engine.batcher import Pace
from shared.bundle import Bundle
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
from shared.process.tls import TlsFiles
from shared.shipped import BundlePath, default_bundle

if TYPE_CHECKING:
    from cloud.archive.encryption import ArchiveKey

TOKEN_MIN = 16  # characters
ARCHIVE_BYTES_MIN = 1 << 20


class GrpcSettings(Section):
    """Owner: `cloud.faces.grpc_server`."""

    port: int = Field(default=50051, ge=0, le=65_535, description="0 takes a free one")
    rpcs_max: int = Field(default=128, ge=1, description="calls served at once, without sessions")
    streams_max: int = Field(
        default=32,
        ge=1,
        description="open streams of each method that has them, at most a quarter of rpcs_max, so that other calls "
        "are answered",
    )
    stream_requests_max: int = Field(
        default=16, ge=1, description="requests of one stream that are worked on at once"
    )
    stream_idle_ms: int = Field(
        default=60_000,
        ge=1,
        description="a stream with nothing to read and nothing in work for so long is ended",
    )
    message_bytes_max: int = Field(
        default=MAX_STREAM_BYTES + 65_536, ge=1, description="size of a request's message"
    )
    connections_max: int | None = Field(
        default=None, ge=1, description="open connections; by default a quarter of the process's descriptors"
    )
    head_ms: int = Field(
        default=10_000,
        ge=1,
        description="time for the HTTP/2 preface and settings of a new connection, and for a call's message",
    )

    def model_post_init(self, _: Any) -> None:
        if self.streams_max * 4 > self.rpcs_max:  # three methods have streams
            raise ValueError(f"streams_max is {self.streams_max}; it must be at most a quarter of rpcs_max")


class EngineSettings(Section):
    """Owner: `cloud.engine`."""

    kind: Literal["local", "ray"] = Field(
        default="local",
        description="local: a thread of this process; ray: replicas on the machines of a Ray cluster, see [ray]",
    )
    device: str = Field(default="cpu", min_length=1, description="torch's name of it: cpu, cuda")
    threads: int | None = Field(
        default=None,
        ge=1,
        le=THREADS_MAX,
        description="threads of torch; by default its own choice, or a container's limit of processors",
    )
    encode_threads: int = Field(
        default=1,
        ge=1,
        le=THREADS_MAX,
        description="threads of ONNX Runtime, for images that arrive over HTTP",
    )


class RaySettings(Section):
    """Owner: `cloud.engine.ray_engine`; used with engine.kind = "ray" alone."""

    address: str = Field(
        default="",
        description="of a running cluster: auto, or host:6379 of its head; empty: a Ray of this machine is started, "
        "which ends with the server",
    )
    replicas_min: int = Field(default=1, ge=1, description="processes that decode and run tails, at least")
    replicas_max: int = Field(
        default=1, ge=1, description="at most; between both their number follows the queue"
    )
    cpus: float = Field(default=1.0, ge=0, description="processors that a replica is given, also 0.5")
    gpus: float = Field(
        default=0.0, ge=0, description="GPUs that it is given: 0.25 lets four share one; then device = cuda"
    )
    machine_cpus: int | None = Field(
        default=None, ge=1, description="processors that a Ray started here may give away; all by default"
    )
    folder: Path | None = Field(
        default=None,
        description="files and logs of a Ray started here; short, as sockets lie in it; /tmp/ray",
    )
    gateways: int = Field(
        default=1,
        ge=1,
        description="servers before the replicas, one a machine; used by `serve deploy` alone",
    )


class PipelineSettings(Section):
    """Owner: `cloud.pipeline`."""

    batch_max: int = Field(default=16, ge=1, description="images in one batch")
    batch_wait_ms: float = Field(
        default=2.0, ge=0, description="how long the first image of a batch waits for more"
    )
    batch_shared_ms: float = Field(
        default=50.0,
        gt=0,
        description="about the most that a batch takes while several tokens send, since one token's batch keeps "
        "another's image waiting; smaller batches answer fewer images a second",
    )
    queue_max: int = Field(
        default=64,
        ge=1,
        description="images of one bundle that wait; more are turned away. Tokens that wait together share the places",
    )
    deadline_ms: int = Field(
        default=30_000, ge=1, description="the most that a request may take, and its time if it brings none"
    )
    grid_cells_max: int = Field(
        default=1024,
        ge=1,
        description="latent cells of an image, since a small stream may claim a large grid; the bundle's own grid is "
        "always allowed",
    )
    answers_kept: int = Field(default=1024, ge=1, description="answers remembered by request id")
    answers_bytes_max: int = Field(default=64 << 20, ge=1, description="memory that they take, roughly")
    archived_first: bool = Field(
        default=False,
        description="an answer waits until its bitstream is on the disk of the archive; what is not kept is to be sent "
        "again, so a camera box loses nothing when the cloud is killed",
    )
    bundles: dict[str, BatchSettings] = Field(default={}, description="batches of single bundles, by name")

    def pace(self, bundle: Bundle) -> Pace:
        """How that bundle's batches are formed."""
        return pace_of(bundle, Pace(self.batch_max, self.batch_wait_ms), self.bundles)


class SessionSettings(Section):
    """Owner: `cloud.sessions`."""

    open_max: int = Field(default=128, ge=1, description="open sessions; more are turned away")
    references_max: int = Field(
        default=8, ge=1, description="latents that a session keeps, so that later frames can refer to them"
    )
    references_bytes_max: int = Field(
        default=2 << 20, ge=1, description="memory of a session that they take with their answers, roughly"
    )
    repeats_max: int = Field(default=32, ge=1, description="frames of a session whose repeats are recognised")


class ArchiveSettings(Section):
    """Owner: `cloud.archive`."""

    folder: Path | None = Field(
        default=None, description="keeps every bitstream that was answered; without it nothing is kept"
    )
    bytes_max: int = Field(
        default=1 << 30, ge=ARCHIVE_BYTES_MIN, description="size of all files of the archive together"
    )
    age_max_days: float = Field(default=30.0, ge=0.001, description="older records are deleted")
    key: SecretStr | None = Field(
        default=None,
        description="64 hex digits, as openssl rand -hex 32 makes them: bitstreams are stored encrypted with it",
    )
    key_file: Path | None = Field(
        default=None,
        description="file that holds that key; it goes before `key`",
    )

    def read_key(self) -> ArchiveKey | None:
        """Raises RequestError where the file cannot be read, or what is given is no key."""
        from cloud.archive.encryption import read_key

        return read_key(self.key_file, None if self.key is None else self.key.get_secret_value())


class ShelfSettings(Section):
    """Owner: `cloud.shelf`."""

    folder: Path | None = Field(
        default=None,
        description="holds one folder for each bundle; all are served, and `bundle` is not used. Bundles may come, "
        "change and go while the server runs",
    )
    bytes_max: int = Field(
        default=4 << 30,
        ge=1,
        description="memory of loaded bundles, roughly; beyond it those least recently used are unloaded until they "
        "are needed. One may always be loaded, and one more while it is checked",
    )
    default: str = Field(
        default="",
        description="folder, name or fingerprint of the bundle for images that are sent as they are; empty: the newest",
    )
    rollout: Path | None = Field(
        default=None,
        description="file that keeps which cameras should run which bundle; without it a restart forgets a rollout",
    )


class TaskSettings(Section):
    """Owner: `cloud.shelf.keeper`."""

    poll_ms: int = Field(
        default=1000,
        ge=1,
        description="how often the disk is scanned for bundles and tasks that came or went",
    )


class AuthSettings(Section):
    """Owner: `cloud.admission`."""

    tokens: Path | None = Field(
        default=None,
        description="file of tokens, as `isthmus cloud token` writes it; by default tokens.json in "
        "~/.local/state/isthmus. Where there is none, a server that is not on loopback makes it, with one token",
    )
    token: SecretStr | None = Field(
        default=None,
        description="one more token, 16 characters or more, which may do everything; with it none is made",
    )
    token_file: Path | None = Field(
        default=None, description="file that holds that token; it goes before `token`"
    )
    insecure: bool = Field(
        default=False,
        description="ask nobody for a token; calls of administration stay closed beyond loopback",
    )
    attempts_per_minute: int = Field(
        default=10, ge=1, le=10_000, description="failed attempts of one address, before it has to wait"
    )
    cors_origins: str = Field(
        default="",
        description="origins of web pages elsewhere that may call, separated by commas; none by default",
    )

    @field_validator("token")
    @classmethod
    def _is_long_enough(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and (wrong := _unusable(token.get_secret_value())):
            raise ValueError(wrong)
        return token

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: str) -> str:
        for origin in _split(origins):
            if not re.fullmatch(r"https?://[A-Za-z0-9.\[\]:-]+", origin):
                raise ValueError(
                    f"{origin!r} is no origin; write it as https://fleet.example.org, without a path"
                )
        return origins

    @property
    def origins(self) -> tuple[str, ...]:
        return _split(self.cors_origins)

    def read_token(self) -> str | None:
        """The given token. Raises RequestError if its file cannot be read or holds a short one."""
        if self.token_file is None:
            return self.token.get_secret_value() if self.token else None
        try:
            token = self.token_file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise RequestError(f"cannot read the token from {self.token_file}: {reason}") from None
        if wrong := _unusable(token):
            raise RequestError(f"{self.token_file}: {wrong}")
        return token


class StateSettings(Section):
    """Owner: `cloud.state`."""

    url: SecretStr | None = Field(
        default=None,
        description="table of tokens and of the rollout that servers share: sqlite:///path on one machine, "
        "postgresql://user@host/database on several; it takes the place of auth.tokens and shelf.rollout",
    )
    poll_ms: int = Field(default=250, ge=50, le=60_000, description="how often a server looks for changes")
    stale_max_ms: int = Field(
        default=300_000,
        ge=1000,
        description="how long what a server saw last counts while the database is away; then no token of the table is "
        "let in",
    )


class TlsSettings(Section):
    """Owner: `shared.process.tls`. Both ports, or neither."""

    certificate: Path | None = Field(
        default=None,
        description="PEM file of the server's certificate with its chain; read again when it changes",
    )
    key: Path | None = Field(default=None, description="PEM file of its key, without a passphrase")
    client_ca: Path | None = Field(
        default=None,
        description="PEM file of who signs the edges' certificates: gRPC asks each client for one, whose names are "
        "the cameras that it may send; over HTTP a token does as well",
    )

    def model_post_init(self, _: Any) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key are given together; one of them is missing")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("client_ca needs a certificate and a key of the server too")

    def files(self) -> TlsFiles | None:
        """None without TLS."""
        if self.certificate is None or self.key is None:
            return None
        return TlsFiles(self.certificate, self.key, self.client_ca)


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _unusable(token: str) -> str:
    """What is wrong with a given token; empty if nothing is."""
    if len(token) < TOKEN_MIN:
        return (
            f"the token has {len(token)} characters, not {TOKEN_MIN} or more; openssl rand -hex 32 makes one"
        )
    if not re.fullmatch(r"[!-~]+", token):
        return "the token has a space or another character that no header carries; openssl rand -hex 32 makes one"
    return ""


class CloudSettings(ServerSettings):
    """One cloud process."""

    bundle: BundlePath = Field(
        default_factory=default_bundle,
        description="the bundle's folder, or the name of a shipped one: photos, rooms; rooms by default",
    )
    host: str = Field(default="127.0.0.1", min_length=1, description="address that both ports bind")
    drain_ms: int = Field(
        default=10_000, ge=0, description="time for running requests when the process is asked to end"
    )
    grpc: GrpcSettings = GrpcSettings()
    http: HttpSettings = HttpSettings()
    engine: EngineSettings = EngineSettings()
    ray: RaySettings = RaySettings()
    pipeline: PipelineSettings = PipelineSettings()
    sessions: SessionSettings = SessionSettings()
    archive: ArchiveSettings = ArchiveSettings()
    shelf: ShelfSettings = ShelfSettings()
    tasks: TaskSettings = TaskSettings()
    auth: AuthSettings = AuthSettings()
    state: StateSettings = StateSettings()
    tls: TlsSettings = TlsSettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()
    tracing: TracingSettings = TracingSettings()

    @classmethod
    def variables(cls) -> dict[str, str]:
        return {
            "engine.kind": "ISTHMUS_ENGINE",
            "engine.device": "ISTHMUS_DEVICE",
            "archive.folder": "ISTHMUS_ARCHIVE",
            "shelf.folder": "ISTHMUS_BUNDLES",
            "state.url": "ISTHMUS_STATE",
        }

    def model_post_init(self, context: Any) -> None:
        super().model_post_init(context)
        for name, given in (("auth.tokens", self.auth.tokens), ("shelf.rollout", self.shelf.rollout)):
            if self.state.url is not None and given is not None:
                raise ValueError(f"{name} and state.url both say where that is kept; give one of them")
