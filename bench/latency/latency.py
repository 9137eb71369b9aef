"""`isthmus bench latency`: how long an answer takes, where the time goes, and when another way is the shorter one.

    pictures -> stages of the edge, in a process without torch, and of the cloud, here
             -> a link (`link`), the servers on one side of it, the edge's service and the client on the other
             -> every way on every link, picture by picture in turn, over connections that are open (`latency_edge`)
             -> first requests over connections that are not; memory and start of an edge's process
             -> `latency_report`

Everything runs on one thread. A way's time is from the bytes of a PNG file to the answer read, coding included.
"""

from __future__ import annotations

import datetime
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from rich.progress import Progress
from torch import Tensor, nn

from bench.latency.edge_site import STAGES, Answered, Question
from bench.latency.latency_report import (
    COLD,
    LOOPBACK,
    Asked,
    EdgeProcess,
    Latency,
    OnLink,
    Spread,
    Way,
    write_latency,
)
from bench.latency.whole_network_server import Networks, load
from bench.link import Link, Reached, Shape, module, open_link
from bench.rate.contenders import MeasuredWay
from bench.report.report import About, this_machine
from bench.report.sections import METRICS
from cloud.engine.bundle_model import CloudModel
from cloud.engine.kinds import POSTPROCESS
from cloud.networks.transforms import FeatureReconstruction, FeatureSeparation
from shared.bundle import Bundle, Preprocess
from shared.encoder import Encoder
from shared.errors import DataError
from shared.process.child_process import ISTHMUS, ROOT, server
from shared.types import TaskQuery
from train.bundle.export import export
from train.data.open_dataset import open_datasets
from train.networks.load import cut

WARM_UP = 1  # questions a way on each link that are not counted


@dataclass(frozen=True)
class Plan:
    """What is measured. count: pictures, each asked once a way and link. colds: first requests a way.

    starts: fresh edge processes. rounds: how often the stages of each picture are timed.
    """

    bundle: Path
    networks: tuple[str, ...]
    data: str
    out: Path
    count: int
    links: tuple[Shape, ...]
    colds: int
    starts: int
    rounds: int
    ways: tuple[Way, ...]
    proxy: bool = False


def bench_latency(plan: Plan, command: str) -> Latency:
    """Measure, and write the report to `plan.out`. Raises IsthmusError."""
    bundle = Bundle.open(plan.bundle)
    networks = load(plan.networks)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, Progress() as progress:
        work = _Work(plan, bundle, networks, Path(folder), progress)
        stages = {**work.edge_stages(), **work.cloud_stages()}
        starts = work.starts()
        links, cold, memory_mb, kind = work.race()
    served = links[0].answers["Isthmus"]
    stages |= {f"{name}, in the service": served.stages[key] for name, key in SERVED.items()}
    latency = Latency(
        about=About(
            command=command,
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            pictures=work.count,
            machine=this_machine(),
        ),
        link=kind,
        ways=plan.ways,
        stages=stages,
        links=tuple(links),
        cold=cold,
        edge=EdgeProcess(
            start_s=Spread.of([s for s, _ in starts]),
            start_memory_mb=max(mb for _, mb in starts),
            served_memory_mb=memory_mb,
        ),
    )
    write_latency(plan.out, latency)
    return latency


def equal_quality(rate: Path, form: str) -> int:
    """The quality of an image format at which every task does as well as over Isthmus at its default, by what `isthmus
    bench rate` measured; the best that it measured where none does. Raises DataError."""
    try:
        told = json.loads(rate.read_text())
        ways = {way["name"]: MeasuredWay.model_validate(way) for way in told["ways"]}
        own, points = ways["Isthmus"].point(told["default"]), ways[form].points
        qualities = [int(point.setting.split()[-1]) for point in points]
        needed = []
        for task, figures in own.tasks.items():
            metric = next(metric for metric in METRICS.values() if metric.key in figures)
            reached = [metric.better * point.tasks[task][metric.key] for point in points]
            needed.append(_crossing(qualities, reached, metric.better * figures[metric.key]))
    except (OSError, ValueError, LookupError, TypeError, StopIteration) as error:
        raise DataError(f"{rate} is no results.json of `isthmus bench rate` with {form}: {error}") from None
    return math.ceil(max(needed))


