"""The bundle's networks in this process, with no service around them: the bound of what a service can give."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch

from bench.throughput.results import Stages
from bench.throughput.workloads import Workload
from cloud.engine.bundle_model import CloudModel
from cloud.engine.kinds import POSTPROCESS
from shared.bundle import Bundle
from shared.codec.frame import Packet
from shared.codec.frame_codec import Coded, FrameCodec, Latent
from shared.encoder import Encoded
from shared.types import Analysis, Times, Wanted, new_request_id
from shared.wire import convert


class BareModel:
    """Runs batches of given bitstreams through the networks alone."""

    def __init__(self, bundle: Bundle, streams: Sequence[Encoded], threads: int) -> None:
        self._bundle, self._streams = bundle, streams
        self._model = CloudModel(bundle, threads=threads)
        self._codec = FrameCodec(self._model.codec)

    def forward(
        self, tasks: Sequence[str], batch: int, seconds: float, pieces: bool = False
    ) -> tuple[float, float]:
        """Images a second of reconstruction and tails alone, and processor ms per image.

        pieces: the batch is shared among threads as the service does it, instead of one pass on torch's threads.
        """
        streams, z = self._latents(batch)
        qualities = [one.quality for one in streams]

        def piece(images: Sequence[int]) -> Sequence[int]:
            rows = {name: range(len(images)) for name in tasks}
            self._model.outputs(z[list(images)], rows, [qualities[i] for i in images])
            return images

        def run() -> None:
            if pieces:
                self._model.crew.run(piece, range(batch))
            else:
                piece(range(batch))

        run()  # warms up caches and allocators
        times, cpu = 0, time.process_time()
        began = time.perf_counter()
        while (taken := time.perf_counter() - began) < seconds or times < 2:
            run()
            times += 1
        return batch * times / taken, 1e3 * (time.process_time() - cpu) / (batch * times)

    def stages(self, workload: Workload, batch: int) -> Stages:
        """Medians of each stage of one batch, on the service's number of threads, in ms per image."""
        streams, z = self._latents(batch)
        data = [one.data for one in streams]
        qualities = [one.quality for one in streams]
        coded = [_coded(one) for one in streams]
        wanted = Wanted.same(workload.tasks, top_k=5, maps=workload.maps)
        requests = [convert.request_message(new_request_id(), one, wanted) for one in data]
        rows = {name: range(batch) for name in workload.tasks}
        outputs = self._model.outputs(z, rows, qualities)
        answers = self._model.answer(z, [wanted.tasks] * batch, qualities)
        analyses = [self._analysis(one, results) for one, results in zip(streams, answers, strict=True)]

        def parse() -> None:
            for request, one in zip(requests, data, strict=True):
                convert.wanted_of(request)
                Packet.unpack(one)

        def reduce() -> None:
            for query in wanted.tasks:
                task = self._bundle.task(query.name)
                with torch.inference_mode():
                    POSTPROCESS[task.kind].results(
                        outputs[query.name], task.labels, [query] * batch, task.options
                    )

        stages: dict[str, Callable[[], object]] = {
            "parse": parse,
            "payload to z": lambda: self._codec.decode(coded),
            "forward": lambda: self._model.outputs(z, rows, qualities),
            "results": reduce,
            "reply": lambda: [convert.response_message(one).SerializeToString() for one in analyses],
        }
        ms = {name: _median_ms(run) / batch for name, run in stages.items()}
        return Stages(workload=workload.name, batch=batch, ms=ms)

    def _latents(self, batch: int) -> tuple[list[Encoded], np.ndarray[Any, Any]]:
        streams = list(islice(cycle(self._streams), batch))
        decoded = self._codec.decode([_coded(one) for one in streams])
        return streams, np.stack([one.z for one in decoded if isinstance(one, Latent) and one.z is not None])

    def _analysis(self, stream: Encoded, results: dict[str, Any]) -> Analysis:
        return Analysis(
            request_id=new_request_id(),
            bundle=self._bundle.manifest.name,
            fingerprint=self._bundle.fingerprint.hex(),
            quality=stream.quality,
            results=results,
            bytes=stream.bytes,
            times=Times(queue_ms=0, decode_ms=0, tails_ms=0),
        )


def _coded(one: Encoded) -> Coded:
    return Coded(one.packet.frame.payload, one.latent.grid, one.quality)


def _median_ms(run: Callable[[], object], times: int = 5) -> float:
    """Median processor time, which other work on the machine does not add to."""
    run()
    taken = []
    for _ in range(times):
        began = time.process_time()
        run()
        taken.append(time.process_time() - began)
    return 1e3 * statistics.median(taken)
