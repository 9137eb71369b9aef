"""What `isthmus bench photos` measures."""

from __future__ import annotations

from bench.report.rate_results import ContenderResult
from bench.report.report import About
from bench.video.results import Video
from shared.types import Frozen, TaskKind


class PhotoSet(Frozen):
    """All contenders on one set. Their metrics are agreement with the uncompressed networks; those of `labelled` tasks
    have the labels' own besides."""

    name: str
    images: int
    labelled: tuple[str, ...]
    results: tuple[ContenderResult, ...]


class EdgeCost(Frozen):
    """Of one core: median ms from an image file's bytes to a bitstream, or to every whole network's output, and the
    memory of a process that does nothing else."""

    encode_ms: float
    encode_mb: float
    local_ms: float
    local_mb: float


class Photos(Frozen):
    """default: name of the setting of the default quality. skipped: why a contender could not be measured, by name."""

    about: About
    bundle: str
    kinds: dict[str, TaskKind]
    default: str
    sets: tuple[PhotoSet, ...]
    clips: Video | None
    edge: EdgeCost
    skipped: dict[str, str]