def _crossing(qualities: Sequence[int], reached: Sequence[float], wanted: float) -> float:
    """Where the running best of `reached` gets to `wanted`, straight lines between; the last quality if nowhere."""
    best = np.maximum.accumulate(reached)
    above = int(np.argmax(best >= wanted)) if best[-1] >= wanted else len(best) - 1
    if above == 0 or best[above] < wanted:
        return qualities[above]
    return float(np.interp(wanted, best[above - 1 : above + 1], qualities[above - 1 : above + 1]))


# Stages that only a running service has, by their names in the report.
SERVED = {"wire": "wire", "queue": "queue_ms", "decode": "decode_ms", "reconstruction to results": "tails_ms"}


class _Work:
    """One run: its files in `folder`."""

    def __init__(
        self, plan: Plan, bundle: Bundle, networks: Networks, folder: Path, progress: Progress
    ) -> None:
        self.plan, self.bundle, self.networks, self.folder, self.progress = (
            plan,
            bundle,
            networks,
            folder,
            progress,
        )
        preprocess = bundle.manifest.preprocess
        (view,) = open_datasets(plan.data, ["classification"], 0, plan.count, [False], preprocess=preprocess)
        self.pictures = list(self._written(view.images, len(view)))
        self.count = len(self.pictures)
        x = torch.zeros(2, 3, preprocess.height, preprocess.width)
        self._fronts = self._exported("fronts", _Fronts(bundle, networks), {"x": x})
        self.whole = self._file("networks.json", json.dumps(self._wholes()).encode())

    def _written(self, pixels: Callable[[Any], Any], count: int) -> Iterator[str]:
        for i in range(count):
            path = self.folder / f"{i}.png"
            Image.fromarray(pixels(np.array([i]))[0]).save(path)
            yield str(path)

    def _file(self, name: str, data: bytes) -> str:
        path = self.folder / name
        path.write_bytes(data)
        return str(path)

    def _exported(self, name: str, network: nn.Module, x: dict[str, Tensor]) -> str:
        given = network.eval()(*x.values())
        outputs = [f"y{i}" for i in range(len(given) if isinstance(given, list) else 1)]
        return self._file(f"{name}.onnx", export(network, x, outputs))

    def _wholes(self) -> list[tuple[str, dict[str, Any]]]:
        """The ONNX file and the preprocessing of each whole network."""
        told = []
        for i, (network, card) in enumerate(self.networks):
            made: Preprocess = card.preprocess
            x = torch.zeros(2, 3, made.height, made.width)
            told.append((self._exported(f"whole{i}", network, {"x": x}), made.model_dump(mode="json")))
        return told

    def edge_stages(self) -> dict[str, Spread]:
        """In a process without torch."""
        task = self.progress.add_task("stages of the edge", total=None)
        files = [str(self.plan.bundle.resolve()), self._fronts, str(self.plan.rounds), *self.pictures]
        with server("edge's stages", module("bench.latency.edge_site", "stages", *files), ROOT) as process:
            told = process.wait_for("stages")["ms"]
        self._done(task)
        return {name: Spread.of(told[name]) for name in STAGES}

    def cloud_stages(self) -> dict[str, Spread]:
        """In this process: z -> reconstruction and separation -> tails -> results."""
        encoder, model = Encoder(self.bundle), CloudModel(self.bundle, threads=1)
        quality = self.bundle.quality(None)
        queries = [[TaskQuery(name=task.name) for task in self.bundle.tasks]]
        wanted = {task.name: [0] for task in self.bundle.tasks}
        taken: dict[str, list[float]] = {"reconstruction": [], "tails": [], "results": []}
        pictures = self.pictures * self.plan.rounds
        for picture in self.progress.track(pictures, description="stages of the cloud"):
            stream = encoder.encode(picture).stream
            z = model.codec.decode(stream.b_v, stream.b_z, stream.h, stream.w, quality)[None]
            with _timed(FeatureReconstruction, FeatureSeparation) as reconstruction:
                outputs, all_ms = _taken(lambda z=z: model.outputs(z, wanted, [quality]))  # type: ignore[misc]
            _, results_ms = _taken(
                lambda outputs=outputs: [  # type: ignore[misc]
                    POSTPROCESS[task.kind].results(outputs[task.name], task.labels, [query], task.options)
                    for task, query in zip(self.bundle.tasks, queries[0], strict=True)
                ]
            )
            taken["reconstruction"].append(sum(reconstruction))
            taken["tails"].append(all_ms - sum(reconstruction))
            taken["results"].append(results_ms)
        return {name: Spread.of(values) for name, values in taken.items()}

    def starts(self) -> list[tuple[float, float]]:
        """Seconds to the first bitstream, and MB, of fresh edge processes."""
        told = []
        command = module(
            "bench.latency.edge_site", "start", str(self.plan.bundle.resolve()), self.pictures[0]
        )
        for _ in self.progress.track(range(self.plan.starts), description="edge processes"):
            with server("edge", command, ROOT) as process:
                one = process.wait_for("started")
            told.append((one["s"], one["memory_mb"]))
        return told

    def race(self) -> tuple[list[OnLink], dict[str, Spread], float, str]:
        """Every way on every link, the loopback first; first requests; MB of the edge's service; the link's kind."""
        with ExitStack() as stack:
            link = stack.enter_context(open_link(self.plan.proxy))
            shapes = [shape for shape in self.plan.links if link.lossy or not shape.loss]
            course = _Course(stack, link, self)
            task = self.progress.add_task("race", total=(1 + len(shapes)) * self.count)
            done = [self._on(course.near, LOOPBACK, None, task)]
            for seed, shape in enumerate(shapes):
                link.shape(shape, seed)
                reached = course.far.probe(shape)
                on = self._on(course.far, str(shape), reached, task)
                packets, lost = link.shape(shape, seed)
                done.append(on.model_copy(update={"shape": shape, "lost": lost / max(1, packets)}))
            memory_mb = course.far.service.memory_mb
            link.shape(COLD)
            return done, self._cold(course), memory_mb, link.kind

    def _on(self, side: _Side, name: str, reached: Reached | None, task: Any) -> OnLink:
        answers: dict[str, list[Answered]] = {way.name: [] for way in self.plan.ways}
        for picture in self.pictures[:WARM_UP]:
            for way in self.plan.ways:
                side.ask(way, picture)
        for picture in self.pictures:
            for way in self.plan.ways:
                answers[way.name].append(side.ask(way, picture))
            self.progress.advance(task)
        return OnLink(
            name=name, reached=reached, answers={way: Asked.of(told) for way, told in answers.items()}
        )

    def _cold(self, course: _Course) -> dict[str, Spread]:
        """First requests over a connection, on the link COLD."""
        sending = [way for way in self.plan.ways if way.form != "local"]
        taken: dict[str, list[float]] = {way.name: [] for way in sending}
        for i in self.progress.track(range(self.plan.colds), description="first requests"):
            picture = self.pictures[i % self.count]
            for way in sending:
                if way.form == "isthmus":
                    with course.far.fresh_service():
                        told = course.far.ask(way, picture, cold=True)
                else:
                    told = course.far.ask(way, picture, cold=True)
                taken[way.name].append(told.ms)
        return {way: Spread.of(values) for way, values in taken.items()}

    def _done(self, task: Any) -> None:
        self.progress.update(task, total=1, completed=1)


