"""The threads that share a batch on a CPU. Knows no job and no model.

    batch -> pieces -> each through decoding, networks and results in one thread, on its share of the cores

Pieces side by side use the cores for everything that a batch takes, where torch's own threads help its networks alone,
and wait for each other after each layer. Few images at a time also stay in the caches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")

TORCH_THREADS = torch.get_num_threads()  # its own choice, before anybody changed it
PIECE_MAX = 4  # images; on 2 cores of an AMD EPYC the networks of `rooms` took 16 ms an image by 4, 20 by 16


class Crew:
    """threads: of the whole crew; 1 divides nothing."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="crew") if threads > 1 else None

    def run(self, work: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item]) -> list[Result]:
        """The results of `work` on pieces of the items, in order. Raises what `work` raises."""
        if self._pool is None or len(items) == 1:
            _use_threads(self.threads)
            return list(work(items))
        size = min(PIECE_MAX, -(-len(items) // self.threads))
        pieces = [items[start : start + size] for start in range(0, len(items), size)]
        each = max(1, self.threads // len(pieces))

        def one(piece: Sequence[Item]) -> Sequence[Result]:
            _use_threads(each)
            return work(piece)

        return [result for results in self._pool.map(one, pieces) for result in results]


def _use_threads(count: int) -> None:
    """torch's threads for the calling thread."""
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


def keep_numpy_to_one_thread() -> None:
    """Keeps numpy's matrix products in the thread that calls them.

    OpenBLAS's threads spin for a while after each product, on cores that the networks need: with two of them the class
    alone took 14 ms of processor time instead of 5.
    """
    for library in ThreadpoolController().lib_controllers:
        if library.user_api == "blas" and "numpy" in library.filepath:
            library.set_num_threads(1)
