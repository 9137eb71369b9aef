"""What can be known of deploy/, .ci/ and the packaging without a container engine."""

from __future__ import annotations

import fnmatch
import http.server
import importlib.metadata
import json
import re
import shutil
import ssl
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main

from cloud.settings import AuthSettings, CloudSettings
from edge.box.settings import load_box
from edge.settings import EdgeSettings
from shared.image import MAX_PIXELS
from shared.process.config import ServerSettings, variable_names
from support.certificates import Authority

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy" / "compose.yaml"
OVERLAYS = {name: ROOT / "deploy" / f"compose.{name}.yaml" for name in ("gpu", "tls")}
DOCKERFILES = {name: ROOT / "deploy" / f"{name}.Dockerfile" for name in ("edge", "cloud")}


def tool(name: str) -> str:
    """A command line tool of this environment, whether or not it is in PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed; it comes with '.[dev]'")
    return found


def compose(path: Path = COMPOSE) -> dict[str, Any]:
    yaml = pytest.importorskip("ruamel.yaml", reason="comes with check-jsonschema, in '.[dev]'")
    loaded: dict[str, Any] = yaml.YAML(typ="safe", pure=True).load(path)
    return loaded


def instructions(name: str) -> list[tuple[str, str]]:
    """("FROM", "python:... AS build") and so on; comments left out, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILES[name].read_text(), flags=re.M).replace("\\\n", " ")
    return [(line.split()[0], line.split(None, 1)[1].strip()) for line in text.splitlines() if line.strip()]


def last(name: str, instruction: str) -> str:
    return [words for kind, words in instructions(name) if kind == instruction][-1]


def test_compose_file_is_valid(tmp_path: Path) -> None:
    def check(path: Path) -> subprocess.CompletedProcess[str]:
        command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    for path in (COMPOSE, *OVERLAYS.values()):
        done = check(path)
        assert done.returncode == 0, done.stdout
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text().replace("depends_on:", "depends_upon:"))
    assert check(wrong).returncode == 1


