"""A server's settings: one TOML file, environment variables and flags, checked by one model. Knows no server.

    flag  over  environment (ISTHMUS_...)  over  file  over  default

A model has keys of its own and one level of sections; "http.port" is the key `port` of the section [http]. A field that
is a dict of sections is a table of the file alone: [pipeline.bundles.NAME]. Mistakes are reported as one line that
begins with the place: `cloud.toml:12`, `ISTHMUS_HTTP_PORT` or `--http-port`.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from shared.errors import RequestError
from shared.image import MAX_FILE_BYTES
from shared.process.config_tables import explain, line_of, read_tables, table_of, tables_of

PREFIX = "ISTHMUS_"
THREADS_MAX = 256

S = TypeVar("S", bound="ServerSettings")
C = TypeVar("C", bound="Section")


class Section(BaseModel):
    """Settings with one owner."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def of(cls: type[C], **values: Any) -> C:
        """The section with these values. Raises RequestError for one that cannot be."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise RequestError(explain(error.errors()[0])) from None


class HttpSettings(Section):
    """The HTTP side of a server: its port and what it holds at once."""

    port: int = Field(default=8080, ge=0, le=65_535, description="0 takes a free one")
    requests_max: int = Field(
        default=32, ge=1, description="requests at once; more get 429. Each may hold a whole image file"
    )
    image_bytes_max: int = Field(default=MAX_FILE_BYTES, ge=1, description="size of one body")
    bodies_bytes_max: int = Field(
        default=128 << 20, ge=1, description="size of all bodies held at once; more get 429"
    )
    connections_max: int | None = Field(
        default=None, ge=1, description="open connections; by default a quarter of the process's descriptors"
    )
    head_ms: int = Field(default=10_000, ge=1, description="time for the head of a request")
    keep_alive_ms: int = Field(
        default=30_000, ge=1, description="a connection without a request for so long is closed"
    )

    def model_post_init(self, _: Any) -> None:
        if self.bodies_bytes_max < self.image_bytes_max:
            raise ValueError(f"bodies_bytes_max is {self.bodies_bytes_max}, less than image_bytes_max")


class LogSettings(Section):
    """Lines on standard error. Owner: `shared.process.logs`."""

    format: Literal["text", "json"] = Field(default="text", description="json: one object a line")
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="the least that is logged; debug has a line for each request"
    )


class MetricsSettings(Section):
    """What GET /metrics shows. Owner: `shared.process.metrics`."""

    cameras: bool = Field(
        default=False,
        description="series by camera too; their names are then seen by whoever reads the metrics",
    )
    cameras_max: int = Field(
        default=1000,
        ge=1,
        le=100_000,
        description="cameras with series of their own; further ones count as other",
    )


class TracingSettings(Section):
    """Traces by OpenTelemetry. Owner: `shared.process.tracing`."""

    otlp_endpoint: str = Field(
        default="",
        description="base URL that takes OTLP over HTTP, such as http://localhost:4318; without it, and without "
        "OTEL_EXPORTER_OTLP_ENDPOINT, there are no traces. Needs the extra `tracing`",
    )

    @field_validator("otlp_endpoint")
    @classmethod
    def _is_a_url(cls, url: str) -> str:
        if url and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", url):
            raise ValueError(f"{url!r} is no address for traces; write it as http://localhost:4318")
        return url


class ServerSettings(BaseSettings):
    """Base of a server's settings. Built in Python, it reads neither files nor the environment."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @classmethod
    def variables(cls) -> dict[str, str]:
        """Environment variables whose names do not follow from their keys, by key."""
        return {}

    @classmethod
    def tables(cls) -> tuple[str, ...]:
        """Names of tables in the file that are no fields, and are read by `read_tables`."""
        return ()


@dataclass(frozen=True)
class Loaded(Generic[S]):
    """Settings, and where each value that is not a default came from, by key."""

    settings: S
    places: dict[str, str]

    def as_toml(self) -> str:
        """What holds, as TOML, with the source of each value behind it; secrets are masked."""
        return _render(type(self.settings), self._line) + "".join(self._tables())

    def _tables(self) -> Iterator[str]:
        for key, _ in tables_of(type(self.settings)):
            for name, section in _value(self.settings, key).items():
                yield f"\n[{key}.{name if re.fullmatch('[A-Za-z0-9_-]+', name) else _toml(name)}]\n"
                place = self.places[f"{key}.{name}"]
                yield from (
                    f"{one} = {_toml(value)}  # {place}\n" for one, value in section if value is not None
                )

    def _line(self, key: str, field: FieldInfo) -> str:
        value = _value(self.settings, key)
        text = f"# {_last(key)} is not set" if value is None else f"{_last(key)} = {_toml(value)}"
        return f"{text}  # {self.places.get(key, 'default')}"


