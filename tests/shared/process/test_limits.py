"""A container's limits on processors and memory, as control groups of both versions write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.process.limits import cpu_limit, memory_limit, threads_for


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("200000 100000\n", 2),
        ("150000 100000", 2),
        ("5000 100000", 1),
        ("max 100000", None),
        ("nonsense", None),
    ],
)
def test_version_2(tmp_path: Path, text: str, limit: int | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert cpu_limit(tmp_path) == limit


@pytest.mark.parametrize(("quota", "limit"), [("300000", 3), ("-1", None), ("", None)])
def test_version_1(tmp_path: Path, quota: str, limit: int | None) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert cpu_limit(tmp_path) == limit


def test_no_control_groups(tmp_path: Path) -> None:
    assert cpu_limit(tmp_path) is None


def test_threads_follow_the_limit_where_it_is_less_than_the_machine_has() -> None:
    assert threads_for(2, 8) == 2
    assert threads_for(8, 2) is None
    assert threads_for(None, 2) is None


@pytest.mark.parametrize(
    ("text", "limit"), [("1073741824\n", 1 << 30), ("max\n", None), ("", None), ("x", None)]
)
def test_memory_of_version_2(tmp_path: Path, text: str, limit: int | None) -> None:
    (tmp_path / "memory.max").write_text(text)
    assert memory_limit(tmp_path) == limit


@pytest.mark.parametrize(("text", "limit"), [("268435456\n", 1 << 28), ("9223372036854771712\n", None)])
def test_memory_of_version_1(tmp_path: Path, text: str, limit: int | None) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(text)
    assert memory_limit(tmp_path) == limit


def test_no_control_groups_no_memory_limit(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) is None
