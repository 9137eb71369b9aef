"""What the requests of a load ask for."""

from __future__ import annotations

from dataclasses import dataclass

from shared.bundle import Bundle
from shared.kinds import KINDS
from shared.types import Maps


@dataclass(frozen=True)
class Workload:
    """What every request of a load asks for. tasks: by name."""

    name: str
    tasks: tuple[str, ...]
    maps: Maps = "none"


def workloads(bundle: Bundle, quick: bool) -> list[Workload]:
    """All tasks without maps; where there are maps, all tasks with them; and the first task without a map alone."""
    names = tuple(task.name for task in bundle.tasks)
    everything = [Workload("all tasks", names)]
    if quick:
        return everything
    if any(KINDS[task.kind].mapped for task in bundle.tasks):
        everything.append(Workload("all tasks, PNG maps", names, "png"))
    alone = [task.name for task in bundle.tasks if not KINDS[task.kind].mapped]
    if alone and len(names) > 1:
        everything.append(Workload(f"{alone[0]} alone", (alone[0],)))
    return everything
