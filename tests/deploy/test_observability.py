"""Dashboard, alerts and their wiring: the metrics that they name exist, and a real Prometheus answers each panel."""

from __future__ import annotations

import asyncio
import json
import math
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from cloud.archive.late_archive import LateArchive
from cloud.metrics import CloudMetrics
from edge.box.metrics import add_box_metrics
from edge.metrics import EdgeMetrics
from shared.bundle import Bundle
from shared.process.config import MetricsSettings
from support import processes
from support.locked import token_for
from support.service import png
from support.tools import promtool

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "observability"
DASHBOARD = FOLDER / "grafana" / "dashboards" / "isthmus.json"
ALERTS = FOLDER / "alerts.yml"
GUIDE = ROOT / "docs" / "operating.md"
INTERVAL = "$__rate_interval"


def yaml(path: Path) -> Any:
    library = pytest.importorskip("ruamel.yaml", reason="comes with check-jsonschema, in '.[dev]'")
    return library.YAML(typ="safe", pure=True).load(path)


def panels() -> list[tuple[str, str]]:
    """Title and query, for each query of each panel."""
    board = json.loads(DASHBOARD.read_text())
    return [
        (panel["title"], target["expr"]) for panel in board["panels"] for target in panel.get("targets", ())
    ]


async def no_box() -> None:
    """The state of a box that is not there yet."""


def exposed(bundle: Bundle) -> dict[str, set[str]]:
    """The labels of each metric of both servers, by its name without _total."""
    settings = MetricsSettings(cameras=True)
    cloud, edge = CloudMetrics(settings, lambda: None), EdgeMetrics(settings, bundle, lambda: 0)
    cloud.archive(LateArchive(lambda: 1 / 0))  # type: ignore[arg-type,return-value]  # never opened
    cloud.tokens({})
    cloud.bundles(list)
    add_box_metrics(edge, no_box)
    for metrics in (cloud, edge):
        shown = {family.name for family in metrics.registry.collect()}
        assert {name for name in shown if name.startswith("isthmus_")} == set(metrics.labels)
    return {name: set(labels) for name, labels in (cloud.labels | edge.labels).items()}


def named(text: str) -> set[str]:
    """The metrics of ours that an expression, or a page, names, without the ends of counters and histograms."""
    names = re.findall(r"\bisthmus_(?:cloud|edge)_[a-z_]*[a-z]", text)
    return {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in names}


def expressions() -> list[str]:
    rules = [rule["expr"] for group in yaml(ALERTS)["groups"] for rule in group["rules"]]
    return [*rules, *(expression for _, expression in panels())]


def test_dashboard_and_alerts_name_what_the_servers_expose(bundle: Bundle) -> None:
    known = exposed(bundle)
    used = set().union(*map(named, expressions()))
    assert len(used) > 25
    assert used - set(known) == set()
    assert {"isthmus_cloud_no_such"} - set(known)


def test_expressions_use_labels_that_the_metrics_have(bundle: Bundle) -> None:
    known, always = exposed(bundle), {"instance", "job", "le"}
    for expression in expressions():
        allowed = always.union(*(known[name] for name in named(expression)))
        by = re.findall(r"\b(?:by|ignoring|on)\s*\(([^)]*)\)", expression)
        used = {label.strip() for group in by for label in group.split(",")}
        used |= set(re.findall(r"[{,]\s*([a-z_]+)\s*(?:=~|!=|!~|=)", expression))
        assert used - allowed == set(), expression


