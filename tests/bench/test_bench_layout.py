"""The rooms of bench stand apart: each imports its own modules, and what all of them share."""

from __future__ import annotations

import ast
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench"
SHARED = ("bench.codecs", "bench.report", "bench.link", "bench.networks")
# Put together from others: `photos` measures as `bench rate` and `bench video` do, `replicas` as `bench cloud`.
COMPOSED = {"photos": ("bench.rate", "bench.video", "bench.latency"), "replicas": ("bench.throughput",)}
ROOMS = sorted(path.name for path in BENCH.iterdir() if (path / "__init__.py").exists())


def test_no_room_imports_anothers_internals() -> None:
    assert {"codecs", "latency", "rate", "rooms", "throughput", "video", "wire"} <= set(ROOMS)
    found = []
    for room in ROOMS:
        allowed = (
            ("bench.report",) if room == "report" else (f"bench.{room}", *SHARED, *COMPOSED.get(room, ()))
        )
        for path in (BENCH / room).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                name = node.module if isinstance(node, ast.ImportFrom) else None
                if name and name.startswith("bench") and not name.startswith(allowed):
                    found.append(f"{path.name} imports {name}")
    assert found == []
