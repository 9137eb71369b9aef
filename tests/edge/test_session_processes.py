"""Sessions between real processes: a clip, a client's images, and a cloud that is replaced meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from edge.session import CameraSession
from edge.settings import CloudLink, SessionSettings
from shared.encoder import Encoder
from shared.types import Analysis
from support.processes import run_here, server
from support.service import png
from support.videos import scene, write_video


@pytest.fixture(scope="module")
def cloud(tiny_bundle: Path) -> Iterator[str]:
    ports = ("--grpc-port", "0", "--http-port", "0")
    with server("cloud", "serve", "--bundle", tiny_bundle, *ports) as process:
        address = process.event("listening")["grpc"]
        process.event("ready")
        yield address


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = scene(1, moving=False) * 4 + scene(3)
    return write_video(tmp_path_factory.mktemp("video") / "clip.mkv", images, 5)


def test_a_clip(cloud: str, tiny_bundle: Path, video: Path) -> None:
    command = ("edge", "analyze", video, "--cloud", cloud, "--bundle", tiny_bundle)
    done = run_here(*command, "--json")
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["at_s"] for one in told] == [0, 0.2, 0.4, 0.6, 0.8, 1, 1.2]
    assert told[0]["frame"] == "I"
    analyses = [Analysis.model_validate(one["analysis"]) for one in told]
    assert all(analysis.results["classification"].top for analysis in analyses)
    results = {one["number"]: one["analysis"]["results"] for one in told}
    same = [one for one in told if one["same_as"] is not None]
    assert all(one["analysis"]["results"] == results[one["same_as"]] for one in same)
    lines = run_here(*command).stdout.splitlines()
    heads = [line for line in lines if line.startswith(f"{video} ")]
    assert len(heads) == 7
    assert " 0.000 s: I, " in heads[0]
    assert any(line.endswith("; as before") for line in heads)


async def test_a_cloud_that_is_replaced(tiny_bundle: Path, encoder: Encoder) -> None:
    """The same session object goes on with the next one; what was confirmed by the first counts no more."""
    image = Image.fromarray(scene(1)[0])
    settings = SessionSettings(replies="all")
    serve = ("cloud", "serve", "--bundle", tiny_bundle, "--http-port", "0", "--grpc-port")
    with server(*serve, "0") as process:
        address = process.event("listening")["grpc"]
        process.event("ready")
        session = CameraSession(encoder, CloudLink(address=address, deadline_ms=60_000), settings)
        first = [await session.analyze(image) for _ in range(3)]
    with server(*serve, address.split(":")[1]) as process:
        process.event("listening")
        process.event("ready")
        second = [await session.analyze(image) for _ in range(2)]
        await session.close()
    assert [one.frame for one in first] == ["I", "S", "S"]
    assert [one.frame for one in second] == ["I", "S"]
    assert first[0].analysis.results == second[0].analysis.results == second[1].analysis.results


def test_a_clients_images(cloud: str, tiny_bundle: Path) -> None:
    with server("edge", "serve", "--port", "0", "--cloud", cloud, "--bundle", tiny_bundle) as process:
        url = process.event("listening")["http"]
        process.event("ready")
        headers = {"Content-Type": "image/png", "X-Session": "door"}
        with httpx.Client(base_url=url if "//" in url else f"http://{url}", timeout=60) as client:
            answers = [client.post("/analyze", content=png(0), headers=headers) for _ in range(3)]
            alone = client.post("/analyze", content=png(0), headers={"Content-Type": "image/png"})
    told = [Analysis.model_validate(one.raise_for_status().json()) for one in answers]
    assert [one.bytes.total for one in told[1:]] == [3, 3]
    assert told[0].results == told[1].results
    assert told[0].results == Analysis.model_validate(alone.json()).results