def test_the_dashboard_shows_all_and_the_guide_explains_all(bundle: Bundle) -> None:
    known = {name for name in exposed(bundle) if name.startswith("isthmus_") and "_bucket" not in name}
    known = set().union(*(named(name) for name in known))
    shown = set().union(*(named(expression) for _, expression in panels()))
    assert known - shown <= {"isthmus_edge_bundle_info", "isthmus_edge_camera_images"}
    text = GUIDE.read_text()
    for name in known:
        short = name.removeprefix("isthmus_cloud_").removeprefix("isthmus_edge_")
        assert f"`{short}" in text, name


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    board = json.loads(DASHBOARD.read_text())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    places = set()
    for panel in board["panels"]:
        grid = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & places, panel["title"]
        places |= cells
        assert panel["type"] == "row" or panel["targets"]
    variables = {one["name"] for one in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(board["panels"])))
    assert used <= variables
    assert board["uid"] == "isthmus"


def test_grafana_and_prometheus_find_each_other_and_their_files() -> None:
    services = yaml(ROOT / "deploy" / "compose.yaml")["services"]
    [source] = yaml(FOLDER / "grafana" / "provisioning" / "datasources" / "prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert services["prometheus"]["ports"] == ["127.0.0.1:9090:9090"]
    mounts = dict(volume.split(":")[:2][::-1] for volume in services["grafana"]["volumes"])
    [provider] = yaml(FOLDER / "grafana" / "provisioning" / "dashboards" / "isthmus.yml")["providers"]
    folder = ROOT / "deploy" / mounts[provider["options"]["path"]]
    assert folder.samefile(DASHBOARD.parent)
    assert (ROOT / "deploy" / mounts["/etc/grafana/provisioning"]).samefile(
        FOLDER / "grafana" / "provisioning"
    )
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/{DASHBOARD.name}"
    targets = {
        target
        for job in yaml(FOLDER / "prometheus.yml")["scrape_configs"]
        for one in job["static_configs"]
        for target in one["targets"]
    }
    assert targets == {"cloud:8080", "edge:8081"}


def checked(*arguments: str | Path) -> None:
    done = subprocess.run([promtool(), *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_configuration_and_rules(tmp_path: Path) -> None:
    checked(
        "check", "config", "--syntax-only", FOLDER / "prometheus.yml"
    )  # the token lies in compose's volume
    checked("check", "rules", ALERTS)
    broken = tmp_path / "alerts.yml"
    broken.write_text(ALERTS.read_text().replace("> 0.8", "> > 0.8"))
    with pytest.raises(AssertionError, match="parse error"):
        checked("check", "rules", broken)


def test_each_alert_fires_for_what_it_is_about(tmp_path: Path) -> None:
    cases = (Path(__file__).parent / "alerts_test.yml").read_text()
    test = tmp_path / "test.yml"
    test.write_text(cases.replace("[ALERTS]", f"[{json.dumps(str(ALERTS))}]"))
    checked("test", "rules", test)
    alerts = {rule["alert"] for group in yaml(ALERTS)["groups"] for rule in group["rules"]}
    assert alerts == set(re.findall(r'alertname="(\w+)"', cases))
    for group in yaml(ALERTS)["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("page", "ticket")
            assert {"summary", "action"} == set(rule["annotations"])


# A real Prometheus.


@contextmanager
def prometheus(folder: Path, cloud: str, edge: str, token: str) -> Iterator[httpx.Client]:
    """A Prometheus that scrapes both every second; a client of its API."""
    config = (FOLDER / "prometheus.yml").read_text()
    secret = folder / "token"
    secret.write_text(token)
    config = config.replace("cloud:8080", cloud).replace("edge:8081", edge).replace("15s", "1s")
    config = config.replace("/token/token", str(secret))
    with prometheus_of(folder, config.replace("alerts.yml", str(ALERTS))) as client:
        yield client


@contextmanager
def prometheus_of(folder: Path, config: str) -> Iterator[httpx.Client]:
    """A Prometheus with a configuration; a client of its API."""
    found = shutil.which("prometheus")
    if found is None:
        pytest.skip("prometheus is not installed; Debian's package `prometheus` has it")
    (folder / "prometheus.yml").write_text(config)
    command = [
        found,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
        "--enable-feature=exemplar-storage",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            with processes.killed_after(process):
                lines = iter(process.stderr.readline, "")
                address = next(
                    m[1] for line in lines if (m := re.search(r'"Listening on" address=(\S+)', line))
                )
            threading.Thread(target=process.stderr.read, daemon=True).start()
            with httpx.Client(base_url=f"http://{address}", timeout=30) as client:
                yield client
        finally:
            processes.kill_tree(process)


async def eventually(what: Callable[[], Any], seconds: float = 120) -> Any:
    """What a call returns, once that is something."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                if found := what():
                    return found
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.2)


@pytest.mark.slow
async def test_a_real_prometheus_scrapes_both_sides_and_answers_every_panel(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens.json"
    scraper, camera = token_for(tokens, "scraper", "metrics"), token_for(tokens, "box", "analyze")
    (tmp_path / "camera").write_text(camera)
    ports = ("--bundle", tiny_bundle, "--grpc-port", "0", "--http-port", "0", "--threads", "1")
    more = ("--tokens", tokens, "--archive", tmp_path / "kept", "--metrics-cameras")
    with processes.server("cloud", "serve", *ports, *more) as cloud:
        heard = cloud.event("listening")
        cloud.event("ready")
        config, inbox = tmp_path / "box.toml", tmp_path / "inbox"
        inbox.mkdir()
        config.write_text(
            f'[cloud]\naddress = "{heard["grpc"]}"\ntoken_file = "{tmp_path / "camera"}"\n'
            f'[spool]\nfolder = "{tmp_path / "spool"}"\n[answers]\nfile = "{tmp_path / "answers.jsonl"}"\n'
            f'[metrics]\ncameras = true\n[sources.inbox]\nkind = "folder"\nurl = "{inbox}"\nafter = "delete"\n'
        )
        with processes.server(
            "edge", "run", "--config", config, "--bundle", tiny_bundle, "--port", "0"
        ) as edge:
            address = edge.event("listening")["http"]
            edge.event("ready")
            with prometheus(tmp_path, heard["http"], address, scraper) as api:
                await _look(api, heard["http"], address, camera, inbox)


def _send(cloud: str, edge: str, bearer: dict[str, str]) -> None:
    """Some of all that the panels show."""

    def post(address: str, number: int, **headers: str) -> None:
        answer = httpx.post(f"http://{address}/analyze", content=png(number), headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text

    for number in range(2):
        post(edge, number, **{"X-Camera": "door"})
        post(edge, number, **{"X-Session": "s"})
        post(cloud, number, **bearer)
    assert httpx.get(f"http://{cloud}/metrics", timeout=60).status_code == 401
    assert httpx.get(f"http://{cloud}/metrics", headers=bearer, timeout=60).status_code == 403


async def _look(api: httpx.Client, cloud: str, edge: str, token: str, inbox: Path) -> None:
    def numbers(expression: str) -> list[float]:
        answer = api.get("/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", (expression, answer)
        found = [float(one["value"][1]) for one in answer["data"]["result"]]
        return [number for number in found if math.isfinite(number)]

    bearer = {"Authorization": f"Bearer {token}"}
    await eventually(lambda: numbers("up == 1") == [1.0, 1.0])
    targets = api.get("/api/v1/targets").json()["data"]["activeTargets"]
    assert [target["lastError"] for target in targets] == ["", ""]
    for count in (2, 4):  # a rate needs what is there already to grow
        _send(cloud, edge, bearer)
        (inbox / ".new").write_bytes(png(count))
        (inbox / ".new").rename(inbox / f"{count}.png")
        await eventually(
            lambda count=count: numbers('sum(isthmus_cloud_images_total{source="image"})') == [count]
        )
        await eventually(lambda count=count: numbers("sum(isthmus_edge_images_total)") == [2 * count])
        await eventually(lambda count=count: numbers("sum(isthmus_edge_link_frames_total)") == [count // 2])
    for _, expression in panels():
        ready = expression.replace(INTERVAL, "1m").replace("$cloud", ".*").replace("$edge", ".*")
        await eventually(lambda ready=ready: numbers(ready), 30)
    assert numbers('isthmus_cloud_tokens_refused_total{reason="no token"}') == [2]
    assert numbers('isthmus_cloud_tokens_refused_total{reason="scope"}') == [2]
    rules = [rule for group in api.get("/api/v1/rules").json()["data"]["groups"] for rule in group["rules"]]
    assert len(rules) > 10
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    assert numbers('ALERTS{alertstate="firing"}') == []


@contextmanager
def ray_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Ray with a dashboard, which says where its metrics are; its address. All on loopback, behind a token."""
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as listening:
            ports.append(listening.getsockname()[1])
    for name, value in {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
    }.items():
        monkeypatch.setenv(name, value)
    where = ("--node-ip-address=127.0.0.1", f"--port={ports[0]}", f"--temp-dir={folder}")
    board = ("--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={ports[1]}")
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"]
    log = (folder / "start.log").open("w")
    with subprocess.Popen([*command, *where, *board], stdout=log, stderr=log, text=True) as process:
        try:
            yield f"127.0.0.1:{ports[0]}"
        finally:
            processes.kill_tree(process)


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_one_prometheus_sees_gateway_and_replicas(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the configuration that docs/ray.md shows."""
    pytest.importorskip("ray", reason="comes with the extra ray")
    tokens = tmp_path / "tokens.json"
    (tmp_path / "token").write_text(token_for(tokens, "scraper", "metrics"))
    camera = token_for(tokens, "box", "analyze")
    with ExitStack() as stack:
        # Sockets have short names; its processes may still write as they end.
        made = tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(made))
        address = stack.enter_context(ray_of_its_own(folder, monkeypatch))
        discovery = folder / "prom_metrics_service_discovery.json"
        await eventually(discovery.exists, 300)
        config = tmp_path / "cloud.toml"
        config.write_text("[ray]\ncpus = 0.5\n[engine]\nthreads = 1\n")
        words = ("--engine", "ray", "--ray-address", address, "--config", config, "--tokens", tokens)
        ports = ("--bundle", tiny_bundle, "--grpc-port", "0", "--http-port", "0")
        cloud = stack.enter_context(processes.server("cloud", "serve", *words, *ports))
        http = (await asyncio.to_thread(cloud.event, "listening"))["http"]
        await asyncio.to_thread(cloud.event, "ready", 600)
        shown = re.search(r"```yaml\n(scrape_configs:.*?)```", (ROOT / "docs" / "ray.md").read_text(), re.S)
        assert shown is not None
        text = shown[1].replace('["gateway-1:8080", "gateway-2:8080"]', f'["{http}"]')
        text = text.replace("/token/token", str(tmp_path / "token"))
        text = text.replace("/tmp/ray/prom_metrics_service_discovery.json", str(discovery))
        text = "global: {scrape_interval: 1s}\n" + text
        api = stack.enter_context(prometheus_of(tmp_path, text))

        def number(expression: str) -> float:
            answer = api.get("/api/v1/query", params={"query": expression}).json()
            return sum(float(one["value"][1]) for one in answer["data"]["result"])

        for i in range(4):
            headers = {"Authorization": f"Bearer {camera}"}
            answer = httpx.post(f"http://{http}/analyze", content=png(i), headers=headers, timeout=120)
            assert answer.status_code == 200, answer.text
        await eventually(lambda: number("sum(isthmus_cloud_images_total)") == 4)
        await eventually(lambda: number('sum(ray_isthmus_inferences_total{task="classification"})') == 4)
        await eventually(lambda: number("sum(ray_isthmus_batch_images_count)") >= 1)
        assert number('sum(up{job="isthmus-cloud"})') == 1
        assert number('sum(up{job="ray"})') >= 1
