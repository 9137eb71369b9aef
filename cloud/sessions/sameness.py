"""Whether two frames' results say the same, to the measure of the reply policy "changes". Knows no session.

Scores count in steps of 1/100, other numbers in steps of 1/50. Classes whose number rounds to nothing, and the order of
the others after the best, come and go with the camera's noise and do not count. Maps are not compared.
"""

from __future__ import annotations

import hashlib
from typing import Any

from shared.frozen import Frozen
from shared.session_packets import Answered

SCORE_STEPS, OTHER_STEPS = 100, 50


def essence(answer: Answered) -> bytes:
    """A digest that two answers share if they say the same."""
    parts = sorted((name, _rounded(result)) for name, result in answer.results.items())
    return hashlib.sha256(repr((parts, answer.missing)).encode()).digest()[:16]


def _rounded(value: Any, name: str = "") -> Any:
    """A value as tuples of numbers and texts."""
    if isinstance(value, Frozen):
        return tuple((field, _rounded(part, field)) for field, part in value if field != "map")
    if isinstance(value, float):
        return round(value * (SCORE_STEPS if name == "score" else OTHER_STEPS))
    if isinstance(value, tuple):
        indexed = [part for part in value if hasattr(part, "index") and isinstance(part, Frozen)]
        if indexed and len(indexed) == len(value):
            best = getattr(indexed[0], "index", None)
            return best, sorted(one for one in map(_rounded, indexed) if _counts(one))
        return tuple(_rounded(part, name) for part in value)
    return value


def _counts(one: tuple[tuple[str, Any], ...]) -> bool:
    """Whether a class has a number above nothing."""
    return any(part for field, part in one if field in ("score", "share"))
