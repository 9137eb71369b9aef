"""The latents that later frames of a session may refer to, with their answers. Bounded; knows no frame and no queue.

Each is found by its digest. The least recently used go first when there are too many, or when they take too much
memory with their answers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from cloud.answer_cache import bytes_of_results
from shared.codec.context import Ints
from shared.codec.frame_codec import Latent
from shared.session_packets import Answered

_HELD_BYTES = 1024  # about what one takes without its numbers and its answer


@dataclass(frozen=True, eq=False)
class Held:
    """One reference. Its integers take the smallest type that holds them.

    root: the number of the frame I that its own references go back to, or its own. answer: None if it was too large to
    keep, or nothing was asked.
    """

    digest: bytes
    root: int
    quality: int
    grid: tuple[int, int]
    v: Ints
    z: Ints | None
    answer: Answered | None = None

    @classmethod
    def of(cls, latent: Latent, root: int, answer: Answered | None) -> Held:
        z = None if latent.z is None else _small(latent.z)
        return cls(latent.digest, root, latent.quality, latent.grid, _small(latent.v), z, answer)

    @property
    def latent(self) -> Latent:
        z = None if self.z is None else self.z.astype(np.int32)
        return Latent(self.v.astype(np.int32), z, self.grid, self.quality)

    @cached_property
    def bytes(self) -> int:
        """About the memory that it takes."""
        numbers = self.v.nbytes + (0 if self.z is None else self.z.nbytes)
        return _HELD_BYTES + numbers + (bytes_of_results(self.answer.results) if self.answer else 0)

    def is_as(self, other: Held) -> bool:
        """Whether every integer is the same."""
        if (self.quality, self.grid) != (other.quality, other.grid) or (self.z is None) != (other.z is None):
            return False
        same_z = self.z is None or other.z is None or np.array_equal(self.z, other.z)
        return same_z and np.array_equal(self.v, other.v)


def _small(numbers: Ints) -> Ints:
    reach = max(abs(int(numbers.min(initial=0))), abs(int(numbers.max(initial=0))))
    kind = np.int8 if reach < 128 else np.int16 if reach < 32_768 else np.int32
    small: Ints = numbers.astype(kind)
    return small


class References:
    """count_max: references at once. bytes_max: about the memory that they take with their answers."""

    def __init__(self, count_max: int, bytes_max: int) -> None:
        self._count_max, self._bytes_max = count_max, bytes_max
        self._held: OrderedDict[bytes, Held] = OrderedDict()  # the last used at the end
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Held]:
        """The last used first."""
        return iter(reversed(self._held.values()))

    def get(self, digest: bytes) -> Held | None:
        return self._held.get(digest)

    def use(self, digest: bytes) -> None:
        """Counts as a use."""
        if digest in self._held:
            self._held.move_to_end(digest)

    def put(self, held: Held) -> None:
        """Keeps a reference; one of the same digest is replaced.

        Should two latents have one digest, neither can be meant by it, and both are dropped.
        """
        before = self._held.pop(held.digest, None)
        if before is not None:
            self.bytes -= before.bytes
            if not before.is_as(held):
                return
        if held.bytes > self._bytes_max:
            held = replace(held, answer=None)
        if held.bytes > self._bytes_max:
            return
        self._held[held.digest] = held
        self.bytes += held.bytes
        while len(self._held) > self._count_max or self.bytes > self._bytes_max:
            _, oldest = self._held.popitem(last=False)
            self.bytes -= oldest.bytes
