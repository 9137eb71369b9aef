"""Where answers go: everything that can be chosen."""

from __future__ import annotations

import re
import socket
from pathlib import Path

from pydantic import Field, SecretStr, field_validator

from shared.errors import RequestError
from shared.process.config import Section

STATUS = "status"  # the box's own topic, among those of its cameras
_PART = re.compile(r"[A-Za-z0-9_-]{1,64}")


class AnswerSettings(Section):
    """Owner: `edge.sinks`. With none of them the cloud alone keeps the answers."""

    stdout: bool = Field(default=False, description="whether answers are JSON lines on standard output")
    file: Path | None = Field(default=None, description="answers as JSON lines in a file, which is rotated")
    file_bytes_max: int = Field(default=64 << 20, ge=1024, description="size at which a new file begins")
    files_max: int = Field(
        default=4, ge=1, le=1000, description="files that are kept, the current one included"
    )
    webhook: str = Field(default="", description="a URL to which each answer is posted as JSON")
    webhook_token: SecretStr | None = Field(default=None, description="sent to the webhook as a bearer token")
    webhook_timeout_ms: int = Field(default=5000, ge=1, description="for one attempt")
    waiting_max: int = Field(
        default=1000,
        ge=1,
        description="answers that wait for a sink that is slow or down; then the oldest are dropped",
    )

    @field_validator("webhook")
    @classmethod
    def _is_a_url(cls, webhook: str) -> str:
        if webhook and not webhook.startswith(("http://", "https://")):
            raise ValueError("webhook is no URL that begins with http:// or https://")
        return webhook


def _host_name() -> str:
    """This machine's name, as a part of a topic."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:64] or "box"


class MqttSettings(Section):
    """A broker. Owner: `edge.sinks.mqtt`."""

    host: str = Field(
        default="", description="name or address of an MQTT 5 broker; without it nothing is published"
    )
    port: int = Field(default=1883, ge=1, le=65_535, description="usually 8883 with TLS")
    username: str = Field(default="", description="empty: none")
    password: SecretStr | None = Field(default=None, description="of that user")
    password_file: Path | None = Field(
        default=None, description="file that holds the password; it goes before `password`"
    )
    tls: bool = Field(
        default=False, description="speak TLS, and trust whom this machine trusts; ca means it too"
    )
    ca: Path | None = Field(default=None, description="PEM file of who signs the broker's certificate")
    box: str = Field(
        default_factory=_host_name, description="this box's part of the topics; the machine's name by default"
    )
    topic: str = Field(default="isthmus", description="topics begin with it: TOPIC/BOX/CAMERA")
    discovery: str = Field(
        default="",
        description="Home Assistant's prefix of discovery, by default `homeassistant` there; empty: "
        "nothing is said to it",
    )

    @field_validator("box")
    @classmethod
    def _is_a_part(cls, box: str) -> str:
        if not _PART.fullmatch(box):
            raise ValueError(f"box is {box!r}; a part of a topic has 1 to 64 characters of A-Z a-z 0-9 _ -")
        return box

    @field_validator("topic", "discovery")
    @classmethod
    def _is_a_topic(cls, topic: str) -> str:
        if topic and not all(_PART.fullmatch(part) for part in topic.split("/")):
            raise ValueError(f"{topic!r} is no topic; its parts have 1 to 64 characters of A-Z a-z 0-9 _ -")
        return topic

    def read_password(self) -> str | None:
        """Raises RequestError where its file cannot be read."""
        if self.password_file is None:
            return self.password.get_secret_value() if self.password else None
        try:
            return self.password_file.read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"mqtt.password_file: cannot read {self.password_file}: {error}") from None
