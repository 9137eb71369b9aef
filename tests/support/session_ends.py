"""Both ends of a session without a network: frames in, answers out, in one thread.

An answer says which latent it is of (`answer_of`), so that an answer of another frame is noticed.
"""

from __future__ import annotations

import numpy as np

from cloud.sessions.session import FrameJob, Session, SessionCodec, SessionLimits, Settled
from shared.codec.context import Ints
from shared.codec.frame import Frame, FrameType
from shared.codec.frame_codec import Coded, FrameCodec, Latent
from shared.codec.latent_codec import LatentCodec
from shared.errors import RequestError
from shared.kinds.classification import ClassificationResult, ClassScore
from shared.session_packets import Answered, Replies, SessionOpen
from support.context_tensors import context_tensors
from support.random_codec import random_tensors

GRID, QUALITY, N, V = (4, 4), 50, 4, 5
FINGERPRINT = bytes(range(32))


def small_codec(context: bool = True, seed: int = 0) -> FrameCodec:
    """A codec of random integers: 4 channels, 4 x 4, one quality."""
    tensors = random_tensors(seed, n=N, v_size=V, qualities=(QUALITY,))
    if context:
        tensors = tensors | context_tensors(seed=seed)
    return FrameCodec(LatentCodec(tensors))


def random_latent(seed: int, base: bool = False) -> Latent:
    rng = np.random.default_rng(seed)
    v = rng.integers(-4, 5, V).astype(np.int32)
    return Latent(v, None if base else rng.integers(-4, 5, (N, *GRID)).astype(np.int32), GRID, QUALITY)


def changed_latent(latent: Latent, seed: int, cells: int = 3) -> Latent:
    """The same v, and another number in a few places of z."""
    rng = np.random.default_rng(seed)
    assert latent.z is not None
    z: Ints = latent.z.copy()
    z.reshape(-1)[rng.choice(z.size, cells, replace=False)] += 1
    return Latent(latent.v, z, latent.grid, latent.quality)


def answer_of(latent: Latent) -> Answered:
    """Names the latent by a class. Of a base `things` is missing."""
    index = int.from_bytes(latent.digest[:4], "little")
    room = ClassificationResult(top=(ClassScore(label=latent.digest.hex(), index=index, score=0.5),))
    return (
        Answered({"room": room}, ("things",))
        if latent.z is None
        else Answered({"room": room, "things": room})
    )


def open_of(replies: Replies = "all", session: bytes = bytes(16), camera: str = "") -> SessionOpen:
    return SessionOpen(fingerprint=FINGERPRINT, session=session, camera=camera, grid=GRID, replies=replies)


def check_quality(quality: int) -> None:
    if quality != QUALITY:
        raise RequestError(f"quality {quality} is not one of this bundle's: {QUALITY}")


class CloudEnd:
    """A Session whose jobs are done at once, or when `finish` is called.

    decoded: the latent of each frame by its number.
    """

    def __init__(
        self, codec: FrameCodec, opened: SessionOpen | None = None, limits: SessionLimits | None = None
    ) -> None:
        self.codec = codec
        self.session = Session(opened or open_of(), SessionCodec(check_quality, GRID, codec.predicts), limits)
        self.decoded: dict[int, Latent] = {}

    def receive(self, number: int, data: bytes) -> Settled | None:
        """The answer to a frame; None if it is in work."""
        given = self.session.receive(number, data)
        return self.finish(given) if isinstance(given, FrameJob) else given

    def start(self, number: int, data: bytes) -> FrameJob:
        job = self.session.receive(number, data)
        assert isinstance(job, FrameJob), job
        return job

    def finish(self, job: FrameJob) -> Settled:
        latent = self.decode(job)
        if isinstance(latent, Exception):
            return self.session.fail(job, latent)
        self.decoded[job.number] = latent
        asked = self.session.opened.replies != "none"
        return self.session.settle(job, latent, answer_of(latent) if asked else None)

    def decode(self, job: FrameJob) -> Latent | Exception:
        return self.codec.decode([job.source])[0] if isinstance(job.source, Coded) else job.source


class EdgeEnd:
    """Makes frames of a session by hand, of whatever type and reference."""

    def __init__(self, codec: FrameCodec, opened: SessionOpen | None = None) -> None:
        self.codec, self.key = codec, (opened or open_of()).key

    def intra(self, number: int, latent: Latent) -> bytes:
        """A frame I, or I base where there is no z."""
        payload = self.codec.encode(latent)
        return self._pack(FrameType.I, number, latent.quality, True, latent.z is not None, payload)

    def refinement(self, number: int, latent: Latent) -> bytes:
        payload = self.codec.encode(latent, own_v=False)
        return self._pack(FrameType.I, number, latent.quality, False, True, payload, latent.base)

    def predicted(self, number: int, latent: Latent, reference: Latent, own_v: bool = True) -> bytes:
        payload = self.codec.encode(latent, own_v, reference)
        return self._pack(FrameType.P, number, latent.quality, own_v, True, payload, reference)

    def same(self, number: int, reference: Latent) -> bytes:
        return self._pack(FrameType.S, number, 0, False, False, b"", reference)

    def _pack(
        self,
        kind: FrameType,
        number: int,
        quality: int,
        own_v: bool,
        has_z: bool,
        payload: bytes,
        reference: Latent | None = None,
    ) -> bytes:
        frame = Frame(kind, quality, own_v, has_z, payload)
        return frame.pack(self.key, number, reference.digest if reference else None)
