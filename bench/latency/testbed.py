"""The processes of `isthmus bench latency`: servers on one side of a link, and an edge on either side of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from bench.latency.edge_process import EdgeReply, EdgeRequest
from bench.latency.results import Approach
from bench.link import Link, Reached, Shape, module
from shared.process.child_process import ISTHMUS, ROOT, server


class EdgeService:
    """An edge's service, started. It connects to its cloud when it is first asked."""

    def __init__(self, stack: ExitStack, prefix: Sequence[str], bundle: Path, cloud: str) -> None:
        options = ("--bundle", str(bundle), "--port", "0", "--deadline-ms", "120000", "--cloud", cloud)
        self._process = stack.enter_context(server("edge", [*prefix, *ISTHMUS, "edge", "serve", *options]))

    def ready(self) -> None:
        """Waits until it can encode."""
        self.address: str = self._process.wait_for("listening")["http"]
        self._process.wait_for("ready")

    @property
    def memory_mb(self) -> float:
        return float(psutil.Process(self._process.pid).memory_info().rss / 1e6)


class EdgeSite:
    """An edge's service and a client next to it, on one side of a link.

    prefix: what the commands of that side start with. addresses: of the servers, as this side knows them. whole: the
    file that describes the whole networks.
    """

    def __init__(
        self,
        stack: ExitStack,
        prefix: Sequence[str],
        bundle: Path,
        whole: str,
        addresses: dict[str, str],
    ) -> None:
        self._prefix, self._bundle, self._addresses = prefix, bundle, addresses
        self.service = EdgeService(stack, prefix, bundle, addresses["grpc"])
        command = [*prefix, *module("bench.latency.edge_process", "answer", whole)]
        self._client = stack.enter_context(server("client", command, ROOT))

    def ready(self) -> None:
        self.service.ready()
        self._client.wait_for("listening")

    @contextmanager
    def fresh_service(self) -> Iterator[None]:
        """Puts another edge's service, not yet connected, in place of the one that is."""
        connected = self.service
        with ExitStack() as stack:
            self.service = EdgeService(stack, self._prefix, self._bundle, self._addresses["grpc"])
            self.service.ready()
            try:
                yield
            finally:
                self.service = connected

    def ask(self, approach: Approach, image: str, cold: bool = False) -> EdgeReply:
        """Raises IsthmusError."""
        host = self.service.address if approach.form == "isthmus" else self._addresses["whole"]
        request = EdgeRequest(
            form=approach.form,
            image=image,
            url=f"http://{host}/analyze",
            quality=approach.quality,
            cold=cold,
        )
        return EdgeReply.model_validate(_fields(self._client.send(request.model_dump(), "answered")))

    def probe(self, shape: Shape) -> Reached:
        """Measures the link itself."""
        message = {"probe": self._addresses["echo"], "shape": shape.model_dump()}
        return Reached.model_validate(_fields(self._client.send(message, "probed")))


def _fields(event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key != "event"}


class Testbed:
    """The servers beyond a link, and an edge on each side of it. near: next to the servers; far: beyond the link."""

    def __init__(
        self,
        stack: ExitStack,
        link: Link,
        bundle: Path,
        networks: Sequence[str],
        whole: str,
    ) -> None:
        ports = ("--host", link.host, "--grpc-port", "0", "--http-port", "0", "--insecure", "--threads", "1")
        serve = [*link.cloud, *ISTHMUS, "cloud", "serve", "--bundle", str(bundle), *ports]
        cloud = stack.enter_context(server("cloud", serve))
        # Absolute paths, because this server runs where the code is.
        folders = [str(Path(one).resolve()) if Path(one).exists() else one for one in networks]
        command = [*link.cloud, *module("bench.latency.whole_network_server", link.host, "1", *folders)]
        whole_server = stack.enter_context(server("whole-network server", command, ROOT))
        command = [*link.cloud, *module("bench.link", "echo", link.host)]
        echo = stack.enter_context(server("echo", command, ROOT))
        own = {
            "grpc": cloud.wait_for("listening")["grpc"],
            "whole": whole_server.wait_for("listening")["http"],
            "echo": echo.wait_for("listening")["address"],
        }
        beyond = {name: link.reach(address) for name, address in own.items()}
        self.near = EdgeSite(stack, link.cloud, bundle, whole, own)
        self.far = EdgeSite(stack, link.edge, bundle, whole, beyond)
        cloud.wait_for("ready")
        self.near.ready()
        self.far.ready()