class _Service:
    """An edge's service, started; `ready` waits until it can encode. It connects to its cloud when first asked."""

    def __init__(self, stack: ExitStack, prefix: Sequence[str], bundle: Path, cloud: str) -> None:
        where = ("--bundle", str(bundle), "--port", "0", "--deadline-ms", "120000", "--cloud", cloud)
        self._process = stack.enter_context(server("edge", [*prefix, *ISTHMUS, "edge", "serve", *where]))

    @property
    def memory_mb(self) -> float:
        return float(psutil.Process(self._process.pid).memory_info().rss / 1e6)

    def ready(self) -> None:
        self.address: str = self._process.wait_for("listening")["http"]
        self._process.wait_for("ready")


class _Side:
    """An edge's service and the client beside it, started, with the addresses that they know the servers by."""

    def __init__(self, stack: ExitStack, prefix: Sequence[str], work: _Work, reached: dict[str, str]) -> None:
        self._prefix, self._bundle, self._reached = prefix, work.plan.bundle, reached
        self.service = _Service(stack, prefix, self._bundle, reached["grpc"])
        command = [*prefix, *module("bench.latency.edge_site", "race", work.whole)]
        self._client = stack.enter_context(server("client", command, ROOT))

    def ready(self) -> None:
        self.service.ready()
        self._client.wait_for("listening")

    @contextmanager
    def fresh_service(self) -> Iterator[None]:
        """Another edge's service in place of the one that is connected."""
        before = self.service
        with ExitStack() as stack:
            self.service = _Service(stack, self._prefix, self._bundle, self._reached["grpc"])
            self.service.ready()
            try:
                yield
            finally:
                self.service = before

    def ask(self, way: Way, picture: str, cold: bool = False) -> Answered:
        """Raises IsthmusError."""
        host = self.service.address if way.form == "isthmus" else self._reached["whole"]
        url = f"http://{host}/analyze"
        question = Question(way=way.form, picture=picture, url=url, quality=way.quality, cold=cold)
        return Answered.model_validate(_plain(self._client.tell(question.model_dump(), "answered")))

    def probe(self, shape: Shape) -> Reached:
        told = {"probe": self._reached["echo"], "shape": shape.model_dump()}
        return Reached.model_validate(_plain(self._client.tell(told, "probed")))


