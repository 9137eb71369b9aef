"""The receiving end of the sessions that `isthmus bench video` measures."""

from __future__ import annotations

import numpy as np

from bench.video.receiver import Receiver
from edge.frames import FrameEncoder
from shared.codec.frame import FrameType, session_key
from shared.codec.frame_codec import FrameCodec, Latent
from shared.codec.latent_codec import LatentCodec
from support.context_tensors import context_tensors
from support.random_codec import random_tensors


def test_the_receiver_decodes_what_it_can_and_refuses_the_rest() -> None:
    made = random_tensors()
    codec = LatentCodec(made)
    slices = tuple(int(n >= codec.channels // 2) for n in range(codec.channels))
    frames = FrameCodec(LatentCodec(made | context_tensors(slices, codec.path.maps_reach)))
    key = session_key(bytes(32), bytes(16), (2, 2))
    rng = np.random.default_rng(0)
    v = rng.integers(-2, 3, codec.path.v_size).astype(np.int32)
    z = rng.integers(-2, 3, (codec.channels, 2, 2)).astype(np.int32)

    def latent(z: np.ndarray) -> Latent:
        return Latent(v, z, (2, 2), 100)

    encoder = FrameEncoder(frames, key)
    receiver, late = Receiver(frames, key, (2, 2)), Receiver(frames, key, (2, 2))
    moved = z.copy()
    moved[0, 0, 0] += 1
    sent = []
    for seen in (z, z, moved):
        sent.append(encoder.next(lambda *_, seen=seen: latent(seen), 100, 0.0))
        encoder.confirm(sent[-1].number)
        received = receiver.receive(sent[-1].number, sent[-1].data)
        assert received is not None
        assert received.digest == latent(seen).digest
    assert sent[1].frame.type is FrameType.S
    assert late.receive(sent[1].number, sent[1].data) is None
    assert receiver.receive(sent[0].number + 1, sent[0].data) is None
