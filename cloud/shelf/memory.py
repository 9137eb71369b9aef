"""About the memory that a loaded bundle takes: its numbers, counted once each. Knows no bundle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

_LEAVES = (str, bytes, int, float, bool, type(None))


def bytes_held(thing: object) -> int:
    """Bytes of every array and tensor that can be reached from `thing` by attributes, mappings and sequences.

    What ONNX Runtime holds is not seen; its files' sizes stand for it (`Stock`).
    """
    seen: set[int] = set()
    waiting: list[object] = [thing]
    total = 0
    while waiting:
        one = waiting.pop()
        if isinstance(one, _LEAVES) or id(one) in seen:
            continue
        seen.add(id(one))
        size, key = _own_bytes(one)
        if size is None:
            waiting.extend(_parts(one))
        elif key not in seen:
            seen.add(key)
            total += size
    return total


def _own_bytes(one: object) -> tuple[int | None, int]:
    """The bytes of an array or a tensor, and what names its memory, so that views count once; None for others."""
    if isinstance(one, np.ndarray):
        base = one
        while isinstance(base.base, np.ndarray):
            base = base.base
        return base.nbytes, base.ctypes.data
    storage = getattr(one, "untyped_storage", None)  # torch is not imported for this
    if storage is not None and hasattr(one, "requires_grad"):
        held = storage()
        return held.nbytes(), held.data_ptr()
    return None, 0


def _parts(one: object) -> Iterator[object]:
    """What an object consists of; nothing for classes, functions and modules, which are not its own."""
    if isinstance(one, Mapping):
        yield from one.values()
    elif isinstance(one, list | tuple | set | frozenset):
        yield from one
    elif not isinstance(one, type | ModuleType | FunctionType):
        yield from _attributes(one).values()


def _attributes(one: object) -> dict[str, Any]:
    fields: dict[str, Any] = dict(getattr(one, "__dict__", {}))
    slots: Iterable[str] = getattr(type(one), "__slots__", ())
    names = (slots,) if isinstance(slots, str) else slots
    return fields | {name: getattr(one, name, None) for name in names if not name.startswith("__")}
