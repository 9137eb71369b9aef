"""A loaded bundle and servers around it, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from cloud.engine.engine import MakeEngine, local_engine
from cloud.faces.grpc_face import Servicer
from cloud.faces.grpc_guard import ReadableMessages
from cloud.pipeline import Pipeline
from cloud.settings import PipelineSettings
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.errors import RequestError
from shared.wire.analyzer_pb2_grpc import AnalyzerStub, add_AnalyzerServicer_to_server
from support.service import GatedModel, OneBundle, png
from support.streams import version_1


@pytest.fixture(scope="session")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.fixture(scope="session")
def encoder(bundle: Bundle) -> Encoder:
    return Encoder(bundle)


@pytest.fixture(scope="session")
def packed(encoder: Encoder) -> list[bytes]:
    """Eight different pictures' bitstreams."""
    return [encoder.encode(png(seed)).data for seed in range(8)]


@pytest.fixture(scope="session")
def packed_1(encoder: Encoder) -> list[bytes]:
    """The same pictures' bitstreams of version 1."""
    latents = [encoder.encode(png(seed)).latent for seed in range(8)]
    return [version_1(encoder, latent) for latent in latents]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "room.png"
    path.write_bytes(png(0))
    return path


@pytest.fixture
def stream(tmp_path: Path, packed: list[bytes]) -> Path:
    path = tmp_path / "room.isthmus"
    path.write_bytes(packed[0])
    return path


@pytest.fixture
def model(encoder: Encoder) -> GatedModel:
    return GatedModel(encoder.codec)


@pytest.fixture
def settings() -> PipelineSettings:
    return PipelineSettings(batch_wait_ms=0, deadline_ms=20_000)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs the tests of a module with BOTH_ENGINES against both; a mark stands for the second's tests."""
    marks = getattr(metafunc.module, "BOTH_ENGINES", None)
    if marks is not None and "engine_kind" in metafunc.fixturenames:
        metafunc.parametrize("engine_kind", ["local", pytest.param("ray", marks=marks)])


@pytest.fixture
def engine_kind() -> str:
    return "local"


@pytest.fixture(scope="session")
def ray_tails() -> Iterator[Any]:
    pytest.importorskip("ray", reason="comes with the extra ray")
    from support.ray_tails import ray_of_tests

    with ExitStack() as stack:
        try:
            made = stack.enter_context(ray_of_tests())
        except (
            RequestError
        ) as error:  # its own processes wait 30 s for each other; tests marked slow insist on it
            pytest.skip(f"no Ray on a machine as busy as this one: {error}")
        yield made


@pytest.fixture
def make_engine(request: pytest.FixtureRequest, engine_kind: str, model: GatedModel) -> MakeEngine:
    if engine_kind == "local":
        return local_engine
    made: tuple[MakeEngine, Any] = request.getfixturevalue("ray_tails")
    made[1].model = model
    return made[0]


@pytest.fixture
def jobs_left(request: pytest.FixtureRequest, engine_kind: str) -> Callable[[int], Awaitable[None]]:
    """jobs_left(n) waits until replicas, which learn of cancellations late, hold n jobs; "local" has none."""

    async def wait(count: int) -> None:
        if engine_kind == "ray":
            tails = request.getfixturevalue("ray_tails")[1].tails
            async with asyncio.timeout(30):
                while await tails.jobs.remote() != count:
                    await asyncio.sleep(0.001)

    return wait


MakePipeline = Callable[..., AbstractAsyncContextManager[Pipeline]]


@pytest.fixture
def make_pipeline(
    bundle: Bundle, encoder: Encoder, model: GatedModel, settings: PipelineSettings, make_engine: MakeEngine
) -> MakePipeline:
    """make_pipeline(**changed settings) -> async context manager of a pipeline around the gated model."""

    @asynccontextmanager
    async def make(**changed: Any) -> AsyncIterator[Pipeline]:
        served = OneBundle(bundle, model, encoder)
        pipeline = Pipeline(served, settings.model_copy(update=changed), engine=make_engine)
        try:
            yield pipeline
        finally:
            model.gate.set()
            await pipeline.close()

    return make


@pytest.fixture
async def pipeline(make_pipeline: MakePipeline) -> AsyncIterator[Pipeline]:
    async with make_pipeline() as made:
        yield made


@asynccontextmanager
async def grpc_server(
    analyzer: Callable[[], Any], stream_idle_s: float = 60.0, **options: Any
) -> AsyncIterator[tuple[str, AnalyzerStub]]:
    """A real gRPC server on a free port: its address, and a stub for it."""
    server = grpc.aio.server(**{"interceptors": [ReadableMessages()]} | options)
    add_AnalyzerServicer_to_server(Servicer(analyzer, 4, stream_idle_s), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            yield address, AnalyzerStub(channel)
        finally:
            await server.stop(0)


@pytest.fixture
def make_grpc_server() -> Callable[..., AbstractAsyncContextManager[tuple[str, AnalyzerStub]]]:
    return grpc_server


@pytest.fixture
async def stub(pipeline: Pipeline) -> AsyncIterator[AnalyzerStub]:
    async with grpc_server(lambda: pipeline) as (_, made):
        yield made
