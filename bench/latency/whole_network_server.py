"""A plain FastAPI server that decodes an image and runs whole networks: what Isthmus is compared with. Knows no codec.

Run with `python -m bench.latency.whole_network_server HOST THREADS NETWORK...`; prints its address as a JSON line.
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
from shared.process.config import HttpSettings
from shared.process.process import HttpServer, announce, stop_signal
from shared.types import TaskQuery, TaskResult
from train.networks.network_folder import NetworkCard, load_network

# Connections stay open between links: making one anew would count as a part of an answer's time.
SETTINGS = HttpSettings(port=0, connections_max=64, head_ms=60_000, keep_alive_ms=600_000)

Networks = Sequence[tuple[nn.Module, NetworkCard]]


def load(specs: Sequence[str]) -> Networks:
    """Raises DataError."""
    return [load_network(Path(spec)) for spec in specs]


@torch.inference_mode()
def answer(networks: Networks, image: bytes) -> dict[str, TaskResult]:
    """The results of all networks for an image file's bytes, by task, as Isthmus gives them. Raises ImageError."""
    pixels = read_image(image)
    results: dict[str, TaskResult] = {}
    for network, card in networks:
        x = torch.from_numpy(to_input(np.asarray(fit(pixels, card.preprocess)), card.preprocess))
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
    http = HttpServer(build_app(networks), host, SETTINGS, drain_ms=1000)
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
