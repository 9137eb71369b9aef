"""Renders a set of rooms to disk, in this process or in several; finishes a set that was begun.

    index.json -> shards that are missing or damaged -> each: its rooms rendered, its files written and renamed

Ctrl-C and SIGTERM end it at once, between any two instructions: a shard is there or not. Where processes render, this
one only waits for them, so that no compilation and no numpy call keeps it from hearing a signal.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any

import numpy as np

from shared.errors import DataError, Interruption
from train.rooms.dataset import (
    INDEX_NAME,
    LAYER_TYPES,
    LAYERS,
    RoomsIndex,
    check_layers,
    is_complete,
    read_index,
    shard_file,
)
from train.rooms.sample import RENDERER_VERSION, RoomSample, check_size, render
from train.rooms.scene import SEED_MAX
from train.rooms.sequence import EVENT_NAMES, check_sequence, render_sequence

Progress = Callable[[int, int], None]
_PARTIAL = ".partial"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def write_rooms(
    directory: Path | str,
    seeds: range,
    *,
    height: int = 256,
    width: int = 256,
    layers: Sequence[str] = LAYERS,
    shard_size: int = 1000,
    workers: int = 0,
    progress: Progress | None = None,
    frames: int = 1,
    fps: float = 5.0,
    motion: str = "mixed",
) -> RoomsIndex:
    """Renders the rooms of `seeds` into a set on disk, and finishes a set that was begun.

    shard_size: seeds in a shard. workers: processes that render; 0 renders in this one.
    frames: of each seed's sequence; 1 renders single rooms. fps, motion: see `render_sequence`.
    progress: called with the number of images on disk and of all, at the start and after each shard.

    Raises ValueError for bad arguments and if `directory` holds a set of other seeds, size, layers or renderer,
    OSError where the disk fails, DataError if a process that renders is killed, and Interruption.
    """
    directory = Path(directory)
    index = _checked_index(seeds, height, width, layers, shard_size, workers)
    check_sequence(frames, fps, motion)
    if frames > 1:
        index = replace(index, frames=frames, fps=float(fps), motion=motion, events=EVENT_NAMES)
    _begin(directory, index)
    missing = [shard for shard in range(index.shards) if not is_complete(directory, index, shard)]
    done = index.images - sum(len(index.shard_seeds(shard)) for shard in missing) * index.frames

    def report(images: int) -> None:
        nonlocal done
        done += images
        if progress is not None:
            progress(done, index.images)

    try:
        with _stopped_by_signals():
            report(0)
            if workers and missing:
                _render_in_processes(directory, index, missing, workers, report)
            else:
                for shard in missing:
                    report(_write_shard(directory, index, shard))
    except _Stop as stop:
        images = "rooms" if index.frames == 1 else "frames"
        raise Interruption(
            f"interrupted: {done} of {index.images} {images} are kept in {directory}; "
            "run the same command again to go on",
            stop.number,
        ) from None
    finally:
        _remove_partial(directory)
    return index


def _checked_index(
    seeds: range, height: int, width: int, layers: Sequence[str], shard_size: int, workers: int
) -> RoomsIndex:
    """The index of the set that is to be made. Raises ValueError."""
    if not len(seeds) or seeds.step != 1 or seeds.start < 0 or seeds[-1] > SEED_MAX:
        raise ValueError(f"seeds are a range with step 1, not empty, within 0 .. 2**63 - 1; got {seeds}")
    if shard_size < 1 or workers < 0:
        raise ValueError(f"shard_size is at least 1 and workers 0, got {shard_size} and {workers}")
    check_size(height, width)
    chosen = check_layers(layers)
    return RoomsIndex(RENDERER_VERSION, height, width, chosen, seeds.start, len(seeds), shard_size)


def _begin(directory: Path, index: RoomsIndex) -> None:
    """Makes the folder with its index. Raises ValueError if it holds another set."""
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file; a set is a folder")
    if (directory / INDEX_NAME).exists():
        differences = read_index(directory).differences(index)
        if differences:
            raise ValueError(
                f"{directory} holds another set ({differences}): choose another folder or delete it"
            )
    directory.mkdir(parents=True, exist_ok=True)
    _remove_partial(directory)
    _write_atomic(directory / INDEX_NAME, lambda file: file.write(index.json()))


def _write_shard(directory: Path, index: RoomsIndex, shard: int) -> int:
    """Renders and writes one shard. Returns the number of its images."""
    arrays = {layer: np.empty(index.shape(layer, shard), LAYER_TYPES[layer]) for layer in index.files}
    row = 0
    for seed in index.shard_seeds(shard):
        event, samples = _rendered(index, seed)
        for frame, sample in enumerate(samples):
            places = {"seed": seed, "frame": frame, "event": event}
            for layer, array in arrays.items():
                array[row] = places[layer] if layer in places else _on_disk(sample, layer)
            row += 1
    for layer, array in arrays.items():
        _write_atomic(shard_file(directory, shard, layer), partial(np.save, arr=array))
    return row


def _rendered(index: RoomsIndex, seed: int) -> tuple[int, Iterable[RoomSample]]:
    """The event and the images of a seed."""
    size = {"height": index.height, "width": index.width}
    if index.frames == 1:
        return 0, [render(seed, **size)]
    sequence = render_sequence(seed, index.frames, fps=index.fps, motion=index.motion, **size)
    return EVENT_NAMES.index(sequence.event), sequence.samples


def _on_disk(sample: RoomSample, layer: str) -> np.ndarray | int:
    value: np.ndarray | int = getattr(sample, layer)
    return np.rint(value * 127.0) if layer == "normals" else value


def _write_atomic(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    # Not `shared.files`: what a killed process leaves must have a name by which it is found and removed.
    temporary = path.with_name(f"{path.name}.{os.getpid()}{_PARTIAL}")
    with open(temporary, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _remove_partial(directory: Path) -> None:
    for stale in directory.glob(f"*{_PARTIAL}"):
        stale.unlink(missing_ok=True)


# Signals.


class _Stop(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Lets SIGINT and SIGTERM raise _Stop in the block; only the first of them, while the block is being left."""

    def stop(number: int, frame: object) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise _Stop(number)

    # Python runs handlers in the main thread only, and `nohup` asks for a signal to be ignored.
    main = threading.current_thread() is threading.main_thread()
    before = {n: signal.getsignal(n) for n in _SIGNALS if main and signal.getsignal(n) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Holds signals back in the block. Processes started in it never get them: a terminal sends them to all."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# Processes.


def _render_in_processes(
    directory: Path, index: RoomsIndex, shards: list[int], workers: int, report: Callable[[int], None]
) -> None:
    """Renders shards in several processes, none of which is left when this returns or raises."""
    # Spawned, not forked: the caller may hold threads of torch.
    context = multiprocessing.get_context("spawn")
    place = context.Value("q", 0)  # of the next shard to take
    running: dict[Connection, Any] = {}

    def start() -> None:
        reader, writer = context.Pipe(duplex=False)
        process = context.Process(
            target=_work, args=(directory, index, shards, place, writer), daemon=True, name="render"
        )
        with _signals_blocked():
            process.start()
            running[reader] = process
        writer.close()

    left_to_start = min(workers, len(shards)) - 1
    try:
        start()
        while running:
            for reader in wait(list(running)):
                assert isinstance(reader, Connection)
                _receive(reader, running, report)
            # Only now, because the first process has compiled the renderer for all of them.
            for _ in range(left_to_start):
                start()
            left_to_start = 0
    finally:
        for process in running.values():
            process.kill()
        for process in running.values():
            process.join()


def _receive(reader: Connection, running: dict[Connection, Any], report: Callable[[int], None]) -> None:
    """Takes one message of a process: a number of images, its error, or its end."""
    try:
        message = reader.recv()
    except EOFError:
        process = running.pop(reader)
        process.join()
        if process.exitcode:
            raise DataError(
                f"a process that renders ended unexpectedly (status {process.exitcode}), perhaps for lack of "
                "memory; run the same command again to go on"
            ) from None
        return
    if isinstance(message, Exception):
        raise message
    report(message)


def _work(directory: Path, index: RoomsIndex, shards: list[int], place: Any, results: Connection) -> None:
    """One process: compiles, then takes the next shard until there is none; sends what `_receive` takes."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        render(index.first_seed, index.height, index.width)
        results.send(0)
        while True:
            with place.get_lock():
                mine, place.value = place.value, place.value + 1
            if mine >= len(shards):
                return
            results.send(_write_shard(directory, index, shards[mine]))
    except Exception as error:  # the parent raises it
        results.send(error)


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone, however it went."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