def test_memory_limits_hold_the_largest_picture_and_the_bodies() -> None:
    for name, idle, bodies in (
        ("edge", 130 << 20, EdgeSettings().http.bodies_bytes_max),
        ("cloud", 350 << 20, CloudSettings().http.bodies_bytes_max),
    ):
        number, unit = re.fullmatch(r"(\d+)([mg])", compose()["services"][name]["mem_limit"]).groups()  # type: ignore[union-attr]
        limit = int(number) << {"m": 20, "g": 30}[unit]
        assert limit > 1.2 * (
            idle + bodies + 28 * MAX_PIXELS
        )  # bytes a pixel of the dearest format, measured


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint(name: str) -> None:
    done = subprocess.run(
        [tool("hadolint"), str(DOCKERFILES[name])], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout
    broken = DOCKERFILES[name].read_text().replace("python:3.11.13-slim-bookworm", "python")
    done = subprocess.run([tool("hadolint"), "-"], input=broken, capture_output=True, text=True, timeout=60)
    assert "DL3006" in done.stdout  # it does look


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images_are_small_pinned_and_unprivileged(name: str) -> None:
    bases = [words.split()[0] for kind, words in instructions(name) if kind == "FROM"]
    assert len(bases) == 2, "one stage builds, one runs"
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", base) for base in bases)
    user = last(name, "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "by number, so that runAsNonRoot can check it"
    assert (
        json.loads(re.sub(r"^.*CMD ", "", last(name, "HEALTHCHECK")))[0] == "python"
    )  # a slim image has no curl
    assert json.loads(last(name, "ENTRYPOINT")) == ["isthmus"]


def test_edge_image_has_no_torch_and_nothing_of_the_cloud() -> None:
    text = " ".join(words for _, words in instructions("edge"))
    assert "torch" not in text
    assert "[cloud]" not in text
    copied = {word for kind, words in instructions("edge") if kind == "COPY" for word in words.split()}
    assert "cloud" not in copied


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_is_copied_is_there_and_not_ignored(name: str) -> None:
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]

    def ignored(path: str) -> bool:
        out = False
        for pattern in patterns:  # the last that matches counts
            if fnmatch.fnmatch(path, pattern.removeprefix("!")) or path == pattern.removeprefix("!"):
                out = not pattern.startswith("!")
        return out

    for kind, words in instructions(name):
        if kind == "COPY" and "--from" not in words:
            for source in words.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert not ignored(source), source
    assert ignored("runs")
    assert ignored(".git")
    assert ignored("deploy")


def parsed(command: list[str]) -> dict[str, Any]:
    """The options of an `isthmus` command, as its own parser reads them."""
    group, verb, *options = command
    if group == "edge" and verb == "run":
        from edge.box.commands import app
    elif group == "edge":
        from edge.commands import app
    else:
        pytest.importorskip("torch", reason="comes with '.[cloud]'")
        from cloud.commands import app
    commands: Any = typer.main.get_command(app)
    return dict(commands.commands[verb].make_context(verb, options).params)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_commands_are_understood(name: str) -> None:
    service = compose()["services"][name]
    health = last(name, "HEALTHCHECK")
    for command in (service["command"], json.loads(last(name, "CMD"))):
        options = parsed(command)
        port = options["http_port" if name == "cloud" else "port"]
        assert f"127.0.0.1:{port}/readyz" in health
        assert str(port) in last(name, "EXPOSE").split()
        assert any(mapping.endswith(f":{port}") for mapping in service["ports"])
    options = parsed(service["command"])
    assert options["host"] == "0.0.0.0"
    bundle, token = (mount.split(":") for mount in service["volumes"])
    source, target, mode = bundle
    assert (str(options["bundles" if name == "cloud" else "bundle"]), mode) == (target, "ro")
    place = (COMPOSE.parent / source).resolve()
    assert place == ROOT / "deploy" / ("bundles" if name == "cloud" else "bundles/rooms")
    assert token == ["token", "/token", "ro"]
    assert str(options["token_file"]) == "/token/token"


def test_the_box_of_compose_finds_what_it_reads() -> None:
    services = compose()["services"]
    options = parsed(services["box"]["command"])
    mounts = {
        target: source for source, target, _ in (one.rsplit(":", 2) for one in services["box"]["volumes"])
    }
    assert (ROOT / "deploy" / mounts[str(options["bundle"])]).resolve().parent == ROOT / "deploy" / "bundles"
    assert mounts["/box.toml"] == "${BOX:-./examples/box.toml}"
    [people] = load_box(ROOT / "deploy" / "examples" / "box.toml", {}).sources.values()
    assert (ROOT / "deploy" / mounts["/samples"] / Path(people.url).relative_to("/samples")).exists()
    # And with go2rtc in front.
    [door] = load_box(ROOT / "deploy" / "examples" / "cameras.toml", {}).sources.values()
    gateway = compose(ROOT / "deploy" / "examples" / "go2rtc.yaml")
    host, _, name = door.url.removeprefix("rtsp://").partition("/")
    assert host == f"go2rtc{gateway['rtsp']['listen']}"
    assert name in gateway["streams"]
    assert "[mqtt,signing,video]" in " ".join(words for _, words in instructions("edge"))


def test_the_token_of_compose_is_made_once_for_both(tmp_path: Path) -> None:
    service = compose()["services"]["token"]
    assert service["volumes"] == ["token:/token"]
    assert compose()["services"]["cloud"]["depends_on"]["token"] == {
        "condition": "service_completed_successfully"
    }
    [script] = service["command"]
    script = script.replace("/token/", f"{tmp_path}/")
    for _ in range(2):
        subprocess.run([sys.executable, *service["entrypoint"][1:], script], check=True, timeout=60)
        token = (tmp_path / "token").read_text()
        assert len(token) == 43
        assert AuthSettings(token_file=tmp_path / "token").read_token() == token
    assert [path.name for path in tmp_path.iterdir()] == ["token"]
    assert (tmp_path / "token").stat().st_mode & 0o444 == 0o444  # the servers run as another user


def test_the_edge_calls_the_cloud_where_it_listens() -> None:
    services = compose()["services"]
    cloud = parsed(services["cloud"]["command"])
    assert parsed(services["edge"]["command"])["cloud"] == f"cloud:{cloud['grpc_port']}"
    assert str(cloud["grpc_port"]) in services["cloud"]["expose"]


def test_compose_services_are_hardened_and_local() -> None:
    for name, service in compose()["services"].items():
        name = {"token": "cloud", "box": "edge"}.get(name, name)  # the same image
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        if "build" not in service:  # somebody else's: only with a profile, and always the same one
            assert service["profiles"]
            assert re.fullmatch(r"[a-z0-9/]+:v?\d+\.\d+\.\d+", service["image"])
            continue
        assert (COMPOSE.parent / service["build"]["context"] / service["build"]["dockerfile"]).samefile(
            DOCKERFILES[name]
        )
        assert service["image"].endswith(f":{importlib.metadata.version('isthmus')}")


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlays_change_services_that_there_are_by_known_settings(name: str) -> None:
    services = compose()["services"]
    for service, added in compose(OVERLAYS[name])["services"].items():
        assert service in services
        kind: type[ServerSettings] = CloudSettings if service == "cloud" else EdgeSettings
        for variable in added["environment"]:
            assert variable in variable_names(kind).values(), variable
        mounted = {mount.split(":")[-2] for mount in added.get("volumes", ())}
        files = (value for value in added["environment"].values() if value.startswith("/"))
        assert all(any(file.startswith(f"{folder}/") for folder in mounted) for file in files)


def test_the_health_check_over_tls(tmp_path: Path) -> None:
    class Ready(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    pair = Authority(tmp_path / "ca").issue("server", "cloud", "DNS:cloud")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    [*_, script] = compose(OVERLAYS["tls"])["services"]["cloud"]["healthcheck"]["test"]
    with http.server.HTTPServer(("127.0.0.1", 0), Ready) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        script = script.replace(":8080", f":{server.server_port}")
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
        server.shutdown()


@pytest.mark.parametrize("name", DOCKERFILES)
@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (None, 1)])
def test_health_check_tells_ready_from_not(name: str, status: int | None, code: int) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status or 200 if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        port = server.server_port
        if status is None:
            server.server_close()  # nobody listens
        else:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        [_, option, script] = json.loads(re.sub(r"^.*CMD ", "", last(name, "HEALTHCHECK")))
        script = re.sub(r"127\.0\.0\.1:\d+", f"127.0.0.1:{port}", script)
        done = subprocess.run([sys.executable, option, script], capture_output=True, timeout=60)
        assert done.returncode == code, done.stderr
        if status is not None:
            server.shutdown()


