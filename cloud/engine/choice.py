"""The engine that a server or a replay asks for. Ray is imported where it is meant, and nowhere else."""

from __future__ import annotations

from types import ModuleType

from shared.errors import RequestError


def import_ray() -> ModuleType:
    """`cloud.engine.ray_engine`, which takes a second. Raises RequestError without the extra `ray`."""
    try:
        from cloud.engine import ray_engine
    except ImportError as error:
        raise RequestError(
            f"the engine ray needs {error.name}; install the extra ray: pip install -e '.[cloud,ray]'",
            setting="engine.kind",
        ) from None
    return ray_engine
