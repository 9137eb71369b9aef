"""One server process with a folder of bundles: edges of several bundles, sessions, and an operator's calls."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import grpc.aio
import httpx

from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.wire import analyzer_pb2 as pb
from shared.wire import convert
from shared.wire.analyzer_pb2_grpc import AnalyzerStub
from support.processes import refused, server
from support.service import png, problem
from support.shelves import variant, variants

TOKEN = "a-token-of-the-tests-that-is-long"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
CALL = grpc.aio.Metadata(("authorization", f"Bearer {TOKEN}"))


async def test_one_server_of_many_bundles(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundles"
    variants(tiny_bundle, folder, 3)
    (tmp_path / "token").write_text(TOKEN)
    packed = [Encoder(Bundle.open(folder / f"b{i}")).encode(png(0)).data for i in range(3)]
    config = tmp_path / "cloud.toml"
    config.write_text("[pipeline.bundles.b1]\nbatch_max = 1\n[pipeline.bundles.nobody]\nbatch_wait_ms = 1\n")
    serve = ("cloud", "serve", "--bundles", folder, "--default", "b0", "--grpc-port", "0", "--http-port", "0")
    more = ("--config", config, "--bundles-bytes-max", "1", "--token-file", tmp_path / "token")
    with server(*serve, *more) as cloud:
        ports = await asyncio.to_thread(cloud.event, "listening")
        await asyncio.to_thread(cloud.event, "ready")
        async with (
            grpc.aio.insecure_channel(ports["grpc"]) as channel,
            httpx.AsyncClient(base_url=f"http://{ports['http']}", timeout=60, headers=ADMIN) as http,
        ):
            stub = AnalyzerStub(channel)

            async def ask(data: bytes, name: str) -> str:
                request = pb.AnalyzeRequest(bitstream=data, request_id=name)
                return (await stub.Analyze(request, timeout=60, metadata=CALL)).bundle

            async def bundles() -> dict[str, Any]:
                return {state["folder"]: state for state in (await http.get("/bundles")).json()}

            answer = await http.post("/admin/reload")
            assert answer.status_code == 200, answer.text
            assert answer.json()["refused"] == {}
            # Room for one: each that is asked makes room for the next.
            names = await asyncio.gather(*(ask(packed[i % 3], f"n{i}") for i in range(6)))
            assert names == ["b0", "b1", "b2", "b0", "b1", "b2"]
            image = await http.post("/analyze", content=png(0), headers={"Content-Type": "image/png"})
            assert image.json()["bundle"] == "b0"
            described = convert.bundles_of(await stub.Describe(pb.DescribeRequest(), metadata=CALL))
            assert [bundle.name for bundle in described] == ["b0", "b1", "b2"]
            assert [bundle["name"] for bundle in (await http.get("/v1/bundles")).json()] == ["b0", "b1", "b2"]
            known = await bundles()
            assert [state["requests"] for state in known.values()] == [3, 2, 2]
            assert sum(state["state"] == "loaded" for state in known.values()) == 1
            # Bundles come and go; what an operator calls happens at once.
            variant(tiny_bundle, folder / "b3", 3)
            (folder / "bad").mkdir()
            shutil.rmtree(folder / "b2")
            looked = (await http.post("/admin/reload")).json()
            assert list(looked["refused"]) == ["bad"]
            assert sorted(await bundles()) == ["b0", "b1", "b3", "bad"]
            assert "bundles/bad" in (await http.get("/readyz")).json()["troubles"]
            gone = await http.post(
                "/analyze", content=packed[2], headers={"Content-Type": "application/vnd.isthmus"}
            )
            assert "is loaded" in problem(gone, 409)["detail"]
            mark = known["b1"]["fingerprint"]
            loaded = (await http.post(f"/admin/bundles/{mark}/load")).json()
            assert (loaded["name"], loaded["state"]) == ("b1", "loaded")
            unloaded = (await http.post(f"/admin/bundles/{mark[:8]}/unload")).json()
            assert (unloaded["name"], unloaded["state"]) == ("b1", "on disk")
            problem(await http.post("/admin/bundles/00000000/load"), 404)
            problem(await http.post("/admin/bundles/xyz/load"), 422)
            del http.headers["authorization"]
            problem(await http.post(f"/admin/bundles/{mark}/load"), 401)
        assert await asyncio.to_thread(cloud.stop) == 0
        assert cloud.process.stderr is not None
        warned = [line for line in cloud.process.stderr if "names no bundle" in line]
        assert [line.count("[pipeline.bundles.nobody]") for line in warned] == [1]


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    serve = ("cloud", "serve", "--bundles", tmp_path / "none", "--grpc-port", "0", "--http-port", "0")
    assert "there is no folder" in refused(*serve, status=2)