# Packaging and habits.


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=;~! ]", line)[0].lower().replace("_", "-") for line in requirements}


def test_constraints_pin_every_direct_dependency_but_numpy() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    direct = names([*project["dependencies"], *(line for extra in extras for line in extra)])
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line) for line in lines), (
        "plain public versions only"
    )
    assert direct - names(lines) == {"numpy", "isthmus"}
    assert "numpy" not in names(lines)


def test_make_help_names_every_target() -> None:
    make = shutil.which("make")
    if not make:
        pytest.skip("make is not installed")
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^\.PHONY: (\S+)", text, flags=re.M))
    assert targets >= {"help", "setup", "test", "test-slow", "lint", "types", "proto", "demo", "clean"}
    done = subprocess.run(
        [make, "-s", "help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert {line.split()[0] for line in done.stdout.splitlines()} == targets
    for target in targets:
        subprocess.run([make, "-n", target], cwd=ROOT, capture_output=True, timeout=60, check=True)


def test_ci_runs_what_the_readme_says() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=60)
    text = script.read_text()
    assert "set -euo pipefail" in text
    for line in (
        "pip install -c constraints.txt -e '.[cloud]'",
        "pip install -c constraints.txt -e '.[dev]'",
    ):
        assert f"\n{line}\n" in text
        assert line in (ROOT / "README.md").read_text()
    for line in ("make sbom", "pytest", "ruff check", "ruff format --check", "mypy"):
        assert f"\n{line}\n" in text
