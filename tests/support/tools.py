"""Programs that some tests run and not every machine has."""

from __future__ import annotations

import shutil

import pytest


def promtool() -> str:
    """Prometheus' checker; Debian's package `prometheus` has it. Skips the test where it is absent."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed; Debian's package `prometheus` has it")
    return found
