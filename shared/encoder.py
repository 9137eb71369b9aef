"""Image -> bitstream, with a bundle's edge half. The edge runs it, and the cloud for images that are sent to it.

    read_image -> fit -> to_input -> edge.onnx -> u                                            once per image
    u at a quality -> extractor.onnx -> v, z -> LatentCodec -> b_v, b_z -> Bitstream.pack      once per quality

If a number of bytes is given instead of a quality, the second line runs for a few qualities.

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

from shared.bundle import EDGE, EXTRACTOR, Bundle
from shared.codec.bitstream import Bitstream
from shared.codec.latent_codec import LatentCodec
from shared.errors import BundleDamagedError, BundleError, RequestError
from shared.image import fit, read_image, to_input
from shared.types import ByteCount, Times


@dataclass(frozen=True)
class Encoded:
    """One encoded image.

    data: the packed bitstream. times: read, front and code. warnings: flaws of the file in spite of which it was read.
    """

    data: bytes
    stream: Bitstream
    bytes: ByteCount
    times: Times
    warnings: tuple[str, ...] = ()


class Encoder:
    """The edge half of a bundle, loaded. Safe to use from several threads at once.

    threads: used by ONNX Runtime for one image. Raises BundleError.
    """

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        self.bundle = bundle
        self._front = _session(bundle, EDGE, threads)
        self._extractor = _session(bundle, EXTRACTOR, threads)
        try:
            self.codec = LatentCodec(bundle.entropy())
        except (KeyError, ValueError) as error:  # intact integers that still do not make a codec
            raise BundleDamagedError(f"{bundle.path}: the integers do not make a codec: {error}") from None

    def encode(
        self,
        source: str | Path | bytes,
        quality: int | None = None,
        bytes_max: int | None = None,
        name: str | None = None,
    ) -> Encoded:
        """Encodes an image file, or its bytes, into a bitstream.

        quality: None for the bundle's default. bytes_max: largest size of the whole bitstream; the best quality that
        fits is used, up to `quality` if given. name: of the image, for messages.

        Raises ImageError or a subclass, or RequestError if the bundle does not have the quality or no quality fits.
        """
        level = self.bundle.quality(quality)
        started = time.perf_counter()
        preprocess = self.bundle.manifest.preprocess
        warnings: list[str] = []
        pixels = np.asarray(fit(read_image(source, name, warnings.append), preprocess))
        x = to_input(pixels, preprocess)
        read = time.perf_counter()
        u = self.features(x[None])
        front = time.perf_counter()
        if bytes_max is None:
            stream = self._code(u, level)
            data = stream.pack()
        else:
            top = self.bundle.levels.highest if quality is None else level
            stream, data = self._within(u, top, bytes_max)
        coded = time.perf_counter()
        times = Times(
            read_ms=(read - started) * 1e3, front_ms=(front - read) * 1e3, code_ms=(coded - front) * 1e3
        )
        sizes = count_bytes(stream, len(data), self.bundle)
        return Encoded(data, stream, sizes, times, tuple(warnings))

    def features(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """u (B, N, h, w), which is z before gain and rounding, of the network's input (B, 3, H, W)."""
        u: NDArray[np.float32] = self._front.run(["u"], {"x": x})[0]
        return u

    def latents(
        self, u: NDArray[np.float32], position: float | NDArray[np.float32] = 0.0
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """v (B, V) and z (B, N, h, w), both int32, of u (B, N, h, w).

        position: of the quality among the levels, one for all images or (B,).
        """
        given = {"u": u, "position": np.full(len(u), position, np.float32)}
        v, z = self._extractor.run(["v", "z"], given)
        return v, z

    def _code(self, u: NDArray[np.float32], quality: int) -> Bitstream:
        """The bitstream of u (1, N, h, w) at a quality."""
        v, z = self.latents(u, self.bundle.position(quality))
        b_v, b_z = self.codec.encode(v[0], z[0], quality)
        return Bitstream(self.bundle.fingerprint, quality, z.shape[2], z.shape[3], b_v, b_z)

    def _within(self, u: NDArray[np.float32], top: int, bytes_max: int) -> tuple[Bitstream, bytes]:
        """The bitstream of the best quality that fits, and its bytes. Raises RequestError."""
        tried: dict[int, tuple[Bitstream, bytes]] = {}

        def size(quality: int) -> int:
            stream = self._code(u, quality)
            tried[quality] = stream, stream.pack()
            return len(tried[quality][1])

        best = highest_fitting(size, self.bundle.levels.lowest, top, bytes_max)
        if best is None:
            smallest = min(len(data) for _, data in tried.values())
            raise RequestError(
                f"the image does not fit {bytes_max} bytes at any quality of this bundle; "
                f"the smallest bitstream tried has {smallest} bytes"
            )
        return tried[best]


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
    """The sizes of a packed stream of `total` bytes."""
    preprocess = bundle.manifest.preprocess
    pixels = preprocess.height * preprocess.width
    return ByteCount(b_v=len(stream.b_v), b_z=len(stream.b_z), total=total, bits_per_pixel=8 * total / pixels)
