"""What the requests of a load ask for."""

from __future__ import annotations

from dataclasses import dataclass

from shared.bundle import Bundle
from shared.kinds import KINDS
from shared.types import Maps


@dataclass(frozen=True)
class Workload:
    """What every request of a load asks for. tasks: by name. streams: sent over streams, not each as a call."""

    name: str
    tasks: tuple[str, ...]
    maps: Maps = "none"
    streams: bool = False


def workloads(bundle: Bundle, quick: bool) -> list[Workload]:
    """All tasks without maps; where there are maps, all tasks with them; and the first task without a map alone, as
    calls and over streams, which is how cameras send."""
    names = tuple(task.name for task in bundle.tasks)
    everything = [Workload("all tasks", names)]
    if quick:
        return everything
    if any(KINDS[task.kind].mapped for task in bundle.tasks):
        everything.append(Workload("all tasks, PNG maps", names, "png"))
    alone = [task.name for task in bundle.tasks if not KINDS[task.kind].mapped]
    if alone and len(names) > 1:
        name = f"{alone[0]} alone"
        everything += [
            Workload(name, (alone[0],)),
            Workload(f"{name}, over streams", (alone[0],), streams=True),
        ]
    return everything
