"""The edge's side of `isthmus bench latency`, in a process of its own, as on an edge: no torch.

    start    BUNDLE PICTURE                  a fresh process's time to its first bitstream, and the memory it then has
    stages   BUNDLE FRONTS ROUNDS PICTURE... times of each stage of encoding, one picture after the other
    race     NETWORKS                        on stdin a `Question` or the echo's address a line, on stdout what it took

Every way begins with the bytes of the same PNG file and ends with the answer read. Run by `python -m`.
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
from shared.codec.bitstream import Bitstream
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


class Question(Frozen):
    """One picture, asked one way.

    url: of the edge's service for `isthmus`, of the whole-network server for an image format, unused for `local`.
    quality: of the format. cold: over a connection that is made for it.
    """

    way: Literal["isthmus", "local", "JPEG", "AVIF", "WEBP"]
    picture: str
    url: str = ""
    quality: int = 0
    cold: bool = False


class Answered(Frozen):
    """ms: from the PNG's bytes to the answer. bytes: of the picture as it was sent. times: Isthmus's own."""

    ms: float
    bytes: int
    times: dict[str, float]


class Local:
    """The whole networks on the edge: ONNX Runtime, one thread. file: JSON of (ONNX file, preprocessing) of each."""

    def __init__(self, file: Path) -> None:
        told = json.loads(file.read_text())
        self._networks = [(session(Path(path)), Preprocess.model_validate(made)) for path, made in told]

    def answer(self, image: bytes) -> list[np.ndarray]:
        picture = read_image(image)
        outputs = []
        for network, preprocess in self._networks:
            x = to_input(np.asarray(fit(picture, preprocess)), preprocess)
            (y,) = network.run(None, {"x": x[None]})
            outputs.append(y[0].argmax(0) if len(y[0]) != 3 else y[0])  # classes, or normals
        return outputs


def session(path: Path) -> ort.InferenceSession:
    """A network on one thread, as `shared.encoder` runs the edge's."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])


def start(bundle: str, picture: str) -> None:
    Encoder(Bundle.open(bundle)).encode(picture)
    process = psutil.Process()
    announce("started", s=time.time() - process.create_time(), memory_mb=process.memory_info().rss / 1e6)


def stages(bundle: str, fronts: str, rounds: str, *pictures: str) -> None:
    encoder, front = Encoder(Bundle.open(bundle)), session(Path(fronts))
    images = [Path(picture).read_bytes() for picture in pictures]
    list(_stages(encoder, front, images[0]))  # folds the codebook, builds the tables' models
    told = [list(_stages(encoder, front, image)) for _ in range(int(rounds)) for image in images]
    announce("stages", ms={name: [round(one[i], 4) for one in told] for i, name in enumerate(STAGES)})


def _stages(encoder: Encoder, fronts: ort.InferenceSession, image: bytes) -> Iterator[float]:
    """Ms of each of STAGES. The transform is what edge.onnx takes more than the fronts alone."""
    bundle, codec = encoder.bundle, encoder.codec
    preprocess, quality = bundle.manifest.preprocess, bundle.quality(None)
    clock = _Clock()
    x = to_input(np.asarray(fit(read_image(image), preprocess)), preprocess)[None]
    yield clock.ms()
    fronts.run(None, {"x": x})
    yield (front_ms := clock.ms())
    u = encoder.features(x)
    yield max(0.0, clock.ms() - front_ms)
    v, z = encoder.latents(u, bundle.position(quality))
    yield clock.ms()
    codec.path(v, *z.shape[2:])
    yield (path_ms := clock.ms())
    b_v, b_z = codec.encode(v[0], z[0], quality)
    yield max(0.0, clock.ms() - path_ms)
    stream = Bitstream(bundle.fingerprint, quality, *z.shape[2:], b_v, b_z)
    Bitstream.unpack(stream.pack())
    yield clock.ms()
    codec.decode(b_v, b_z, *z.shape[2:], quality)
    yield clock.ms()


class _Clock:
    def __init__(self) -> None:
        self._last = time.perf_counter()

    def ms(self) -> float:
        """Since it was last asked."""
        now = time.perf_counter()
        passed, self._last = now - self._last, now
        return passed * 1e3


def race(networks: str) -> None:
    # What only the race needs: the link's module brings nothing that an edge has not.
    from bench.link import Shape, measure

    local = Local(Path(networks))
    warm = httpx.Client(timeout=120)
    announce("listening")
    for line in sys.stdin:
        told = json.loads(line)
        if "probe" in told:
            announce("probed", **measure(told["probe"], Shape.model_validate(told["shape"])).model_dump())
        else:
            announce("answered", **ask(Question.model_validate(told), local, warm).model_dump())


def ask(question: Question, local: Local, warm: httpx.Client) -> Answered:
    image = Path(question.picture).read_bytes()
    clock = _Clock()
    if question.way == "local":
        local.answer(image)
        return Answered(ms=clock.ms(), bytes=0, times={})
    body = image if question.way == "isthmus" else written(image, question.way, question.quality)
    headers = {"Content-Type": "application/octet-stream"}
    if question.cold and question.way != "isthmus":
        answer = httpx.post(question.url, content=body, headers=headers, timeout=120)
    else:
        answer = warm.post(question.url, content=body, headers=headers)
    ms = clock.ms()
    told = answer.raise_for_status().json()
    if question.way != "isthmus":
        return Answered(ms=ms, bytes=len(body), times={})
    return Answered(ms=ms, bytes=told["bytes"]["total"], times=told["times"])


def written(image: bytes, form: str, quality: int) -> bytes:
    """A PNG's bytes as a file of another format, as Pillow writes it on one thread.

    AVIF at its fastest: a seventh more bytes in a sixteenth of the default's time, which is the shorter way from
    0.25 Mbit/s on.
    """
    data = io.BytesIO()
    options = {"max_threads": 1, "speed": 10} if form == "AVIF" else {}
    read_image(image).save(data, form, quality=quality, **options)
    return data.getvalue()


def main(what: str, *arguments: str) -> None:
    {"start": start, "stages": stages, "race": race}[what](*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
