"""What Isthmus is raced against: a plain FastAPI server that decodes an image and runs whole networks. Knows no codec.

Run by `python -m bench.latency.whole_network_server HOST THREADS NETWORK...`; prints where it
listens as a JSON line on stdout.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from fastapi import FastAPI, Request
from torch import nn

from cloud.engine.kinds import POSTPROCESS
from shared.image import fit, read_image, to_input
from shared.process.process import HttpServer, announce, stop_signal
from shared.types import TaskQuery, TaskResult
from train.networks.network_folder import NetworkCard, load_network

Networks = Sequence[tuple[nn.Module, NetworkCard]]


def load(specs: Sequence[str]) -> Networks:
    """Raises DataError."""
    return [load_network(Path(spec)) for spec in specs]


@torch.inference_mode()
def answer(networks: Networks, image: bytes) -> dict[str, TaskResult]:
    """An image file's bytes -> the results that Isthmus gives, too, by the networks' tasks. Raises ImageError."""
    picture = read_image(image)
    results: dict[str, TaskResult] = {}
    for network, card in networks:
        x = torch.from_numpy(to_input(np.asarray(fit(picture, card.preprocess)), card.preprocess))
        queries = [TaskQuery(name=card.task)]
        (results[card.task],) = POSTPROCESS[card.task].results(network(x[None]), card.labels, queries, {})
    return results


def build_app(networks: Networks) -> FastAPI:
    app = FastAPI()

    @app.post("/analyze")
    async def analyze(request: Request) -> dict[str, TaskResult]:
        return await asyncio.to_thread(answer, networks, await request.body())

    return app


async def serve(host: str, networks: Networks) -> None:
    http = HttpServer(build_app(networks), host, 0, drain_ms=1000)
    stop = stop_signal()
    task = asyncio.create_task(http.serve())
    announce("listening", http=http.address)
    await stop.wait()
    http.stop()
    await task


def main(host: str, threads: str, *specs: str) -> None:
    torch.set_num_threads(int(threads))
    asyncio.run(serve(host, load(specs)))


if __name__ == "__main__":
    main(*sys.argv[1:])
