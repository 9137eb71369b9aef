"""deploy/ray/serve.yaml: what it names is there, and Ray takes its configuration."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import cloud.ray_service
from cloud.settings import CloudSettings
from shared.errors import RequestError

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "ray" / "serve.yaml"


@pytest.fixture(scope="module")
def documents() -> dict[tuple[str, str], Any]:
    yaml = pytest.importorskip("ruamel.yaml", reason="comes with check-jsonschema, in '.[dev]'")
    loaded = yaml.YAML(typ="safe", pure=True).load_all(FILE.read_text())
    return {(one["kind"], one["metadata"]["name"]): one for one in loaded}


def serve_config(documents: dict[tuple[str, str], Any]) -> Any:
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load(documents["RayService", "isthmus"]["spec"]["serveConfigV2"])


def test_its_parts_fit_each_other(documents: dict[tuple[str, str], Any]) -> None:
    cluster = documents["RayService", "isthmus"]["spec"]["rayClusterConfig"]
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    [application] = serve_config(documents)["applications"]
    deployments = {one["name"]: one for one in application["deployments"]}
    # A gateway a pod: they bind the same ports.
    assert deployments["Gateway"]["num_replicas"] == groups["gateway"]["replicas"]
    [pod] = groups["gateway"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in pod["ports"]}
    assert ports == {"grpc": 50051, "http": 8080}
    labels = groups["gateway"]["template"]["metadata"]["labels"]
    assert documents["Service", "isthmus-gateway"]["spec"]["selector"] == labels
    module, name = application["import_path"].split(":")
    assert (module, callable(getattr(cloud.ray_service, name))) == ("cloud.ray_service", True)
    assert f"ray=={cluster['rayVersion']}" in (ROOT / "constraints.txt").read_text().splitlines()


def test_ray_takes_it(documents: dict[tuple[str, str], Any], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="comes with the extra ray")
    from ray.serve.schema import ServeDeploySchema

    config = serve_config(documents)
    ServeDeploySchema.model_validate(config)
    file = tmp_path / "cloud.toml"
    file.write_text("drain_ms = 5000\n[ray]\ngateways = 2\n")
    application: Any = cloud.ray_service.app({"config": str(file)})
    built = application._bound_deployment
    assert built.name == "Gateway"
    assert built.num_replicas == 2
    named = {one["name"] for one in config["applications"][0]["deployments"]}
    assert named == {built.name, built.init_args[1]._bound_deployment.name}


def test_an_argument_that_is_not_there() -> None:
    with pytest.raises(RequestError, match="config=FILE"):
        cloud.ray_service.app({"settings": "cloud.toml"})


async def test_a_gateway_reads_the_address_of_the_state_in_its_own_process(
    monkeypatch: pytest.MonkeyPatch, documents: dict[tuple[str, str], Any]
) -> None:
    pytest.importorskip("ray", reason="comes with the extra ray")
    cluster = documents["RayService", "isthmus"]["spec"]["rayClusterConfig"]
    [pod] = (
        group["template"]["spec"] for group in cluster["workerGroupSpecs"] if group["groupName"] == "gateway"
    )
    [variable] = pod["containers"][0]["env"]
    application: Any = cloud.ray_service.app({})
    run, served = application._bound_deployment.init_args[0], []

    async def serve(settings: CloudSettings, *_: Any) -> None:
        served.append(settings)

    monkeypatch.setattr(cloud.ray_service, "serve", serve)
    monkeypatch.setattr(cloud.ray_service, "start_logging", lambda _: None)
    monkeypatch.setenv(variable["name"], "sqlite:///of/the/gateway")
    await run(None, asyncio.Event())
    assert served[0].state.url.get_secret_value() == "sqlite:///of/the/gateway"
    assert served[0].engine.kind == "ray"
