"""The images of one source as frames that may be sent given earlier ones. Knows no network, no spool and no clock.

    image -> u -> z, rounded towards the z of the frame before -> packed by itself -> spool
    from the spool, perhaps much later -> FrameEncoder: I, P or S, given what the cloud has confirmed (edge.lanes)

What is spooled does not say what it will be sent given: that is decided when it is sent. So each record decodes by
itself, whichever others were dropped, sent first or sent before a kill, and any of them may begin a session. Rounding
is sticky already here, against the frame before: whatever that frame's fate, z lies within 0.5 + hold of what the image
says, and where nothing has moved all these frames have one z, so that the cloud's last confirmed frame is the same too.
Spooling groups coded given each other instead would save disk, not bytes on the link, and would lose a whole group with
its first frame.

Request ids are those of a session's frames, `s.SESSION.NUMBER`, and made here: one session a source and start, counted
on. A stream that breaks is opened again under the same name, with all its references gone, and goes on counting.

Under a byte budget the quality of one frame is that of the next: another quality has no reference, and costs a frame I.
It falls as soon as a frame does not fit, and rises once a window at most, to what fits twice over.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from edge.frames import REFINED
from shared.codec.frame_codec import Latent
from shared.encoder import Encoder, Features, highest_fitting
from shared.errors import RequestError
from shared.session_packets import frame_id, new_session

SAME_BYTES = 3  # of a frame S
FIRST_SHARE = 0.5  # of a frame's own bytes, that it takes given another, before any was sent
SMOOTH = 0.1


@dataclass(frozen=True, eq=False)
class Grouped:
    """A coded image. data: by itself. expected: bytes that it takes in a session, about."""

    data: bytes
    latent: Latent
    expected: int


@dataclass(frozen=True)
class Bounds:
    """What a frame may take. top: highest quality. bytes_max: by itself. allowed: in a session, now; None for any."""

    top: int
    bytes_max: int | None = None
    allowed: int | None = None


class Group:
    """One source's frames. Its methods may be called from one thread at a time, `learn` from any.

    hold: see `edge.frames`; None for the bundle's. window_s: see above.
    """

    def __init__(self, encoder: Encoder, hold: float | None, window_s: float = 10.0) -> None:
        self.encoder = encoder
        self._hold, self._window_s = hold, window_s
        self._session, self._number = new_session(), 0
        self._last: Grouped | None = None
        self._share = FIRST_SHARE
        self._changed_s = float("-inf")  # when the quality was last changed, or could have been

    def id(self) -> str:
        """The next frame's request id."""
        if self._number + 1 >= REFINED:
            self._session, self._number = new_session(), 0
        self._number += 1
        return frame_id(self._session, self._number)

    def learn(self, size: int, sent: int) -> None:
        """A frame of `size` bytes by itself took `sent` in a session, and was no S."""
        self._share += SMOOTH * (min(sent / size, 1.0) - self._share)

    def code(self, image: Image.Image, bounds: Bounds, now_s: float) -> Grouped:
        """The image's frame; `expected` is beyond what is allowed only at the lowest quality, or where nothing moved.

        now_s: on any clock. Raises ImageError or a subclass, or RequestError where `bytes_max` is too small for it.
        """
        front = self.encoder.read(image)
        level = bounds.top if self._last is None else min(self._last.latent.quality, bounds.top)
        made = self._at(front, level)
        if bounds.bytes_max is not None or bounds.allowed is not None:
            made = self._within(front, made, bounds, now_s)
        if self._last is None or made.latent.quality != self._last.latent.quality:
            self._changed_s = now_s
        self._last = made
        return made

    def _at(self, front: Features, level: int) -> Grouped:
        """The frame at a quality: the one before, whole, where z is the same."""
        known = self._last if self._last is not None and self._last.latent.quality == level else None
        reference = known.latent if known else None
        latent = self.encoder.latent(front.u, level, reference, self._hold)
        if known is not None and np.array_equal(latent.z, known.latent.z):  # type: ignore[arg-type]  # neither is a base
            return Grouped(known.data, known.latent, SAME_BYTES)
        data = self.encoder.packet_of(latent).pack()
        return Grouped(data, latent, round(len(data) * self._share))

    def _within(self, front: Features, made: Grouped, bounds: Bounds, now_s: float) -> Grouped:
        """The frame in hand, or one of another quality."""
        level, lowest = made.latent.quality, self.encoder.bundle.levels.lowest
        fits = made.expected == SAME_BYTES or _used(made, bounds) <= 1
        if fits:
            if level == bounds.top or now_s - self._changed_s < self._window_s:
                return made
            self._changed_s = now_s  # looking takes the time of some frames
            better = self._best(front, level + 1, bounds, room=2)
            return better or made
        lower = self._best(front, lowest, Bounds(level, bounds.bytes_max, bounds.allowed), room=1)
        lower = lower or (made if level == lowest else self._at(front, lowest))
        if bounds.bytes_max is not None and len(lower.data) > bounds.bytes_max:
            raise RequestError(
                f"the image does not fit {bounds.bytes_max} bytes at any quality of this bundle; "
                f"at the lowest it takes {len(lower.data)}"
            )
        return lower

    def _best(self, front: Features, low: int, bounds: Bounds, room: int) -> Grouped | None:
        """The highest quality from `low` that fits so many times; None if there is none."""
        tried: dict[int, Grouped] = {}

        def permille(quality: int) -> int:
            tried[quality] = self._at(front, quality)
            return int(1000 * room * _used(tried[quality], bounds))

        best = highest_fitting(permille, low, bounds.top, 1000)
        return None if best is None else tried[best]


def _used(made: Grouped, bounds: Bounds) -> float:
    """The part of what it may take that a frame takes."""
    own = 0.0 if bounds.bytes_max is None else len(made.data) / bounds.bytes_max
    given = 0.0 if bounds.allowed is None else made.expected / max(bounds.allowed, 0.5)
    return max(own, given)
