"""Eight cameras at five images a second: none starves another, and memory does not grow.

`python -m pytest -m slow -s tests/edge/box/test_box_cameras.py` takes ten minutes and prints what it found;
`python -m support.many_cameras FOLDER --minutes 2` is the same for another time.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from support.many_cameras import measure


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_minutes(tmp_path: Path) -> None:
    found = measure(tmp_path, cameras=8, minutes=10)
    print(found.text)
    assert min(found.accepted) > 0.7 * max(found.accepted)
    assert found.memory_end < 1.1 * found.memory_minute_1
