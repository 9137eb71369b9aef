"""Helpers of the service's tests: a model that waits until it is told, and pictures as bytes."""

from __future__ import annotations

import asyncio
import io
import struct
import threading
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cloud.engine.batch_work import Model, Served
from shared.bundle import Bundle
from shared.codec.latent_codec import LatentCodec
from shared.encoder import Encoder
from shared.errors import BundleMismatchError
from shared.kinds.classification import ClassificationResult, ClassScore
from shared.types import BundleInfo, TaskQuery

LABELS = ("red", "green", "blue")


class GatedModel:
    """Answers "red" once `gate` is open; counts what it was asked."""

    def __init__(self, codec: LatentCodec) -> None:
        self.codec = codec
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.batches: list[int] = []
        self.fail: Exception | None = None

    def answer(
        self, z: NDArray[np.int32], queries: Sequence[Sequence[TaskQuery]], qualities: Sequence[int]
    ) -> list[dict[str, ClassificationResult]]:
        self.batches.append(len(z))
        self.entered.set()
        assert self.gate.wait(30)
        if self.fail is not None:
            raise self.fail
        return [{query.name: _result(query.top_k) for query in picture} for picture in queries]

    def warm_up(self) -> None:
        pass


class GatedBaseModel(GatedModel):
    """The same, which also answers bases of `base_tasks`; bases: the size of each batch of them."""

    def __init__(self, codec: LatentCodec, base_tasks: frozenset[str]) -> None:
        super().__init__(codec)
        self.base_tasks = base_tasks
        self.bases: list[int] = []

    def answer_base(
        self, v: NDArray[np.int32], queries: Sequence[Sequence[TaskQuery]], qualities: Sequence[int]
    ) -> list[dict[str, ClassificationResult]]:
        assert v.ndim == 2
        self.bases.append(len(v))
        return [{query.name: _result(query.top_k) for query in picture} for picture in queries]


class OneBundle:
    """A shelf (`cloud.requests.Bundles`) of one bundle that is loaded already."""

    def __init__(self, bundle: Bundle, model: Model, encoder: Encoder | None = None) -> None:
        self.served = Served(bundle, model, encoder)

    def swap(self, bundle: Bundle, model: Model) -> None:
        """Serves another one from the next request on."""
        self.served = Served(bundle, model, self.served.encoder)

    def marks(self) -> list[bytes]:
        return [self.served.bundle.fingerprint]

    @asynccontextmanager
    async def use(self, mark: bytes) -> AsyncIterator[Served]:
        if mark != self.served.bundle.fingerprint:
            raise BundleMismatchError(mark.hex(), self.served.bundle.fingerprint.hex())
        yield self.served

    @asynccontextmanager
    async def use_default(self) -> AsyncIterator[Served]:
        yield self.served

    def infos(self) -> list[BundleInfo]:
        return [self.served.bundle.info()]


def _result(top_k: int) -> ClassificationResult:
    scores = (0.5, 0.3, 0.2)
    top = tuple(ClassScore(label=LABELS[i], index=i, score=scores[i]) for i in range(min(top_k, len(LABELS))))
    return ClassificationResult(top=top)


def png(seed: int = 0, size: int = 64) -> bytes:
    """A picture of noise, as a PNG file's bytes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def bomb(width: int = 50_000, height: int = 50_000) -> bytes:
    """A PNG of a few hundred bytes that says it has width x height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def problem(answer: Any, status: int) -> dict[str, Any]:
    """The problem details of an HTTP answer, checked for what all of them have."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    assert set(told) == {"type", "title", "status", "detail", "instance", "request_id"}
    assert told["status"] == status
    assert told["type"].startswith("urn:isthmus:problem:")
    assert told["request_id"] == answer.headers["x-request-id"]
    assert told["instance"].endswith(told["request_id"])
    assert "\n" not in told["detail"]
    assert "Traceback" not in told["detail"]
    return told


async def until(condition: Callable[[], bool]) -> None:
    """Lets everything else run until the condition holds."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)
