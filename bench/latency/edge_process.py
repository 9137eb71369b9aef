"""The edge's processes of `isthmus bench latency`: like an edge, they load no torch.

    start    BUNDLE IMAGE                  a fresh process's time to its first bitstream, and the memory it then has
    stages   BUNDLE FRONTS ROUNDS IMAGE... times of each stage of encoding, one image after the other
    answer   NETWORKS                      reads an `EdgeRequest` or a probe a line from stdin, prints what it took

Every approach begins with the bytes of the same PNG file and ends when the answer is read. Run with `python -m`.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import httpx
import numpy as np
import onnxruntime as ort
import psutil

from shared.bundle import Bundle, Preprocess
from shared.codec.frame import Frame, FrameType, Packet
from shared.codec.frame_codec import Coded
from shared.encoder import Encoder
from shared.image import fit, read_image, to_input
from shared.process.process import announce
from shared.types import Frozen

STAGES = (
    "decode image",
    "fronts",
    "transform",
    "extractor",
    "exact path",
    "range coder",
    "container",
    "exact path + coding, decoding",
)
Form = Literal["isthmus", "local", "JPEG", "AVIF", "WEBP"]


class EdgeRequest(Frozen):
    """One image, to be answered in one form.

    url: the edge's service for `isthmus`, the whole-network server for an image format, unused for `local`. quality: of
    the format. cold: over a new connection.
    """

    form: Form
    image: str
    url: str = ""
    quality: int = 0
    cold: bool = False


class EdgeReply(Frozen):
    """ms: from the PNG's bytes to the answer. bytes: of the image as it was sent. times: Isthmus's own, in ms."""

    ms: float
    bytes: int
    times: dict[str, float]


class LocalNetwork(Frozen):
    """A whole network on the edge. path: of its ONNX file. named: its outputs have names, and the best one is its
    answer."""

    path: str
    preprocess: Preprocess
    named: bool


class LocalNetworks:
    """All whole networks in ONNX Runtime, on one thread. file: JSON, a list of `LocalNetwork`."""

    def __init__(self, file: Path) -> None:
        networks = [LocalNetwork.model_validate(one) for one in json.loads(file.read_text())]
        self._networks = [(session(Path(one.path)), one) for one in networks]

    def answer(self, data: bytes) -> list[np.ndarray]:
        image = read_image(data)
        outputs = []
        for network, described in self._networks:
            x = to_input(np.asarray(fit(image, described.preprocess)), described.preprocess)
            (y,) = network.run(None, {"x": x[None]})
            outputs.append(y[0].argmax(0) if described.named else y[0])
        return outputs


def session(path: Path) -> ort.InferenceSession:
    """A network on one thread, run as `shared.encoder` runs the edge's."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])


def start(bundle: str, image: str) -> None:
    Encoder(Bundle.open(bundle)).encode(image)
    process = psutil.Process()
    announce("started", s=time.time() - process.create_time(), memory_mb=process.memory_info().rss / 1e6)


def stages(bundle: str, fronts: str, rounds: str, *paths: str) -> None:
    encoder, front = Encoder(Bundle.open(bundle)), session(Path(fronts))
    images = [Path(path).read_bytes() for path in paths]
    list(stage_times(encoder, front, images[0]))  # folds the codebook and builds the tables' models
    times = [list(stage_times(encoder, front, image)) for _ in range(int(rounds)) for image in images]
    announce("stages", ms={name: [round(one[i], 4) for one in times] for i, name in enumerate(STAGES)})


def stage_times(encoder: Encoder, fronts: ort.InferenceSession, image: bytes) -> Iterator[float]:
    """Ms of each of STAGES.

    Two of them are differences: the transform is what edge.onnx takes more than the fronts alone, the range coder what
    coding takes more than the exact path. On a busy machine a difference may come out negative; the report says so.
    """
    bundle = encoder.bundle
    preprocess, quality = bundle.manifest.preprocess, bundle.quality(None)
    clock = _Clock()
    x = to_input(np.asarray(fit(read_image(image), preprocess)), preprocess)[None]
    yield clock.ms()
    fronts.run(None, {"x": x})
    yield (front_ms := clock.ms())
    u = encoder.features(x)
    yield clock.ms() - front_ms
    latent = encoder.latent(u, quality)
    yield clock.ms()
    encoder.codec.path(latent.v[None], *latent.grid)
    yield (path_ms := clock.ms())
    payload = encoder.frames.encode(latent)
    yield clock.ms() - path_ms
    frame = Frame(FrameType.I, quality, own_v=True, has_z=True, payload=payload)
    Packet.unpack(Packet(bundle.fingerprint, frame).pack())
    yield clock.ms()
    encoder.frames.decode([Coded(payload, latent.grid, quality)])
    yield clock.ms()


class _Clock:
    def __init__(self) -> None:
        self._last = time.perf_counter()

    def ms(self) -> float:
        """Milliseconds since the last call."""
        now = time.perf_counter()
        passed, self._last = now - self._last, now
        return passed * 1e3


def answer(networks: str) -> None:
    """Answers requests from stdin until it ends."""
    from bench.link import Shape, measure

    local = LocalNetworks(Path(networks))
    warm = httpx.Client(timeout=120)
    announce("listening")
    for line in sys.stdin:
        message = json.loads(line)
        if "probe" in message:
            reached = measure(message["probe"], Shape.model_validate(message["shape"]))
            announce("probed", **reached.model_dump())
        else:
            announce("answered", **ask(EdgeRequest.model_validate(message), local, warm).model_dump())


def ask(request: EdgeRequest, local: LocalNetworks, warm: httpx.Client) -> EdgeReply:
    """Gets one answer. warm: a client whose connection is open already."""
    image = Path(request.image).read_bytes()
    clock = _Clock()
    if request.form == "local":
        local.answer(image)
        return EdgeReply(ms=clock.ms(), bytes=0, times={})
    body = image if request.form == "isthmus" else encoded_as(request.form, image, request.quality)
    headers = {"Content-Type": "application/octet-stream"}
    if request.cold and request.form != "isthmus":
        response = httpx.post(request.url, content=body, headers=headers, timeout=120)
    else:
        response = warm.post(request.url, content=body, headers=headers)
    ms = clock.ms()
    answer = response.raise_for_status().json()
    if request.form != "isthmus":
        return EdgeReply(ms=ms, bytes=len(body), times={})
    return EdgeReply(ms=ms, bytes=answer["bytes"]["total"], times=answer["times"])


def encoded_as(form: str, image: bytes, quality: int) -> bytes:
    """An image file in another format, as Pillow writes it on one thread.

    AVIF at its fastest: a seventh more bytes in a sixteenth of the default's time, which is shorter overall from
    0.25 Mbit/s on.
    """
    data = io.BytesIO()
    options = {"max_threads": 1, "speed": 10} if form == "AVIF" else {}
    read_image(image).save(data, form, quality=quality, **options)
    return data.getvalue()


def main(role: str, *arguments: str) -> None:
    {"start": start, "stages": stages, "answer": answer}[role](*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
