"""Chooses and codes the frames of one session. Knows no network, no image and no link.

    an image --extract--> v, z, the latter rounded towards a reference      (ONNX on an edge, anything in a simulation)
    z as the reference's                             -> S
    z given the reference, with or without its own v -> P
    v and z by themselves                            -> I, where there is no reference or this is no longer

A reference is the latent of a frame that the receiver has confirmed, of the same quality. So frames in flight never
depend on each other, and a receiver that keeps `REFERENCES` latents and those in flight always has what is referred to.

Sticky rounding keeps an element of z where it is while s, the number before rounding, stays within 0.5 + hold of it.
It is compared with s itself, so the error is never larger and does not add up; the receiver need not know of it.

With `base_only` a frame is v alone. Its z stays here, to be sent when the receiver asks for it.

Legend: N channels of z, h x w latent grid, V elements of v.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.codec.context import Ints
from shared.codec.frame import Frame, FrameType
from shared.codec.frame_codec import FrameCodec, Latent

REFERENCES = 4  # latents that may be referred to
KEPT = 16  # frames in flight, or whose refinement can be sent
REFINED = 1 << 31  # added to the number of a frame, where numbers are given, is that of its refinement

# What an image says at a quality, with z. reference: what its z is rounded towards, or None.
Extract = Callable[[int, Latent | None], Latent]


@dataclass(frozen=True, eq=False)
class NextFrame:
    """A frame to send.

    data: its bytes in the session. latent: what the receiver then has. whole: what was extracted, with z. reference:
    the number of the frame that it needs, if any.
    """

    number: int
    frame: Frame
    data: bytes
    latent: Latent
    whole: Latent
    reference: int | None


@dataclass(frozen=True, eq=False)
class _Option:
    """A frame that could be sent, with the latent that the receiver would have."""

    frame: Frame
    latent: Latent


class FrameEncoder:
    """The frames of one session, in turn. Use it from one thread at a time.

    key: see `session_key`. intra_every_s: seconds after which a frame I is due. base_only: whether frames are v alone.
    """

    def __init__(
        self, codec: FrameCodec, key: bytes, *, intra_every_s: float = 60.0, base_only: bool = False
    ) -> None:
        self.base_only = base_only
        self._codec, self._key, self._intra_every_s = codec, key, intra_every_s
        self._number, self._given = 0, False  # of the last frame, and whether it was given
        self._intra_at_s: float | None = None
        self._intra_bytes: dict[int, int] = {}  # of the last frame I at each quality
        self._kept: OrderedDict[int, NextFrame] = OrderedDict()
        self._references: OrderedDict[int, NextFrame] = OrderedDict()  # by number, the last used at the end

    def next(
        self, extract: Extract, quality: int, at_s: float, intra: bool = False, number: int | None = None
    ) -> NextFrame:
        """The frame of an image.

        at_s: seconds on any clock. intra: whether it must be of type I. number: 1 to `REFINED` - 1, another for each
        image; None for the one after the last. Of one session all are given, or none.

        Raises RequestError if the codec does not have the quality, and whatever `extract` raises.
        """
        due = self._intra_at_s is None or at_s - self._intra_at_s >= self._intra_every_s
        reference = None if intra or due else self._reference(quality)
        whole = extract(quality, reference.whole if reference else None)
        option = self._choose(whole, reference)
        used = reference if reference and option.frame.needs_reference else None
        if used is None:
            self._intra_at_s = at_s
        self._number = self._number + 1 if number is None else number
        self._given = number is not None
        return self._sent(option, whole, used, self._number)

    def confirm(self, number: int) -> None:
        """The receiver has the frame of this number: further ones may refer to it."""
        sent = self._kept.get(number)
        if sent is None:
            return
        same = (n for n, one in self._references.items() if one.latent.digest == sent.latent.digest)
        known = next(same, None)
        if known is None:
            self._references[number] = sent
        else:
            self._references.move_to_end(known)
        while len(self._references) > REFERENCES:
            self._references.popitem(last=False)

    def need_intra(self, number: int) -> None:
        """The receiver could not read the frame of this number: what it referred to is no longer referred to."""
        sent = self._kept.pop(number, None)
        if sent is not None and sent.reference is not None:
            self._references.pop(sent.reference, None)

    def refinement(self, number: int) -> NextFrame | None:
        """A further frame with the z of one whose v alone was sent; None if it is not kept or was sent whole."""
        base = self._kept.get(number)
        if base is None or base.latent.z is not None:
            return None
        latent = Latent(base.latent.v, base.whole.z, base.latent.grid, base.latent.quality)
        payload = self._codec.encode(latent, own_v=False)
        frame = Frame(FrameType.I, latent.quality, own_v=False, has_z=True, payload=payload)
        if not self._given:
            self._number += 1
        return self._sent(
            _Option(frame, latent), base.whole, base, number + REFINED if self._given else self._number
        )

    def _reference(self, quality: int) -> NextFrame | None:
        """The last confirmed frame of this quality, with z unless only bases are sent."""
        for one in reversed(self._references.values()):
            if one.latent.quality == quality and (one.latent.z is None) == self.base_only:
                return one
        return None

    def _choose(self, whole: Latent, reference: NextFrame | None) -> _Option:
        """The shortest frame."""
        known = reference.latent if reference and reference.latent.grid == whole.grid else None
        if known is not None and self._is_as(whole, known):
            return _Option(Frame(FrameType.S, whole.quality, False, False, b""), known)
        if self.base_only:
            return self._option(FrameType.I, whole.base, True)
        if known is None or not self._codec.predicts:
            return self._intra(whole)
        with_its_v = Latent(known.v, whole.z, whole.grid, whole.quality)
        options = [self._option(FrameType.P, with_its_v, False, known)]
        # Each coding takes milliseconds, so what can hardly be shorter is not tried.
        size, v_bytes = len(options[0].frame.payload), self._codec.v_bytes(whole.v, whole.quality)
        if size > v_bytes and not np.array_equal(known.v, whole.v):
            options.append(self._option(FrameType.P, whole, True, known))
        if 2 * size > self._intra_bytes.get(whole.quality, 0):
            options.append(self._intra(whole))
        return min(reversed(options), key=lambda option: len(option.frame.payload))

    def _intra(self, whole: Latent) -> _Option:
        option = self._option(FrameType.I, whole, True)
        self._intra_bytes[whole.quality] = len(option.frame.payload)
        return option

    def _is_as(self, whole: Latent, known: Latent) -> bool:
        if known.z is None:
            return np.array_equal(whole.v, known.v)
        assert whole.z is not None  # as `Extract` says
        return np.array_equal(whole.z, known.z)

    def _option(self, kind: FrameType, latent: Latent, own_v: bool, given: Latent | None = None) -> _Option:
        payload = self._codec.encode(latent, own_v, given)
        return _Option(Frame(kind, latent.quality, own_v, latent.z is not None, payload), latent)

    def _sent(self, option: _Option, whole: Latent, reference: NextFrame | None, number: int) -> NextFrame:
        """The option as a frame, kept until it is confirmed and for a while longer."""
        digest = reference.latent.digest if reference else None
        data = option.frame.pack(self._key, number, digest)
        needs = reference.number if reference else None
        sent = NextFrame(number, option.frame, data, option.latent, whole, needs)
        self._kept[sent.number] = sent
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return sent


def round_sticky(s: NDArray[np.floating], reference: Ints | None, hold: float) -> Ints:
    """z (N, h, w) of s, the same before rounding: as in the reference where |s - reference| <= 0.5 + hold.

    The extractor of a bundle does the same; this is for simulations and tests.
    """
    z: Ints = np.rint(s).astype(np.int32)
    if reference is None:
        return z
    kept: Ints = np.where(np.abs(s - reference) <= 0.5 + hold, reference, z)
    return kept
