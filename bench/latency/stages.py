"""Times the stages of an answer: the edge's in a process without torch, the cloud's in this one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from bench.latency.edge_process import STAGES
from bench.latency.results import Spread
from bench.latency.whole_network_server import Networks
from bench.link import module
from cloud.engine.bundle_model import CloudModel
from cloud.engine.kinds import POSTPROCESS
from cloud.networks.transforms import FeatureReconstruction, FeatureSeparation
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.errors import DataError
from shared.process.child_process import ROOT, server
from shared.types import TaskQuery
from train.networks.load import cut


def edge_stages(bundle: Bundle, fronts: str, rounds: int, images: Sequence[str]) -> dict[str, Spread]:
    """fronts: ONNX file of the fronts alone. rounds: how often each image is timed."""
    command = module(
        "bench.latency.edge_process", "stages", str(bundle.path.resolve()), fronts, str(rounds), *images
    )
    with server("edge's stages", command, ROOT) as process:
        ms = process.wait_for("stages")["ms"]
    return {name: Spread.of(ms[name]) for name in STAGES}


def cloud_stages(bundle: Bundle, images: Iterator[str]) -> dict[str, Spread]:
    """Times z -> reconstruction and separation -> tails -> results, for one image at a time."""
    encoder, model = Encoder(bundle), CloudModel(bundle, threads=1)
    quality = bundle.quality(None)
    queries = [TaskQuery(name=task.name) for task in bundle.tasks]
    rows = {task.name: [0] for task in bundle.tasks}
    ms: dict[str, list[float]] = {"reconstruction": [], "tails": [], "results": []}
    for image in images:
        z = encoder.encode(image).latent.z
        assert z is not None  # as without base_only
        z = z[None]
        with _forward_times(FeatureReconstruction, FeatureSeparation) as reconstruction:
            outputs, all_ms = _timed(lambda z=z: model.outputs(z, rows, [quality]))  # type: ignore[misc]
        _, results_ms = _timed(
            lambda outputs=outputs: [  # type: ignore[misc]
                POSTPROCESS[task.kind].results(outputs[task.name], task.labels, [query], task.options)
                for task, query in zip(bundle.tasks, queries, strict=True)
            ]
        )
        ms["reconstruction"].append(sum(reconstruction))
        ms["tails"].append(all_ms - sum(reconstruction))
        ms["results"].append(results_ms)
    return {name: Spread.of(values) for name, values in ms.items()}


class Fronts(nn.Module):
    """The fronts of the bundle's own tasks, x (B, 3, H, W) -> features: what an edge runs before the codec.

    Raises DataError if a task has no network among those given.
    """

    def __init__(self, bundle: Bundle, networks: Networks) -> None:
        super().__init__()
        by_kind = {card.task: (network, card) for network, card in networks}
        fronts = []
        for task in bundle.manifest.tasks:
            if task.kind not in by_kind:
                raise DataError(
                    f"the bundle has a task of {task.kind}; name its network, too", setting="network"
                )
            network, card = by_kind[task.kind]
            fronts.append(cut(network, card.model_copy(update={"split": task.split}))[0])
        self.fronts = nn.ModuleList(fronts)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = [front(x) for front in self.fronts]
        return [one for each in features for one in (each if isinstance(each, list | tuple) else (each,))]


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Its result, and the ms that it took."""
    began = time.perf_counter()
    result = work()
    return result, (time.perf_counter() - began) * 1e3


@contextmanager
def _forward_times(*kinds: type[nn.Module]) -> Iterator[list[float]]:
    """Collects the ms of each forward pass of modules of these kinds while it is open."""
    taken: list[float] = []
    began: list[float] = []

    def before(module: nn.Module, _: Any) -> None:
        if isinstance(module, kinds):
            began.append(time.perf_counter())

    def after(module: nn.Module, _: Any, __: Any) -> None:
        if isinstance(module, kinds):
            taken.append((time.perf_counter() - began.pop()) * 1e3)

    handles = (
        nn.modules.module.register_module_forward_pre_hook(before),
        nn.modules.module.register_module_forward_hook(after),
    )
    try:
        yield taken
    finally:
        for handle in handles:
            handle.remove()
