"""A bundle in memory: its model, its encoder, and its added tasks, kept as they lie on the disk. Knows no other bundle.

Bundle, without added tasks -> load -> Stock -> watch.look() -> served: the bundle with its tasks, for requests
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cloud.engine.batch_work import Served
from cloud.shelf.memory import bytes_held
from cloud.task_watch import Reloaded, TaskWatch
from shared.bundle import ONNX, TAIL, TASKS, Bundle

if TYPE_CHECKING:
    from cloud.engine.load import Loaded


class Stock:
    """A loaded bundle with its added tasks.

    users: requests that are answered with it now. bytes: about its memory at the last look.
    """

    def __init__(self, loaded: Loaded) -> None:
        model = loaded.model
        self.watch = TaskWatch(model)
        self.users = 0
        self._served = Served(model.bundle, model, loaded.encoder)
        self.bytes = self._measure()

    @property
    def served(self) -> Served:
        """What the next request is answered with; the same object until the tasks change."""
        model = self.watch.model
        if model is not self._served.model:
            self._served = Served(model.bundle, model, self._served.encoder)
        return self._served

    async def look(self, *, again: bool = False) -> Reloaded:
        """See `TaskWatch.look`."""
        before = self.watch.model
        reloaded = await self.watch.look(again=again)
        if self.watch.model is not before:
            self.bytes = self._measure()
        return reloaded

    def _measure(self) -> int:
        served = self.served
        return bytes_held((served.model, served.encoder)) + _onnx_bytes(served.bundle)


def _onnx_bytes(bundle: Bundle) -> int:
    """Size of a bundle's ONNX files, those of added tasks included: about what ONNX Runtime holds of them."""
    own = sum(entry.bytes for name, entry in bundle.manifest.files.items() if Path(name).suffix == f".{ONNX}")
    return own + sum(_size(bundle.path / TASKS / added.task.name / TAIL) for added in bundle.added)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
