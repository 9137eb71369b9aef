"""Inspects an image: its answers as pictures, where its bits went, and what JPEG would take. Knows no transport.

    file -> read_image -> fit -> Encoder -> bitstream -> Pipeline.analyze -> results -> views
                             |          -> latent --> FrameCodec.cell_bits
                             |-> JPEG at three qualities

Nothing of it reaches the archive. Whoever asks for another quality sends the fitted image back, which is small and
gives the same bitstream as the file would.

Legend: h x w latent grid.
"""

from __future__ import annotations

import asyncio
import io
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

from PIL import Image
from pydantic import Field

from cloud.engine.batch_work import Served
from cloud.engine.batcher import within
from cloud.pipeline import Pipeline
from shared.bundle import Bundle, Task
from shared.encoder import Encoded, Encoder
from shared.errors import RequestError, UnknownBundleError
from shared.frozen import Frozen
from shared.image import fit, read_image, view_of
from shared.kinds import KINDS
from shared.kinds.kind import Result, map_of
from shared.maps import Colour, MapPng, png
from shared.types import Analysis, TaskQuery, Wanted

# Names and qualities as Pillow counts them: a thumbnail's, a web page's, a camera's.
JPEG_QUALITIES = (("low", 10), ("medium", 50), ("high", 90))


class JpegSize(Frozen):
    name: str
    quality: int = Field(ge=1, le=100, description="as Pillow and libjpeg count it")
    bytes: int = Field(ge=0, description="of a whole JPEG file of the fitted image")


class CellBits(Frozen):
    """Where the bits went: ideal code lengths, within a few bits of the real ones."""

    rows: int
    columns: int
    v: float = Field(description="bits of the hyperprior, which belongs to no cell")
    z: tuple[float, ...] = Field(description="bits of each cell of the latent grid, row by row")


class LegendEntry(Frozen):
    label: str
    index: int
    colour: Colour


class TaskView(Frozen):
    """One task's answer, ready to be looked at. lines: for a person. image: RGB, absent for kinds without maps."""

    kind: str
    lines: tuple[str, ...]
    image: MapPng | None = None
    legend: tuple[LegendEntry, ...] = ()


class Inspection(Frozen):
    analysis: Analysis = Field(description="the answer, without maps: `views` has them")
    views: dict[str, TaskView] = Field(description="by the task's name")
    bits: CellBits
    jpeg: tuple[JpegSize, ...]
    file_bytes: int = Field(description="of the body that was sent")
    image: MapPng | None = Field(
        default=None, description="as the network saw it; absent where it was sent like that"
    )


@dataclass(frozen=True)
class _Read:
    """What one image gives before it is answered. image: None if it was sent fitted."""

    encoded: Encoded
    bits: CellBits
    jpeg: tuple[JpegSize, ...]
    image: MapPng | None


