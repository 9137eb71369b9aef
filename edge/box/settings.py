"""Everything about a camera box that can be chosen, by owner; sources are tables of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from edge.capture.settings import NAME, SourceSettings
from edge.quality import quality_for
from edge.settings import EdgeSettings, SessionSettings
from edge.sinks.settings import STATUS, AnswerSettings, MqttSettings
from edge.spool.spool import BYTES_MIN, Full, Order
from shared.bundle import Bundle
from shared.errors import RequestError
from shared.process.config import Loaded, Section, load_settings
from shared.process.config_tables import line_of, read_tables


class SpoolSettings(Section):
    """Owner: `edge.spool`."""

    folder: Path = Field(
        default=Path("isthmus-spool"), description="frames that the cloud has not acknowledged yet"
    )
    bytes_max: int = Field(
        default=256 << 20, ge=BYTES_MIN, description="size of all frames; the files take up to a quarter more"
    )
    age_max_days: float = Field(default=7.0, gt=0, le=3650, description="older frames are dropped")
    full: Full = Field(
        default="drop-oldest",
        description="what a full spool does: drop-oldest, drop-newest, or stop capturing",
    )
    order: Order = Field(default="oldest", description="which frames are sent first: oldest or newest")


class BoxSessionSettings(SessionSettings):
    """Those of an edge, but that nobody waits for an answer which says nothing new."""

    answers_wait_ms: int = Field(
        default=1000,
        ge=0,
        le=10_000,
        description="how long an answer 'as before' may wait for others, which saves more than half of the bytes on "
        "the link; its frame stays in the spool meanwhile. At most a quarter of cloud.deadline_ms, and not for "
        "POST /analyze",
    )


class RateSettings(Section):
    """Bytes on the link. Owner: `edge.rate`."""

    kbit_per_s: float | None = Field(
        default=None, gt=0, description="budget of all cameras together, bytes sent up; no limit by default"
    )
    window_s: float = Field(default=10.0, ge=1, le=3600, description="over which the budget is an average")
    overhead_bytes: int = Field(
        default=113,
        ge=0,
        description="what a request takes on the link beside its bitstream, counted in the budget",
    )
    measured: bool = Field(
        default=True, description="whether a link that is slower than the budget lowers the quality too"
    )


class BoxSettings(EdgeSettings):
    """One camera box."""

    session: BoxSessionSettings = BoxSessionSettings()
    spool: SpoolSettings = SpoolSettings()
    rate: RateSettings = RateSettings()
    answers: AnswerSettings = AnswerSettings()
    mqtt: MqttSettings = MqttSettings()
    watch_ms: int = Field(
        default=1000, ge=10, description="how often this file is looked at for changed sources"
    )

    @classmethod
    def tables(cls) -> tuple[str, ...]:
        return ("sources",)


@dataclass(frozen=True)
class BoxConfig:
    """What a box runs with. sources: by their names. text: of the file."""

    loaded: Loaded[BoxSettings]
    sources: dict[str, SourceSettings]
    file: Path = Path()
    text: str = ""

    @property
    def settings(self) -> BoxSettings:
        return self.loaded.settings

    def place(self, key: str) -> str:
        """Where a key is set, and the key, for people."""
        if key.startswith("sources"):
            return f"{self.file}:{line_of(self.text, key)}: {key}"
        return f"{self.loaded.places.get(key, 'by default')}: {key}"


def load_box(file: Path, flags: Mapping[str, tuple[str, Any]]) -> BoxConfig:
    """Raises RequestError, which names file, line and key."""
    loaded = load_settings(BoxSettings, file, flags)
    sources, text = read_tables(file, "sources", SourceSettings)
    for name in sources:
        if not NAME.fullmatch(name):
            raise RequestError(
                f"{file}: [sources.{name}]: a camera's name has 1 to 64 characters of A-Z a-z 0-9 _ . -"
            )
    if loaded.settings.mqtt.host and STATUS in sources:
        where = f"{file}:{line_of(text, f'sources.{STATUS}')}"
        raise RequestError(
            f"{where}: [sources.{STATUS}]: with mqtt, that topic says whether the box is there; choose another name"
        )
    return BoxConfig(loaded, sources, file, text)


def check_sources(config: BoxConfig, bundle: Bundle) -> None:
    """Raises RequestError for a quality that the bundle does not have, or a loss that it does not promise.

    Tasks are not checked: the cloud may have some that were added to the bundle later.
    """
    for name, source in config.sources.items():
        key = "quality"
        try:
            bundle.quality(source.quality)
            if source.loss is not None:
                key = "loss"
                quality_for(bundle, source.tasks, source.loss)
        except RequestError as error:
            raise RequestError(f"{config.place(f'sources.{name}.{key}')}: {error}") from None
