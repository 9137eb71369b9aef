"""Image -> bitstream, with a bundle's edge half. The edge runs it, and the cloud for images that are sent to it.

read_image -> fit -> to_input -> edge.onnx -> v, z -> LatentCodec -> b_v, b_z -> Bitstream.pack
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from shared.bundle import EDGE, Bundle
from shared.codec.bitstream import Bitstream
from shared.codec.codec import LatentCodec
from shared.errors import BundleDamagedError, BundleError
from shared.image import fit, read_image, to_input
from shared.types import ByteCount, Times


@dataclass(frozen=True)
class Encoded:
    """One encoded picture. data: the packed bitstream; times: read, front and code."""

    data: bytes
    stream: Bitstream
    bytes: ByteCount
    times: Times


class Encoder:
    """The edge half of a bundle, loaded.

    threads: of ONNX Runtime. Safe to use from several threads at once. Raises BundleError.
    """

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        self.bundle = bundle
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads steal the core from the camera software; measured 6 ms against 13 beside a busy core.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(
                bundle.read(EDGE), options, providers=["CPUExecutionProvider"]
            )
        except BundleError:
            raise
        except (
            Exception
        ) as error:  # onnxruntime has a class of its own for each failure and exports none of them
            raise BundleDamagedError(f"{bundle.path / EDGE} cannot be loaded: {error}") from None
        self._input = self._session.get_inputs()[0].name
        try:
            self.codec = LatentCodec(bundle.entropy())
        except (KeyError, ValueError) as error:  # integers that are whole and still do not make a codec
            raise BundleDamagedError(f"{bundle.path}: the integers do not make a codec: {error}") from None

    def encode(
        self, source: str | Path | bytes, quality: int | None = None, name: str | None = None
    ) -> Encoded:
        """A file or its bytes -> bitstream. Raises ImageError and its kin, or RequestError for an unknown quality."""
        level = self.bundle.quality(quality)
        started = time.perf_counter()
        preprocess = self.bundle.manifest.preprocess
        pixels = np.asarray(fit(read_image(source, name), preprocess))
        x = to_input(pixels, preprocess)
        read = time.perf_counter()
        v, z = self.latents(x[None])
        front = time.perf_counter()
        b_v, b_z = self.codec.encode(v[0], z[0])
        stream = Bitstream(self.bundle.fingerprint, level, z.shape[2], z.shape[3], b_v, b_z)
        data = stream.pack()
        coded = time.perf_counter()
        times = Times(
            read_ms=(read - started) * 1e3, front_ms=(front - read) * 1e3, code_ms=(coded - front) * 1e3
        )
        return Encoded(data, stream, count_bytes(stream, len(data), self.bundle), times)

    def latents(self, x: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Network input (B, 3, H, W) -> v (B, V) and z (B, N, h, w), int32."""
        v, z = self._session.run(["v", "z"], {self._input: x})
        return v, z


def count_bytes(stream: Bitstream, total: int, bundle: Bundle) -> ByteCount:
    """Sizes of a packed stream of `total` bytes."""
    preprocess = bundle.manifest.preprocess
    pixels = preprocess.height * preprocess.width
    return ByteCount(b_v=len(stream.b_v), b_z=len(stream.b_z), total=total, bits_per_pixel=8 * total / pixels)
