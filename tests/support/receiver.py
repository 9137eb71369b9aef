"""The other end of a session, in a few lines and without any network: keeps latents, and finds references by digest."""

from __future__ import annotations

from collections import OrderedDict

from shared.codec.frame import FrameType, Sent
from shared.codec.frame_codec import Coded, FrameCodec, Latent


class Receiver:
    """Decodes frames. kept: latents at once, those last used."""

    def __init__(self, codec: FrameCodec, key: bytes, grid: tuple[int, int], kept: int = 8) -> None:
        self._codec, self._key, self._grid, self._size = codec, key, grid, kept
        self.kept: OrderedDict[bytes, Latent] = OrderedDict()

    def receive(self, number: int, data: bytes) -> Latent | None:
        """The frame's latent; None stands for NEED_INTRA."""
        sent = Sent.unpack(data)
        frame = sent.frame
        digest = sent.reference_among(self._key, number, self.kept)
        if digest is None and (frame.needs_reference or not sent.fits(self._key, number, None)):
            return None
        reference = self.kept[digest] if digest else None
        if digest is not None:
            self.kept.move_to_end(digest)
        if frame.type is FrameType.S:
            assert reference is not None
            return reference
        coded = Coded(
            frame.payload,
            self._grid,
            frame.quality,
            frame.own_v,
            frame.has_z,
            reference,
            frame.type is FrameType.P,
        )
        (latent,) = self._codec.decode([coded])
        assert isinstance(latent, Latent), latent
        self.kept[latent.digest] = latent
        while len(self.kept) > self._size:
            self.kept.popitem(last=False)
        return latent