class Inspector:
    """Inspects images, one at a time: people look at the newest, and the rest of the machine serves cameras."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inspect")

    async def inspect(
        self,
        pipeline: Pipeline,
        data: bytes,
        request_id: str,
        quality: int | None,
        fitted: bool,
        bundle: str = "",
    ) -> Inspection:
        """Inspects an image file's bytes.

        quality: None for the bundle's default. fitted: see `Encoder.read`. bundle: see `using`.

        Raises what `Pipeline.analyze_image` raises, and UnknownBundleError. A call that is cancelled before its turn
        costs nothing.
        """
        async with using(pipeline, bundle) as served:
            assert served.encoder is not None  # as for every bundle of a server
            return await self._inspect(pipeline, served, served.encoder, data, request_id, quality, fitted)

    async def _inspect(
        self,
        pipeline: Pipeline,
        served: Served,
        encoder: Encoder,
        data: bytes,
        request_id: str,
        quality: int | None,
        fitted: bool,
    ) -> Inspection:
        loop = asyncio.get_running_loop()
        async with within(None, pipeline.settings.deadline_ms / 1e3):
            read = await loop.run_in_executor(self._thread, _read, encoder, data, quality, fitted)
        wanted = Wanted(tasks=every_task(served.bundle))
        analysis = await pipeline.analyze(read.encoded.data, wanted, request_id, keep=False)
        views = await loop.run_in_executor(self._thread, view_all, analysis.results)
        shown = _shown(analysis, read.encoded)
        return Inspection(
            analysis=shown,
            views=views,
            bits=read.bits,
            jpeg=read.jpeg,
            file_bytes=len(data),
            image=read.image,
        )


def using(pipeline: Pipeline, bundle: str) -> AbstractAsyncContextManager[Served]:
    """What is asked of a bundle. bundle: fingerprint, 8 hex digits; empty: the default. Raises UnknownBundleError."""
    if not bundle:
        return pipeline.bundles.use_default()
    known = [info.fingerprint for info in pipeline.infos()]
    if bundle not in known:
        raise UnknownBundleError(bundle, known)
    return pipeline.bundles.use(bytes.fromhex(bundle))


def _shown(analysis: Analysis, encoded: Encoded) -> Analysis:
    """The answer without its maps, and with what the encoder knows of the image."""
    times = encoded.times.model_dump(exclude_none=True)
    return analysis.model_copy(
        update={
            "results": {task: without_map(result) for task, result in analysis.results.items()},
            "times": analysis.times.model_copy(update=times),
            "view": encoded.view,
            "warnings": (*encoded.warnings, *analysis.warnings),
        }
    )


def _read(encoder: Encoder, data: bytes, quality: int | None, fitted: bool) -> _Read:
    """Raises ImageError or a subclass, or RequestError."""
    encoder.bundle.quality(quality)  # before the work
    started, warnings = time.perf_counter(), list[str]()
    image, preprocess = read_image(data, warn=warnings.append), encoder.bundle.manifest.preprocess
    view = None if fitted else view_of(image.size, preprocess)
    if not fitted:
        image = fit(image, preprocess)
    read_ms = (time.perf_counter() - started) * 1e3
    encoded = encoder.encode(image, quality, fitted=True)
    times = encoded.times.model_copy(update={"read_ms": read_ms + (encoded.times.read_ms or 0)})
    cells = encoder.frames.cell_bits(encoded.latent)
    bits_v, _ = encoder.frames.bits(encoded.latent.base)
    rows, columns = cells.shape
    bits = CellBits(rows=rows, columns=columns, v=bits_v, z=tuple(cells.ravel().tolist()))
    done = replace(encoded, times=times, warnings=tuple(warnings), view=view)
    return _Read(done, bits, jpeg_sizes(image), None if fitted else png(image))


def jpeg_sizes(image: Image.Image) -> tuple[JpegSize, ...]:
    """What JPEG takes for an image at each of `JPEG_QUALITIES`, with optimised Huffman tables."""
    sizes = []
    for name, quality in JPEG_QUALITIES:
        out = io.BytesIO()
        image.save(out, "JPEG", quality=quality, optimize=True)
        sizes.append(JpegSize(name=name, quality=quality, bytes=out.tell()))
    return tuple(sizes)


def every_task(bundle: Bundle, maps: bool = True) -> tuple[TaskQuery, ...]:
    """Every task of a bundle; maps: with its map where its kind has one that can be drawn."""
    return tuple(
        TaskQuery(name=task.name, maps="png" if maps and _has_map(task) else "none") for task in bundle.tasks
    )


def _has_map(task: Task) -> bool:
    kind = KINDS[task.kind]
    if not kind.mapped:
        return False
    try:
        kind.check_maps(task.name, task.labels)
    except RequestError:
        return False
    return True


def view_all(results: dict[str, Result]) -> dict[str, TaskView]:
    """The results of every task, ready to be looked at."""
    return {task: view(result) for task, result in results.items()}


def view(result: Result) -> TaskView:
    """One result, ready to be looked at."""
    kind = KINDS[result.kind]
    found = map_of(result)
    legend = tuple(
        LegendEntry(label=label, index=index, colour=colour)
        for index, (colour, label) in kind.legend(result).items()
    )
    image = png(kind.tile(found.file()).convert("RGB")) if isinstance(found, MapPng) else None
    return TaskView(kind=kind.name, lines=tuple(kind.lines(result)), image=image, legend=legend)


def without_map(result: Result) -> Result:
    """The result with its map left out, if it has one."""
    return result if map_of(result) is None else result.model_copy(update={"map": None})
