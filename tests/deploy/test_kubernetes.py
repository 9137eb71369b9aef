"""deploy/kubernetes against Kubernetes' own schemas, and against the server's settings. No cluster is needed."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from cloud.settings import CloudSettings, GrpcSettings, HttpSettings
from shared.image import MAX_PIXELS
from shared.process.config import variable_names

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
BASE = KUBERNETES / "base"
VERSION = "1.32"
NAME = {"app.kubernetes.io/name": "isthmus-cloud"}


def documents(text: str) -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml", reason="comes with kubernetes-validate, in '.[dev]'")
    return [one for one in yaml.safe_load_all(text) if one is not None]


def resources() -> dict[str, dict[str, Any]]:
    """What the base names, by kind."""
    [kustomization] = documents((BASE / "kustomization.yaml").read_text())
    found = [one for name in kustomization["resources"] for one in documents((BASE / name).read_text())]
    assert {*kustomization["resources"], "kustomization.yaml"} == {path.name for path in BASE.iterdir()}
    return {one["kind"]: one for one in found}


def flaws(resource: dict[str, Any]) -> Iterator[str]:
    validate = pytest.importorskip("kubernetes_validate", reason="comes with '.[dev]'")
    try:
        validate.validate(resource, VERSION, strict=True)
    except validate.ValidationError as error:
        yield str(error)


def container() -> dict[str, Any]:
    [one] = resources()["Deployment"]["spec"]["template"]["spec"]["containers"]
    return one


def changed(path: str, value: Any) -> dict[str, Any]:
    """The Deployment with another value at `a.b.0.c`."""
    deployment = copy.deepcopy(resources()["Deployment"])
    place: Any = deployment
    *way, last = path.split(".")
    for step in way:
        place = place[int(step) if step.isdigit() else step]
    place[last] = value
    return deployment


def test_resources_are_valid() -> None:
    for kind, resource in resources().items():
        assert list(flaws(resource)) == [], kind


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.template.spec.containers.0.livenesProbe", {}),
        ("spec.template.spec.containers.0.ports", [{"containerPort": "http"}]),
        ("spec.strategy", "RollingUpdate"),
    ],
)
def test_the_schemas_do_look(path: str, value: Any) -> None:
    assert list(flaws(changed(path, value)))


@pytest.mark.parametrize("folder", ["base", "tls", "gpu", "state"])
def test_folders_build(folder: str) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(
        [kubectl, "kustomize", str(KUBERNETES / folder)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    built = {one["kind"]: one for one in documents(done.stdout)}
    assert set(built) == set(resources())
    for kind, resource in built.items():
        assert list(flaws(resource)) == [], kind
        assert kind == "Namespace" or resource["metadata"]["namespace"] == "isthmus"
    [one] = built["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert one["image"].endswith(":0.1.0")
    options = parsed(one["args"])
    if folder == "tls":
        assert (str(options["tls_certificate"]), str(options["tls_key"])) == ("/tls/tls.crt", "/tls/tls.key")
        probes = (one[name]["httpGet"]["scheme"] for name in PROBES)
        assert set(probes) == {"HTTPS"}
    if folder == "state":
        [variable] = one["env"]
        assert variable["name"] == variable_names(CloudSettings)["state.url"]
        ports = [rule["ports"][0]["port"] for rule in built["NetworkPolicy"]["spec"]["egress"]]
        assert ports == [5432, 53]
    if folder == "gpu":
        assert options["device"] == "cuda"
        assert one["resources"]["limits"]["nvidia.com/gpu"] == "1"


PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def parsed(command: list[str]) -> dict[str, Any]:
    """The options of a command, as its own parser reads them."""
    pytest.importorskip("torch", reason="comes with '.[cloud]'")
    from cloud.commands import app

    group, verb, *options = command
    assert group == "cloud"
    commands: Any = typer.main.get_command(app)
    return dict(commands.commands[verb].make_context(verb, options).params)


def test_the_command_fits_ports_mounts_and_probes() -> None:
    one, options = container(), parsed(container()["args"])
    ports = {port["name"]: port["containerPort"] for port in one["ports"]}
    assert ports == {"grpc": options["grpc_port"], "http": options["http_port"]}
    assert (ports["grpc"], ports["http"]) == (GrpcSettings().port, HttpSettings().port)
    assert options["host"] == "0.0.0.0"
    mounts = {mount["mountPath"]: mount for mount in one["volumeMounts"]}
    assert mounts[str(options["bundles"])]["readOnly"] is True
    assert str(options["token_file"].parent) in mounts
    volumes = {volume["name"] for volume in resources()["Deployment"]["spec"]["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in mounts.values()} == volumes
    paths = [one[name]["httpGet"] for name in PROBES]
    assert [path["path"] for path in paths] == ["/readyz", "/readyz", "/healthz"]
    assert {path["port"] for path in paths} == {"http"}


def test_a_server_has_time_and_memory() -> None:
    pod, settings = resources()["Deployment"]["spec"]["template"]["spec"], CloudSettings()
    sleep = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= sleep + settings.drain_ms / 1000 + 15
    limit = container()["resources"]["limits"]["memory"]
    assert re.fullmatch(r"\dGi", limit)
    needed = (350 << 20) + settings.http.bodies_bytes_max + 28 * MAX_PIXELS  # as in compose.yaml's test
    assert int(limit[0]) << 30 > 1.2 * needed


def test_pods_are_restricted() -> None:
    """The profile `restricted` of Kubernetes' pod security standards, which the namespace enforces."""
    pod, security = resources()["Deployment"]["spec"]["template"]["spec"], container()["securityContext"]
    assert (
        resources()["Namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    )
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert f"USER {pod['securityContext']['runAsUser']}:" in (ROOT / "deploy/cloud.Dockerfile").read_text()
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert not any("hostPath" in volume for volume in pod["volumes"])


def test_all_of_them_mean_the_same_pods() -> None:
    found = resources()
    assert found["Deployment"]["spec"]["template"]["metadata"]["labels"] == NAME
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert found[kind]["spec"]["selector"]["matchLabels"] == NAME
    assert found["Service"]["spec"]["selector"] == NAME
    assert found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == NAME
    target = found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", found["Deployment"]["metadata"]["name"])
    assert "replicas" not in found["Deployment"]["spec"]  # each update would set it back
    names = {port["name"] for port in container()["ports"]}
    assert {port["targetPort"] for port in found["Service"]["spec"]["ports"]} == names
    policy = found["NetworkPolicy"]["spec"]
    assert policy["egress"] == []
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == names
    assert all(rule["from"] for rule in policy["ingress"])  # an empty list would mean everybody


def test_the_autoscaler_goes_by_a_number_that_there_is() -> None:
    spec = resources()["HorizontalPodAutoscaler"]["spec"]
    [metric] = spec["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert f'"{name.removeprefix("isthmus_cloud_")}"' in (ROOT / "cloud" / "metrics.py").read_text()
    assert f"name: {{as: {name}}}" in (ROOT / "docs" / "kubernetes.md").read_text()
    assert 0 < int(metric["pods"]["target"]["averageValue"]) < CloudSettings().pipeline.queue_max / 2
    assert 2 <= spec["minReplicas"] < spec["maxReplicas"]


def test_an_archive_is_sealed_and_expires() -> None:
    pytest.importorskip("torch", reason="comes with '.[cloud]'")
    from cloud.archive_commands import app

    [job] = documents((KUBERNETES / "archive" / "seal.yaml").read_text())
    assert list(flaws(job)) == []
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    commands: Any = typer.main.get_command(app)
    stores = []
    for one in (*pod["initContainers"], *pod["containers"]):
        assert one["args"][:2] == ["cloud", "archive"]
        verb, *options = one["args"][2:]
        assert verb == one["name"]
        given = dict(commands.commands[verb].make_context(verb, options).params)
        stores.append(given.get("store") or given["archive"])
        assert one["securityContext"] == container()["securityContext"]
    assert stores[0] == stores[1]
    [archive] = [volume for volume in pod["volumes"] if volume["name"] == "archive"]
    number = job["metadata"]["name"].rpartition("-")[2]
    assert archive["persistentVolumeClaim"]["claimName"].endswith(f"-{number}")
    assert pod["securityContext"] == resources()["Deployment"]["spec"]["template"]["spec"]["securityContext"]


def test_the_timer_of_systemd_seals_and_expires() -> None:
    pytest.importorskip("torch", reason="comes with '.[cloud]'")
    from cloud.archive_commands import app

    service = (ROOT / "deploy" / "isthmus-seal.service").read_text()
    timer = (ROOT / "deploy" / "isthmus-seal.timer").read_text()
    assert "OnCalendar=hourly" in timer
    [archive] = re.findall(r"^Environment=ISTHMUS_ARCHIVE=(\S+)$", service, re.M)
    commands: Any = typer.main.get_command(app)
    lines = re.findall(r"^ExecStart=-?\S+/isthmus cloud archive (\w+) (.+)$", service, re.M)
    assert [verb for verb, _ in lines] == ["seal", "expire"]
    for verb, options in lines:
        command = commands.commands[verb]
        assert (
            str(command.make_context(verb, ["--archive", archive, *options.split()]).params["archive"])
            == archive
        )
