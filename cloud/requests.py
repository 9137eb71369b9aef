"""What is checked of a request before any work: its bytes, its grid, its tasks. Knows no queue and no model.

A request by itself may be a bitstream of version 1, or a packet of version 2 whose frame needs no other: an I, whole or
its base alone. What a base cannot answer is an error if it was asked for by name, and a warning if all was asked.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from cloud.engine.batch_work import Served
from shared.bundle import Bundle
from shared.codec.bitstream import Bitstream
from shared.codec.frame import Packet
from shared.codec.frame_codec import Coded
from shared.errors import BundleMismatchError, RequestError, StreamTooLargeError
from shared.kinds import KINDS
from shared.types import BundleInfo, TaskQuery, Wanted


class Bundles(Protocol):
    """What the pipeline needs of `cloud.shelf.shelf.Shelf`."""

    def use(self, mark: bytes) -> AbstractAsyncContextManager[Served]:
        """mark: as in a bitstream's header. Raises BundleMismatchError or NotReadyError."""

    def use_default(self) -> AbstractAsyncContextManager[Served]:
        """Raises NotReadyError."""

    def infos(self) -> list[BundleInfo]:
        """The default first."""

    def marks(self) -> Iterable[bytes]:
        """The fingerprints of all, as in a bitstream's header."""


class Assigner(Protocol):
    """What the pipeline needs of `cloud.shelf.rollout.Rollout`."""

    def wanted(self, camera: str, running: str, trouble: str = "") -> str:
        """The fingerprint of the bundle that a camera should run, hex; empty: the one that it runs."""


class RecordSink(Protocol):
    """What the pipeline needs of `cloud.archive.archive.Archive`."""

    def append(
        self,
        camera: str,
        received_at: datetime,
        request_id: str,
        data: bytes,
        captured_at: datetime | None = None,
        chunk: str = "",
    ) -> bool:
        """Never waits and never raises. chunk: id of the frame I that this one's references go back to."""

    @property
    def trouble(self) -> str:
        """Why the last records were not kept; empty if they were."""

    def flush(self, timeout_s: float | None = None) -> bool:
        """Waits until what was appended before is on the disk, or dropped. False: not within the time."""


@dataclass(frozen=True)
class Asked:
    """A bitstream of either version, checked, and what it is asked. missing: tasks that its base does not answer."""

    source: Bitstream | Coded
    queries: tuple[TaskQuery, ...]
    missing: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        return base_warnings(self.missing)


def base_warnings(missing: tuple[str, ...]) -> tuple[str, ...]:
    """What an answer says of tasks that its base does not answer."""
    if not missing:
        return ()
    return (f"only the base of this image was sent; tasks that need the rest: {', '.join(missing)}",)


def read_request(
    stream: Bitstream | Packet, wanted: Wanted, bundle: Bundle, base_tasks: Collection[str], cells_max: int
) -> Asked:
    """Checks a request's bytes, and says what to answer.

    base_tasks: those that a base alone answers. cells_max: of a latent grid.

    Raises StreamTooLargeError, BundleMismatchError, UnknownTaskError, or RequestError.
    """
    if isinstance(stream, Packet):
        source = _read_packet(stream, bundle)
        check_grid(source.grid, bundle, cells_max)
        if not source.has_z:
            queries, missing = split_for_base(queries_of(bundle, wanted), base_tasks)
            check_base(queries, missing, wanted)
            return Asked(source, queries, missing)
        return Asked(source, queries_of(bundle, wanted))
    _check_bundle(stream.fingerprint, stream.quality, bundle)
    check_grid((stream.h, stream.w), bundle, cells_max)
    return Asked(stream, queries_of(bundle, wanted))


def _read_packet(packet: Packet, bundle: Bundle) -> Coded:
    frame = packet.frame
    _check_bundle(packet.fingerprint, frame.quality, bundle)
    if frame.needs_reference:
        raise RequestError(
            f"a frame {frame.name} needs another frame, and a request by itself has none; send a frame I, "
            "or send it in a session"
        )
    return Coded.of(frame, packet.grid or own_grid(bundle))


def _check_bundle(mark: bytes, quality: int, bundle: Bundle) -> None:
    if mark != bundle.fingerprint:
        raise BundleMismatchError(mark.hex(), bundle.fingerprint.hex())
    bundle.quality(quality)


def check_base(queries: tuple[TaskQuery, ...], missing: tuple[str, ...], wanted: Wanted) -> None:
    """Raises RequestError where a base cannot answer what is asked of it by name, or nothing at all."""
    if missing and wanted.tasks:
        raise RequestError(
            f"only the base of this image was sent, and it does not answer {', '.join(missing)}; send the whole image"
        )
    if not queries:
        raise RequestError(
            "only the base of this image was sent, and it answers none of this bundle's tasks; send the whole image"
        )


def own_grid(bundle: Bundle) -> tuple[int, int]:
    """h, w of the latent of the bundle's own image size."""
    h, w = bundle.manifest.codec.get("grid", (1, 1))
    return h, w


def check_grid(grid: tuple[int, int], bundle: Bundle, cells_max: int) -> None:
    """Raises StreamTooLargeError. A small stream may claim a large grid; the bundle's own is always allowed."""
    cells_max = max(cells_max, math.prod(own_grid(bundle)))
    if math.prod(grid) > cells_max:
        raise StreamTooLargeError(
            f"a latent grid of {grid[0]} x {grid[1]}; this server answers {cells_max} cells at most"
        )


def queries_of(bundle: Bundle, wanted: Wanted) -> tuple[TaskQuery, ...]:
    """The tasks to run. Raises UnknownTaskError, or RequestError for a task named twice or an impossible map."""
    queries = wanted.tasks or tuple(
        TaskQuery(name=task.name, top_k=wanted.top_k, maps=wanted.maps) for task in bundle.tasks
    )
    for query in queries:
        task = bundle.task(query.name)
        if query.maps != "none":
            KINDS[task.kind].check_maps(task.name, task.labels)
    if len({query.name for query in queries}) < len(queries):
        raise RequestError("a task is named twice")
    return queries


def split_for_base(
    queries: tuple[TaskQuery, ...], base_tasks: Collection[str]
) -> tuple[tuple[TaskQuery, ...], tuple[str, ...]]:
    """The queries that a base answers, and the names of the others."""
    answered = tuple(query for query in queries if query.name in base_tasks)
    return answered, tuple(query.name for query in queries if query.name not in base_tasks)
