"""A session over gRPC on a real bundle's model: its answers are those of the same frames by themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import numpy as np
import pytest

from cloud.engine.load import load
from cloud.pipeline import Pipeline
from cloud.settings import PipelineSettings
from shared.bundle import Bundle
from shared.codec.frame import Frame, FrameType, Packet
from shared.codec.frame_codec import FrameCodec, Latent
from shared.encoder import Encoder
from shared.image import fit, read_image, to_input
from shared.session_packets import Answered, FrameReply, SentFrame, SessionOpen
from shared.types import Wanted
from shared.wire import sessions
from shared.wire.analyzer_pb2_grpc import AnalyzerStub
from support.service import OneBundle, png
from support.session_ends import EdgeEnd


@pytest.fixture
async def pipeline(bundle: Bundle, settings: PipelineSettings) -> AsyncIterator[Pipeline]:
    loaded = load(bundle, "cpu", None, 1)
    made = Pipeline(OneBundle(bundle, loaded.model, loaded.encoder), settings)
    yield made
    await made.close()


def latent_of(encoder: Encoder, image: bytes, quality: int) -> Latent:
    preprocess = encoder.bundle.manifest.preprocess
    x = to_input(np.asarray(fit(read_image(image), preprocess)), preprocess)
    v, z = encoder.latents(encoder.features(x[None]), encoder.bundle.position(quality))
    return Latent(v[0], z[0], (z.shape[2], z.shape[3]), quality)


async def test_answers_of_a_session_are_those_of_packets(
    pipeline: Pipeline, make_grpc_server: Any, encoder: Encoder, bundle: Bundle
) -> None:
    codec, quality = FrameCodec(encoder.codec), bundle.quality(None)
    latents = [latent_of(encoder, png(seed), quality) for seed in range(3)]
    opened = SessionOpen(
        fingerprint=bytes.fromhex(bundle.manifest.fingerprint),
        session=bytes(16),
        grid=latents[0].grid,
        wanted=Wanted(top_k=3),
    )
    edge, writer = EdgeEnd(codec, opened), sessions.FrameWriter()
    frames = [(edge.intra(n, one), one) for n, one in enumerate(latents, 1)]
    frames += [(edge.same(n, one), one) for n, one in enumerate(latents, 4)]
    async with make_grpc_server(lambda: pipeline) as (_, stub):
        assert isinstance(stub, AnalyzerStub)
        call = stub.AnalyzeSession(timeout=60)
        await call.write(sessions.open_message(opened))
        first = await call.read()
        reader = sessions.ReplyReader(sessions.ready_of(first.ready))  # type: ignore[union-attr]
        for number, (data, latent) in enumerate(frames, 1):
            await call.write(writer.message(SentFrame(number, data)))
            [reply] = reader.replies(await call.read())  # type: ignore[arg-type]
            frame = Frame(FrameType.I, quality, True, True, codec.encode(latent))
            packet = Packet(bundle.fingerprint, frame).pack()
            alone = await pipeline.analyze(packet, Wanted(top_k=3), f"packet-{number}")
            assert isinstance(reply, FrameReply)
            assert reply.outcome == Answered(alone.results)
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
