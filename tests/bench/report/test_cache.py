"""Cached measurements: taken from their file for the same key, measured anew for anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.report.cache import cached
from shared.types import Frozen


class Value(Frozen):
    number: int


def measure(path: Path, key: dict[str, object], number: int) -> int:
    return cached(path, key, Value, lambda: Value(number=number)).number


def test_the_same_key_is_measured_once(tmp_path: Path) -> None:
    path = tmp_path / "parts" / "one.json"
    assert measure(path, {"ladder": (1, 2), "by": {3: "x"}}, 7) == 7
    assert measure(path, {"ladder": (1, 2), "by": {3: "x"}}, 8) == 7
    assert measure(path, {"ladder": (1, 3), "by": {3: "x"}}, 9) == 9
    assert measure(path, {"ladder": (1, 2), "by": {3: "x"}}, 10) == 10


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"key": {"a": 1}, "measured": {"other": 1}}'])
def test_a_file_that_cannot_be_read_is_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "one.json"
    path.write_text(text)
    assert measure(path, {"a": 1}, 5) == 5
    assert measure(path, {"a": 1}, 6) == 5
