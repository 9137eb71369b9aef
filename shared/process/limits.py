"""What a container allows this process, which libraries that count the machine's processors do not see."""

from __future__ import annotations

import math
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
_NO_LIMIT = 1 << 60  # version 1 has a number of about 2**63 for it


def cpu_limit(root: Path = CGROUPS) -> int | None:
    """Processors that the process may use on average, rounded up; None without a limit.

    root: where control groups are mounted; version 2 and version 1 are read.
    """
    quota, period = _version_2(root) or _version_1(root) or ("max", "1")
    if not (quota.isdecimal() and period.isdecimal() and int(period)):
        return None  # "max", and -1 in version 1
    return max(1, math.ceil(int(quota) / int(period)))


def memory_limit(root: Path = CGROUPS) -> int | None:
    """Bytes that the process may take before it is killed; None without a limit. root: see `cpu_limit`."""
    given = _read(root / "memory.max") or _read(root / "memory" / "memory.limit_in_bytes")
    if not given.isdecimal() or int(given) >= _NO_LIMIT:
        return None
    return int(given)


def threads_for(limit: int | None, processors: int) -> int | None:
    """The threads of a library that takes `processors` by itself; None where it may."""
    return limit if limit is not None and limit < processors else None


def _version_2(root: Path) -> tuple[str, str] | None:
    words = _read(root / "cpu.max").split()
    return (words[0], words[1]) if len(words) == 2 else None


def _version_1(root: Path) -> tuple[str, str] | None:
    quota, period = (_read(root / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return (quota, period) if quota and period else None


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
