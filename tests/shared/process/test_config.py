"""Settings of both servers: the rank of their sources, and the place that each mistake is reported at."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from cloud.archive.store import BYTES_MIN
from cloud.batch_settings import BatchSettings
from cloud.settings import ARCHIVE_BYTES_MIN, CloudSettings
from edge.settings import CloudLink, EdgeSettings
from shared.errors import RequestError
from shared.process.config import (
    ServerSettings,
    example_toml,
    leaves,
    load_settings,
    variable_names,
)
from support.processes import ROOT, refused, run_here

KINDS = {"cloud": CloudSettings, "edge": EdgeSettings}
TOKEN = "0123456789abcdef"

# The environment variables and flags that compose files and scripts use today.
VARIABLES = {
    "cloud": {
        "ISTHMUS_BUNDLE": "bundle",
        "ISTHMUS_HOST": "host",
        "ISTHMUS_GRPC_PORT": "grpc.port",
        "ISTHMUS_HTTP_PORT": "http.port",
        "ISTHMUS_DEVICE": "engine.device",
        "ISTHMUS_ARCHIVE": "archive.folder",
        "ISTHMUS_AUTH_TOKEN": "auth.token",
    },
    "edge": {
        "ISTHMUS_BUNDLE": "bundle",
        "ISTHMUS_HOST": "host",
        "ISTHMUS_HTTP_PORT": "http.port",
        "ISTHMUS_CLOUD": "cloud.address",
        "ISTHMUS_CAMERA": "camera",
    },
}


def written(folder: Path, text: str) -> Path:
    path = folder / "cloud.toml"
    path.write_text(text)
    return path


def mistake(
    kind: type[ServerSettings],
    file: Path | None = None,
    environment: dict[str, str] | None = None,
    **flags: tuple[str, Any],
) -> str:
    with pytest.raises(RequestError) as caught:
        load_settings(kind, file, flags, environment or {})
    return str(caught.value)


def test_flag_over_environment_over_file_over_default(tmp_path: Path) -> None:
    file = written(tmp_path, "[http]\nport = 1\nrequests_max = 2\nhead_ms = 3\n")
    environment = {"ISTHMUS_HTTP_PORT": "4", "ISTHMUS_HTTP_REQUESTS_MAX": "5"}
    loaded = load_settings(CloudSettings, file, {"http.port": ("--http-port", 6)}, environment)
    http = loaded.settings.http
    assert (http.port, http.requests_max, http.head_ms) == (6, 5, 3)
    assert http.keep_alive_ms == CloudSettings().http.keep_alive_ms
    assert loaded.places == {
        "http.port": "--http-port",
        "http.requests_max": "ISTHMUS_HTTP_REQUESTS_MAX",
        "http.head_ms": f"{file}:4",
    }
    assert type(loaded.settings) is CloudSettings


def test_without_any_source_the_defaults_hold() -> None:
    for kind in KINDS.values():
        assert load_settings(kind, None, {"host": ("--host", None)}, {"ISTHMUS_HOST": ""}).settings == kind()


def test_settings_made_in_python_read_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOST", "ISTHMUS_HOST", "host"):
        monkeypatch.setenv(name, "elsewhere")
    assert CloudSettings().host == EdgeSettings().host == "127.0.0.1"


@pytest.mark.parametrize("side", KINDS)
def test_the_variables_of_today_work(side: str) -> None:
    names = variable_names(KINDS[side])
    assert {name: key for key, name in names.items() if name in VARIABLES[side]} == VARIABLES[side]
    assert len(set(names.values())) == len(names)


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("host = 'a'\n\n[http]\nprot = 1\n", 4, "there is no key http.prot; did you mean http.port?"),
        ("hots = 'a'\n", 1, "there is no key hots; did you mean host?"),
        ("[htpp]\nport = 1\n", 2, "there is no key htpp.port; did you mean http.port?"),
        ("http = 3\n", 1, "http is a section; its keys follow a line [http]"),
        ("[http]\n# port = 1\nport = -1\n", 3, "port is -1; it must be at least 0"),
        ("[engine]\nthreads = 100000\n", 2, "threads is 100000; it must be at most 256"),
        ("http.port = 70000\n", 1, "port is 70000; it must be at most 65535"),
        ("[grpc]\nport = 1\n[http]\nport = 'x'\n", 4, "port is x: input should be a valid integer"),
        ("[grpc]\n\nstreams_max = 99\n", 3, "streams_max is 99; it must be at most a quarter of rpcs_max"),
        ("[http]\nbodies_bytes_max = 3\n", 2, "bodies_bytes_max is 3, less than image_bytes_max"),
        ("[archive]\nage_max_days = nan\n", 2, "age_max_days is nan: input should be a finite number"),
        ("[pipeline]\nbatch_wait_ms = inf\n", 2, "batch_wait_ms is inf: input should be a finite number"),
        (
            "[pipeline.bundles.photos]\n\nbatch_mx = 1\n",
            3,
            "[pipeline.bundles.photos] has no key batch_mx; did you mean batch_max?",
        ),
        (
            "[pipeline.bundles.'a b']\nbatch_max = 0\n",
            2,
            "[pipeline.bundles.a b] batch_max is 0; it must be at",
        ),
        ("pipeline = 1\n", 1, "pipeline is a section; its keys follow a line [pipeline]"),
        ("[pipeline]\nbundles = 1\n", 2, "pipeline.bundles is a table; write [pipeline.bundles.NAME]"),
    ],
)
def test_a_mistake_in_a_file_names_file_line_and_key(tmp_path: Path, text: str, line: int, what: str) -> None:
    file = written(tmp_path, text)
    assert mistake(CloudSettings, file).startswith(f"{file}:{line}: {what}")


def test_a_table_of_sections(tmp_path: Path) -> None:
    text = "[pipeline]\nqueue_max = 7\n[pipeline.bundles.photos]\nbatch_max = 4\n"
    file = written(tmp_path, text + "[pipeline.bundles.'a b']\nbatch_wait_ms = 0\n")
    loaded = load_settings(CloudSettings, file, {}, {})
    pipeline = loaded.settings.pipeline
    assert (pipeline.queue_max, pipeline.batch_max) == (7, 16)
    assert pipeline.bundles == {
        "photos": BatchSettings(batch_max=4),
        "a b": BatchSettings(batch_wait_ms=0),
    }
    assert loaded.as_toml().endswith(
        f"\n[pipeline.bundles.photos]\nbatch_max = 4  # {file}:3\n"
        f'\n[pipeline.bundles."a b"]\nbatch_wait_ms = 0.0  # {file}:5\n'
    )
    again = load_settings(CloudSettings, written(tmp_path, loaded.as_toml()), {}, {}).settings
    assert again == loaded.settings


def test_a_file_that_is_not_there_or_no_toml(tmp_path: Path) -> None:
    assert mistake(CloudSettings, tmp_path / "no.toml").endswith("no.toml: No such file or directory")
    assert "line 1" in mistake(CloudSettings, written(tmp_path, "[http\n"))


def test_a_mistake_in_a_variable_or_a_flag_names_it(tmp_path: Path) -> None:
    text = mistake(EdgeSettings, environment={"ISTHMUS_CLOUD": "http://cloud:1"})
    assert text.startswith("ISTHMUS_CLOUD: 'http://cloud:1' is no address of a cloud; give HOST:PORT")
    text = mistake(EdgeSettings, None, {}, camera=("--camera", "no spaces"))
    assert text.startswith("--camera: ")
    # The place is the one whose value counts.
    file = written(tmp_path, "[cloud]\naddress = 'x:1'\n")
    assert mistake(EdgeSettings, file, {"ISTHMUS_CLOUD": "nowhere"}).startswith("ISTHMUS_CLOUD: ")


def test_a_short_token_is_not_shown() -> None:
    text = mistake(CloudSettings, environment={"ISTHMUS_AUTH_TOKEN": "secret"})
    assert text == (
        "ISTHMUS_AUTH_TOKEN: the token has 6 characters, not 16 or more; openssl rand -hex 32 makes one"
    )


@pytest.mark.parametrize("address", ["", "cloud", "cloud:", ":1", "cloud:0", "cloud:65536", "cloud:x"])
def test_bad_addresses(address: str) -> None:
    with pytest.raises(RequestError, match="HOST:PORT"):
        CloudLink.of(address=address)


@pytest.mark.parametrize("side", KINDS)
def test_the_example_file_has_every_key_with_its_default(side: str, tmp_path: Path) -> None:
    kind, path = KINDS[side], ROOT / "deploy" / f"{side}.toml"
    text = path.read_text("utf-8")
    head = text[: text.index("\n\n") + 2]
    assert text == head + example_toml(kind)
    assert all(line.startswith("#") for line in head.strip().splitlines())
    # With its values uncommented it is read, and changes nothing.
    lines = [re.sub(r"^#(\w+ = )", r"\1", line) for line in text.splitlines()]
    assert sum(not line.startswith("#") for line in lines) > len(list(leaves(kind))) / 2
    assert load_settings(kind, written(tmp_path, "\n".join(lines)), {}, {}).settings == kind()


def test_every_key_is_described() -> None:
    for kind in KINDS.values():
        assert [key for key, field in leaves(kind) if not field.description] == []


def test_the_archives_smallest_size_is_the_archives() -> None:
    assert ARCHIVE_BYTES_MIN == BYTES_MIN


def test_print_config_shows_what_holds_and_hides_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, f"[pipeline]\nqueue_max = 7\n[auth]\ntoken = '{TOKEN}'\n")
    done = run_here("cloud", "serve", "--config", file, "--grpc-port", "0", "--print-config")
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout
    shown = done.stdout.splitlines()
    for line in (
        f"queue_max = 7  # {file}:2",
        f'token = "********"  # {file}:4',
        "port = 0  # --grpc-port",
        "batch_max = 16  # default",
    ):
        assert line in shown
    assert len([line for line in shown if "  # " in line]) == len(list(leaves(CloudSettings)))


def test_mistakes_on_the_command_line(tmp_path: Path) -> None:
    file = written(tmp_path, "[cloud]\nadress = 'a:1'\n")
    text = refused("edge", "serve", "--config", file, status=2)
    assert text == f"{file}:2: there is no key cloud.adress; did you mean cloud.address?"
    # A bound that the option itself has is refused before any setting is read.
    assert "'--queue-max'" in refused("cloud", "serve", "--queue-max", "0", status=2)
