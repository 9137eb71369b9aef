"""Made-up measurements of `isthmus bench rooms`, and the targets that were reached."""

from __future__ import annotations

from bench.report.sections import Section
from bench.rooms.parts import Level, MeasuredPart


def codec(rows, lambdas=None, scales=(), default=50) -> MeasuredPart:
    """rows: quality, bytes, {task: (headline metric, distortion)}."""
    keys = {"classification": "top1", "normals": "mean_deg", "segmentation": "miou"}
    levels = tuple(
        Level(
            quality=q,
            bytes=size,
            metrics={t: {keys[t]: value, "distortion": d} for t, (value, d) in tasks.items()},
        )
        for q, size, tasks in rows
    )
    return MeasuredPart(
        what="codec",
        images=9,
        kinds={task: task for task in rows[0][2]},
        uncompressed={},
        levels=levels,
        scales=scales or tuple(1.0 for _ in rows),
        lambdas=lambdas or dict.fromkeys(rows[0][2], 1000.0),
        default_quality=default,
    )


def reached(section: Section) -> dict[str, tuple[str, bool | None]]:
    return {target.what: (target.reached, target.met) for target in section.targets}