def _plain(event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key != "event"}


class _Course:
    """The servers beyond a link, and an edge on either side of it. near: beside the servers; far: beyond the link."""

    def __init__(self, stack: ExitStack, link: Link, work: _Work) -> None:
        plan, host = work.plan, link.host
        ports = ("--host", host, "--grpc-port", "0", "--http-port", "0", "--threads", "1")
        cloud = stack.enter_context(
            server("cloud", [*link.cloud, *ISTHMUS, "cloud", "serve", "--bundle", str(plan.bundle), *ports])
        )
        # The networks' folders by where they lie, because this one runs where the code is.
        specs = [str(Path(spec).resolve()) if Path(spec).exists() else spec for spec in plan.networks]
        whole = stack.enter_context(
            server(
                "whole-network server",
                [*link.cloud, *module("bench.latency.whole_network_server", host, "1", *specs)],
                ROOT,
            )
        )
        echo = stack.enter_context(server("echo", [*link.cloud, *module("bench.link", "echo", host)], ROOT))
        own = {
            "grpc": cloud.wait_for("listening")["grpc"],
            "whole": whole.wait_for("listening")["http"],
            "echo": echo.wait_for("listening")["address"],
        }
        self.near = _Side(stack, link.cloud, work, own)
        self.far = _Side(stack, link.edge, work, {name: link.reach(address) for name, address in own.items()})
        cloud.wait_for("ready")
        self.near.ready()
        self.far.ready()


class _Fronts(nn.Module):
    """x (B, 3, H, W) -> the features of the bundle's own tasks: what an edge runs before the codec.

    Raises DataError where a task has no network among those given.
    """

    def __init__(self, bundle: Bundle, networks: Networks) -> None:
        super().__init__()
        by_kind = {card.task: (network, card) for network, card in networks}
        fronts = []
        for task in bundle.manifest.tasks:
            if task.kind not in by_kind:
                raise DataError(f"the bundle has a task of {task.kind}; name its network, too: --network")
            network, card = by_kind[task.kind]
            fronts.append(cut(network, card.model_copy(update={"split": task.split}))[0])
        self.fronts = nn.ModuleList(fronts)

    def forward(self, x: Tensor) -> list[Tensor]:
        given = [front(x) for front in self.fronts]
        return [feature for one in given for feature in (one if isinstance(one, list | tuple) else (one,))]


def _taken(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and the ms that it took."""
    began = time.perf_counter()
    result = work()
    return result, (time.perf_counter() - began) * 1e3


@contextmanager
def _timed(*kinds: type[nn.Module]) -> Iterator[list[float]]:
    """The ms of each forward pass of modules of these kinds while this is open."""
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
