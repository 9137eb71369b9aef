"""A loaded bundle and servers around it, in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from cloud.faces.grpc_face import Servicer
from cloud.faces.grpc_guard import ReadableMessages
from cloud.pipeline import Pipeline
from cloud.settings import PipelineSettings
from shared.bundle import Bundle
from shared.encoder import Encoder
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


MakePipeline = Callable[..., AbstractAsyncContextManager[Pipeline]]


@pytest.fixture
def make_pipeline(
    bundle: Bundle, encoder: Encoder, model: GatedModel, settings: PipelineSettings
) -> MakePipeline:
    """make_pipeline(**changed settings) -> async context manager of a pipeline around the gated model."""

    @asynccontextmanager
    async def make(**changed: Any) -> AsyncIterator[Pipeline]:
        pipeline = Pipeline(OneBundle(bundle, model, encoder), settings.model_copy(update=changed))
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
