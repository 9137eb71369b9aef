"""Image -> bitstream, with a bundle's edge half. The edge runs it, and the cloud for images that are sent to it.

    read_image -> fit -> to_input -> edge.onnx -> u                                  once per image
    u at a quality -> extractor.onnx -> v, z -> FrameCodec -> Packet.pack            once per quality

If a number of bytes is given instead of a quality, the second line runs for a few qualities. A session (`edge.frames`)
takes the first line from here, and `latent` in place of the second.

Letters: B images in a batch; N channels of z; h, w latent grid; H, W the network's input; V length of v.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

from shared.bundle import EDGE, EXTRACTOR, Bundle
from shared.codec.bitstream import Bitstream
from shared.codec.frame import Frame, FrameType, Packet
from shared.codec.frame_codec import Coded, FrameCodec, Latent
from shared.codec.latent_codec import LatentCodec
from shared.errors import BundleDamagedError, BundleError, RequestError
from shared.image import fit, read_image, to_input, view_of
from shared.placement import View
from shared.types import ByteCount, Times

NEVER = -1.0  # within: z is rounded whatever the reference


@dataclass(frozen=True)
class Encoded:
    """One encoded image.

    data: the packed bitstream. latent: what it says. times: read, front and code. warnings: flaws of the file in spite
    of which it was read. view: see `shared.image.view_of`.
    """

    data: bytes
    packet: Packet
    latent: Latent
    bytes: ByteCount
    times: Times
    warnings: tuple[str, ...] = ()
    view: View | None = None

    @property
    def quality(self) -> int:
        return self.packet.frame.quality


@dataclass(frozen=True, eq=False)
class Features:
    """One image after the front. u: (1, N, h, w). times: read and front. warnings, view: see `Encoded`."""

    u: NDArray[np.float32]
    times: Times
    warnings: tuple[str, ...] = ()
    view: View | None = None


class Encoder:
    """The edge half of a bundle, loaded. Safe to use from several threads at once.

    threads: used by ONNX Runtime for one image. Raises BundleError.
    """

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        self.bundle = bundle
        self._front = _session(bundle, EDGE, threads)
        self._extractor = _session(bundle, EXTRACTOR, threads)
        given = {one.name for one in self._extractor.get_inputs()}
        self.sticky = {"reference", "hold"} <= given
        try:
            self.codec = LatentCodec(bundle.entropy())
        except (KeyError, ValueError) as error:  # intact integers that still do not make a codec
            raise BundleDamagedError(f"{bundle.path}: the integers do not make a codec: {error}") from None
        self.frames = FrameCodec(self.codec)

    def encode(
        self,
        source: str | Path | bytes | Image.Image,
        quality: int | None = None,
        bytes_max: int | None = None,
        name: str | None = None,
        base_only: bool = False,
        fitted: bool = False,
    ) -> Encoded:
        """Encodes an image file, or its bytes, or an RGB image, into a bitstream.

        quality: None for the bundle's default. bytes_max: largest size of the whole bitstream; the best quality that
        fits is used, up to `quality` if given. name: of the image, for messages. base_only: sends v alone, which
        answers only the tasks in the bundle's `base`. fitted: see `read`.

        Raises ImageError or a subclass, or RequestError if the bundle does not have the quality or no quality fits.
        """
        level = self.bundle.quality(quality)
        front = self.read(source, name, fitted)
        started = time.perf_counter()
        if bytes_max is None:
            made = self._code(front.u, level, base_only)
        else:
            top = self.bundle.levels.highest if quality is None else level
            made = self._within(front.u, top, bytes_max, base_only)
        times = front.times.model_copy(update={"code_ms": (time.perf_counter() - started) * 1e3})
        frame = made.packet.frame
        sizes = count_frame(frame, made.latent, len(made.data), self.frames, self.bundle)
        return Encoded(made.data, made.packet, made.latent, sizes, times, front.warnings, front.view)

    def read(
        self, source: str | Path | bytes | Image.Image, name: str | None = None, fitted: bool = False
    ) -> Features:
        """Reads an image file, or its bytes, or takes an RGB image, and runs the front.

        fitted: the image is one that `shared.image.fit` has made for this bundle, and is taken pixel by pixel.

        Raises ImageError or a subclass, or RequestError for an image that is not as large as a fitted one.
        """
        started = time.perf_counter()
        preprocess = self.bundle.manifest.preprocess
        warnings: list[str] = []
        image = source if isinstance(source, Image.Image) else read_image(source, name, warnings.append)
        view = None if fitted else view_of(image.size, preprocess)
        if not fitted:
            image = fit(image, preprocess)
        elif image.size != (preprocess.width, preprocess.height):
            raise RequestError(
                f"an image of {image.width} x {image.height} is not fitted to this bundle, which takes "
                f"{preprocess.width} x {preprocess.height}; send the image as it was"
            )
        x = to_input(np.asarray(image), preprocess)
        read = time.perf_counter()
        u = self.features(x[None])
        times = Times(read_ms=(read - started) * 1e3, front_ms=(time.perf_counter() - read) * 1e3)
        return Features(u, times, tuple(warnings), view)

    def features(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """u (B, N, h, w), which is z before gain and rounding, of the network's input (B, 3, H, W)."""
        u: NDArray[np.float32] = self._front.run(["u"], {"x": x})[0]
        return u

    def latents(
        self,
        u: NDArray[np.float32],
        position: float | NDArray[np.float32] = 0.0,
        reference: NDArray[np.int32] | None = None,
        within: float = NEVER,
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """v (B, V) and z (B, N, h, w), both int32, of u (B, N, h, w).

        position: of the quality among the levels, one for all images or (B,). reference: (B, N, h, w); z is as there
        where it lies at most `within` from what would be rounded. Bundles that are not `sticky` leave it out.
        """
        given = {"u": u, "position": np.full(len(u), position, np.float32)}
        if self.sticky:
            known = np.zeros_like(u) if reference is None else reference.astype(np.float32)
            given |= {
                "reference": known,
                "hold": np.full(len(u), NEVER if reference is None else within, np.float32),
            }
        v, z = self._extractor.run(["v", "z"], given)
        return v, z

    def latent(
        self,
        u: NDArray[np.float32],
        quality: int,
        reference: Latent | None = None,
        hold: float | None = None,
    ) -> Latent:
        """What u (1, N, h, w) says at a quality.

        reference: what z is rounded towards. hold: how far beyond half a step an element may lie from it and stay; None
        for the bundle's. Raises RequestError.
        """
        known = None if reference is None or reference.z is None else reference.z[None]
        v, z = self.latents(u, self.bundle.position(quality), known, 0.5 + self.bundle.hold(hold))
        return Latent(v[0], z[0], (z.shape[2], z.shape[3]), quality)

    def packet_of(self, latent: Latent) -> Packet:
        """The latent as a frame I by itself; as its base where it has no z. Raises RequestError."""
        frame = Frame(FrameType.I, latent.quality, True, latent.z is not None, self.frames.encode(latent))
        own = tuple(self.bundle.manifest.codec.get("grid", ()))
        return Packet(self.bundle.fingerprint, frame, None if latent.grid == own else latent.grid)

    def _code(self, u: NDArray[np.float32], quality: int, base_only: bool) -> _Made:
        """The bitstream of u (1, N, h, w) at a quality."""
        whole = self.latent(u, quality)
        latent = whole.base if base_only else whole
        packet = self.packet_of(latent)
        return _Made(packet, latent, packet.pack())

    def _within(self, u: NDArray[np.float32], top: int, bytes_max: int, base_only: bool) -> _Made:
        """The bitstream of the best quality that fits. Raises RequestError."""
        tried: dict[int, _Made] = {}

        def size(quality: int) -> int:
            tried[quality] = self._code(u, quality, base_only)
            return len(tried[quality].data)

        best = highest_fitting(size, self.bundle.levels.lowest, top, bytes_max)
        if best is None:
            smallest = min(len(made.data) for made in tried.values())
            raise RequestError(
                f"the image does not fit {bytes_max} bytes at any quality of this bundle; "
                f"the smallest bitstream tried has {smallest} bytes"
            )
        return tried[best]


@dataclass(frozen=True, eq=False)
class _Made:
    """One quality's bitstream."""

    packet: Packet
    latent: Latent
    data: bytes


def highest_fitting(size: Callable[[int], int], low: int, high: int, bytes_max: int) -> int | None:
    """The highest quality in low..high that was tried and whose size is at most `bytes_max`; None if there is none.

    Either it is `high`, or the next higher one was tried and does not fit. So if sizes never fall as quality rises, it
    is the highest that fits. Calls `size` at most 8 times for 101 qualities: first for `high`, because most limits are
    seldom reached, then by bisection. (Guessing from the sizes seen so far saved nothing: it took 6 calls as well.)
    """
    if size(high) <= bytes_max:
        return high
    below, above = low - 1, high  # the answer is one of below..above-1
    while above - below > 1:
        middle = (below + above) // 2
        if size(middle) <= bytes_max:
            below = middle
        else:
            above = middle
    return below if below >= low else None


def _session(bundle: Bundle, file: str, threads: int) -> ort.InferenceSession:
    """One network of the edge, loaded. Raises BundleError."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads steal the core from the camera software: 6 ms without, 13 ms with, next to a busy core.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(bundle.read(file), options, providers=["CPUExecutionProvider"])
    except BundleError:
        raise
    except (
        Exception
    ) as error:  # onnxruntime raises a different class for each failure and exports none of them
        raise BundleDamagedError(f"{bundle.path / file} cannot be loaded: {error}") from None


def count_bytes(stream: Bitstream, total: int, bundle: Bundle) -> ByteCount:
    """The sizes of a packed stream of version 1 that has `total` bytes."""
    return byte_count(len(stream.b_v), len(stream.b_z), total, bundle)


def count_frame(
    frame: Frame | Coded, latent: Latent, total: int, codec: FrameCodec, bundle: Bundle
) -> ByteCount:
    """The sizes of a frame that has `total` bytes with its container; of v its ideal length. latent: what it says."""
    payload = len(frame.payload)
    b_v = min(codec.v_bytes(latent.v, latent.quality), payload) if frame.own_v else 0
    return byte_count(b_v, payload - b_v, total, bundle)


def byte_count(b_v: int, b_z: int, total: int, bundle: Bundle) -> ByteCount:
    """The sizes of an image's bytes by part."""
    pixels = bundle.manifest.preprocess.height * bundle.manifest.preprocess.width
    return ByteCount(b_v=b_v, b_z=b_z, total=total, bits_per_pixel=8 * total / pixels)
