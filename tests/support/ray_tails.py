"""A Ray of this machine for tests: its replicas ask the model of the test that runs, in the test's own process.

test -> RayEngine -> replica, which decodes -> Remote.answer -> a socket -> Asked.model, with its gate
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cloud.engine.batch_work import Model
from cloud.engine.engine import MakeEngine
from cloud.settings import PipelineSettings, RaySettings
from shared.bundle import Bundle
from shared.codec.latent_codec import LatentCodec

KEY = b"of tests on this machine"
# Short: sockets lie in it, and their paths may have 107 characters.
SETTINGS = RaySettings(replicas_min=1, replicas_max=1, cpus=0.5, machine_cpus=2)


class Asked:
    """Answers replicas by `model`, which each test sets. tails: the handle of the replicas."""

    def __init__(self) -> None:
        self.model: Any = None
        self.tails: Any = None
        self._listener = Listener(("127.0.0.1", 0), authkey=KEY)
        self.address = self._listener.address
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with suppress(OSError):  # closed
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept(),), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        with suppress(EOFError, OSError):  # the replica has gone
            while True:
                name, arguments = connection.recv()
                try:
                    connection.send((getattr(self.model, name)(*arguments), None))
                except Exception as error:
                    connection.send((None, error))

    def close(self) -> None:
        self._listener.close()


class Remote:
    """A model in a replica: it decodes itself, and is answered by `Asked`."""

    base_tasks: frozenset[str] = frozenset()

    def __init__(self, address: tuple[str, int], bundle: Bundle) -> None:
        self.codec = LatentCodec(bundle.entropy())
        self._connection = Client(address, authkey=KEY)

    def answer(self, *arguments: Any) -> Any:
        return self._ask("answer", arguments)

    def answer_base(self, *arguments: Any) -> Any:
        return self._ask("answer_base", arguments)

    def warm_up(self) -> None:
        pass

    def _ask(self, name: str, arguments: Any) -> Any:
        self._connection.send((name, arguments))
        results, error = self._connection.recv()
        if error is not None:
            raise error
        return results


def load_remote(address: tuple[str, int], bundle: Bundle) -> Model:
    return Remote(address, bundle)


@contextmanager
def ray_of_tests() -> Iterator[tuple[MakeEngine, Asked]]:
    """What makes engines before deployed `Tails`, and who answers them. Some 15 s on two free cores."""
    # Everything on the loopback address; on Linux Ray would take the machine's own.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    from cloud.engine import ray_engine
    from support.counted_tails import CountedTails

    asked = Asked()
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        settings = SETTINGS.model_copy(update={"folder": Path(folder)})
        load = partial(load_remote, asked.address)
        with patch.object(ray_engine, "Tails", CountedTails):
            cluster = ray_engine.Cluster(settings, PipelineSettings(batch_wait_ms=0), load)
        asked.tails = cluster.tails
        try:
            # One at work: so tests that hold a batch of one know how many wait.
            yield lambda limits, _: ray_engine.RayEngine(cluster.tails, 1, limits.queue_max), asked
        finally:
            cluster.leave()
            asked.close()
