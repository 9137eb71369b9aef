"""The cloud's end of a session: decodes frames and keeps what later ones may refer to. Knows no network."""

from __future__ import annotations

from collections import OrderedDict

from shared.codec.frame import FrameType, Sent
from shared.codec.frame_codec import Coded, FrameCodec, Latent

KEPT = 8


class Receiver:
    """key: see `session_key`. grid: h, w of every latent."""

    def __init__(self, codec: FrameCodec, key: bytes, grid: tuple[int, int]) -> None:
        self._codec, self._key, self._grid = codec, key, grid
        self._kept: OrderedDict[bytes, Latent] = OrderedDict()  # the last used at the end

    def receive(self, number: int, data: bytes) -> Latent | None:
        """What a frame says; None where it cannot be decoded."""
        sent = Sent.unpack(data)
        frame = sent.frame
        reference = None
        if frame.needs_reference:
            digest = sent.reference_among(self._key, number, self._kept)
            if digest is None:
                return None
            self._kept.move_to_end(digest)
            reference = self._kept[digest]
            if frame.type is FrameType.S:
                return reference
        elif not sent.fits(self._key, number, None):
            return None
        given = frame.type is FrameType.P
        coded = Coded(frame.payload, self._grid, frame.quality, frame.own_v, frame.has_z, reference, given)
        (latent,) = self._codec.decode([coded])
        if not isinstance(latent, Latent):
            return None
        self._kept[latent.digest] = latent
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return latent