def load_settings(
    kind: type[S],
    file: Path | None,
    flags: Mapping[str, tuple[str, Any]],
    environment: Mapping[str, str] = os.environ,
) -> Loaded[S]:
    """Settings from all sources.

    flags: name and value by key, for example {"http.port": ("--http-port", 0)}; a value of None was not given.

    Raises RequestError.
    """
    given = {key: (name, value) for key, (name, value) in flags.items() if value is not None}
    sources: list[tuple[dict[str, Any], Mapping[str, str]]] = [
        (
            _nested({key: value for key, (_, value) in given.items()}),
            {key: name for key, (name, _) in given.items()},
        )
    ]
    variables = {key: name for key, name in variable_names(kind).items() if environment.get(name)}
    sources.append((_nested({key: environment[name] for key, name in variables.items()}), variables))
    if file is not None:
        sources.append(_read(kind, file))

    class FromSources(kind):  # type: ignore[misc, valid-type]
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_: Any, **__: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return tuple(InitSettingsSource(settings_cls, values) for values, _ in sources)

    places: dict[str, str] = {}
    for _, names in reversed(sources):  # the first of them ranks highest
        places |= names
    try:
        loaded = FromSources()
    except ValidationError as error:
        raise RequestError(_located(error, places)) from None
    # As its own class: a subclass of one call would equal nothing.
    return Loaded(cast(S, kind.model_construct(**dict(loaded))), places)


def print_and_leave(loaded: Loaded[Any]) -> None:
    """What `--print-config` does."""
    print(loaded.as_toml(), end="")
    raise SystemExit(0)


def variable_names(kind: type[ServerSettings]) -> dict[str, str]:
    """The environment variable of each key."""
    named = kind.variables()
    return {key: named.get(key, PREFIX + key.replace(".", "_").upper()) for key, _ in leaves(kind)}


def leaves(kind: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """Every key with its field, those of the top level first; without tables."""
    fields = kind.model_fields
    for name, field in fields.items():
        if _section(field) is None and table_of(field) is None:
            yield name, field
    for name, field in fields.items():
        if (section := _section(field)) is not None:
            for key, inner in section.model_fields.items():
                if table_of(inner) is None:
                    yield f"{name}.{key}", inner


def example_toml(kind: type[ServerSettings]) -> str:
    """A commented file with every key, what it is, its environment variable and its default."""
    names = variable_names(kind)

    def line(key: str, field: FieldInfo) -> str:
        # What a factory gives depends on the machine.
        default = None if field.is_required() or field.default_factory else field.get_default()
        value = "" if default is None else f" {_toml(default)}"
        return f"# {field.description} ({names[key]})\n#{_last(key)} ={value}"

    tables = (
        f"\n#[{key}.NAME]\n"
        + "".join(f"# {field.description}\n#{name} =\n" for name, field in table.model_fields.items())
        for key, table in tables_of(kind)
    )
    return _render(kind, line) + "".join(tables)


def _read(kind: type[ServerSettings], file: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The file's values, and "file:line" by key. Raises RequestError, also for keys that do not exist."""
    try:
        text = file.read_text("utf-8")
        values = TomlConfigSettingsSource(kind, toml_file=file)()
    except OSError as error:
        raise RequestError(f"cannot read {file}: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RequestError(f"{file} is not TOML: {error}") from None
    values = {name: value for name, value in values.items() if name not in kind.tables()}
    known = dict(leaves(kind))
    sections = {name for name, field in kind.model_fields.items() if _section(field)}
    kinds, places = dict(tables_of(kind)), {}
    for key in _keys(values):
        if key in kinds:
            continue
        place = f"{file}:{line_of(text, key)}"
        if key in sections:
            raise RequestError(f"{place}: {key} is a section; its keys follow a line [{key}]")
        if key not in known:
            close = difflib.get_close_matches(key, known, 1, 0.5)
            hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"
            raise RequestError(f"{place}: there is no key {key}{hint}")
        places[key] = place
    for key, table in kinds.items():
        found, _ = read_tables(file, key, table)
        places |= {f"{key}.{name}": f"{file}:{line_of(text, f'{key}.{name}')}" for name in found}
        section, _, name = key.rpartition(".")
        (values.setdefault(section, {}) if section else values)[name] = found
    return values, places


def _keys(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from (f"{name}.{key}" for key in value)
        else:
            yield name


def _located(error: ValidationError, places: Mapping[str, str]) -> str:
    """The first mistake, with its place in front."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"][:2])
    # A mistake between several keys of a section is about the section as a whole.
    place = places.get(key) or next((p for k, p in places.items() if k.startswith(f"{key}.")), "")
    what = explain(first, secret=key.endswith(("token", "state.url")))
    return f"{place}: {what}" if place else what


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """{"http.port": 1, "host": "x"} -> {"http": {"port": 1}, "host": "x"}"""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[name] = value
    return nested


def _section(field: FieldInfo) -> type[Section] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _render(kind: type[BaseModel], line: Any) -> str:
    """A line or more for each key, under the headers of the sections."""
    parts, section = [], ""
    for key, field in leaves(kind):
        if (now := key.rpartition(".")[0]) != section:
            section = now
            parts.append(f"\n[{section}]")
        parts.append(line(key, field))
    return "\n".join(parts) + "\n"


def _value(settings: BaseModel, key: str) -> Any:
    value: Any = settings
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps("********" if isinstance(value, SecretStr) else str(value), ensure_ascii=False)
