"""`isthmus bench video`: bytes a second against every task's quality, for what fixed cameras saw.

    BUNDLE, its uncompressed networks, sequences of rooms and clips
        -> each contender on each footage: every frame sent, received and answered (`measure`)
        -> `video_report`

Results of a contender on a footage are kept in OUT/parts, so that an interrupted run goes on with the next.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.progress import Progress

from bench.networks import TaskNetworks
from bench.report.cache import cached
from bench.report.report import About
from bench.video.contenders import (
    FEATURE_QPS,
    JPEG_LADDER,
    VIDEO_QPS,
    Contender,
    FeatureVideoContender,
    IsthmusContender,
    JpegContender,
    VideoContender,
)
from bench.video.footage import Footage, open_footage
from bench.video.measure import measure, measure_plain
from bench.video.results import FootageResult, Video, VideoResult
from bench.video.video_report import write_video
from shared.bundle import Bundle
from shared.errors import DataError
from shared.types import Frozen
from train.loop.distributed import training_device

HOLDS = (0.0, 0.15, 0.3)

T = TypeVar("T")


@dataclass(frozen=True)
class VideoPlan:
    """What is measured.

    networks: folders, one for each task. data: see `open_footage`. count: only the first sequences of each folder, or
    so many that are made from photographs. frames: of a clip, at most. fps: of clips. qualities: the default one is
    always among them. quick: few settings of each contender.
    """

    bundle: Path
    networks: Sequence[str]
    data: Sequence[str]
    out: Path
    qualities: tuple[int, ...] = ()
    holds: tuple[float, ...] = HOLDS
    count: int | None = None
    frames: int = 150
    fps: float = 5.0
    quick: bool = False
    device: str = "auto"


class _Scores(Frozen):
    metrics: dict[str, dict[str, float]]


def bench_video(plan: VideoPlan, command: str) -> Video:
    """Measures, and writes the report to `plan.out`. Raises IsthmusError."""
    bundle = Bundle.open(plan.bundle)
    device = training_device(plan.device)
    networks = TaskNetworks(bundle, plan.networks, device)
    default = bundle.quality(None)
    qualities = tuple(sorted({default, *(bundle.quality(one) for one in plan.qualities)}))
    isthmus = IsthmusContender(bundle, str(device), qualities, plan.holds)
    contenders = [isthmus, *_peers(networks, plan.quick)]
    # All of it before the first is measured, so that a mistake in the last does not cost hours.
    footage = _footage(plan, bundle, networks)
    with Progress() as progress:
        chosen = progress.track(footage, description="footage")
        results = [_measured(plan.out, networks, one, contenders, progress) for one in chosen]
    usual = bundle.hold(None)
    video = Video(
        about=About.now(command, sum(one.frames for one in footage)),
        bundle=bundle.manifest.name,
        kinds=networks.kinds,
        quality=default,
        hold=usual if usual in isthmus.holds else isthmus.holds[-1],
        sticky=isthmus.sticky,
        predicts=isthmus.predicts,
        footage=tuple(results),
    )
    write_video(plan.out, video)
    return video


def _footage(plan: VideoPlan, bundle: Bundle, networks: TaskNetworks) -> list[Footage]:
    """Raises DataError, also for two of one name."""
    labels = {name: bundle.task(name).labels for name in networks.kinds}
    found = [
        open_footage(
            data,
            networks.kinds,
            labels,
            networks.preprocess,
            count=plan.count,
            frames=plan.frames,
            fps=plan.fps,
        )
        for data in plan.data
    ]
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"two of the data sets are called {name}; rename one", setting="data")
    return found


def _peers(networks: TaskNetworks, quick: bool) -> list[Contender]:
    def of(ladder: tuple[int, ...]) -> tuple[int, ...]:
        return _few(ladder) if quick else ladder

    return [
        VideoContender(networks, of(VIDEO_QPS)),
        FeatureVideoContender(networks, of(FEATURE_QPS)),
        JpegContender(networks, of(JPEG_LADDER)),
    ]


def _few(ladder: Sequence[T]) -> tuple[T, ...]:
    """Its first, middle and last step."""
    return ladder[0], ladder[len(ladder) // 2], ladder[-1]


def _measured(
    out: Path,
    networks: TaskNetworks,
    footage: Footage,
    contenders: Sequence[Contender],
    progress: Progress,
) -> FootageResult:
    key = {"networks": networks.cache_key(), **footage.cache_key()}
    task = progress.add_task(footage.name, total=len(contenders))

    def one(contender: Contender) -> VideoResult:
        result = cached(
            _part(out, footage, contender.name),
            {**key, "name": contender.name, "contender": contender.cache_key()},
            VideoResult,
            lambda: measure(contender, networks, footage),
        )
        progress.advance(task)
        return result

    plain = cached(
        _part(out, footage, "uncompressed"),
        key,
        _Scores,
        lambda: _Scores(metrics=measure_plain(networks, footage)),
    )
    return FootageResult(
        name=footage.name,
        kind=footage.kind,
        motion=footage.motion,
        fps=footage.fps,
        sequences=len(footage.sequences),
        frames=footage.frames,
        labelled=tuple(sorted(footage.labelled)),
        plain=plain.metrics,
        results=tuple(map(one, contenders)),
    )


def _part(out: Path, footage: Footage, name: str) -> Path:
    return out / "parts" / f"{re.sub(r'[^A-Za-z0-9]+', '-', f'{footage.name} {name}')}.json"
