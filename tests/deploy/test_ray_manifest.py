"""deploy/ray/serve.yaml: what it names is there, and Ray takes its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import cloud.ray_service
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
