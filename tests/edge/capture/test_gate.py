"""What is worth sending: parts of images, spans of time, rates, motion."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edge.capture.gate import MotionGate, Pace, Rectangle, Schedule, View
from support.videos import scene

MONDAY = datetime(2026, 11, 30)


def test_masks_are_blanked_before_the_region_is_cut() -> None:
    image = Image.new("RGB", (100, 50), (200, 100, 50))
    view = View(Rectangle.of((0.5, 0, 0.5, 1)), (Rectangle.of((0.4, 0, 0.2, 0.5)),))
    seen = view.of(image)
    assert seen.size == (50, 50)
    black = np.asarray(seen).sum(2) == 0
    assert black[:25, :10].all()
    assert black.sum() == 250
    assert image.getpixel((45, 5)) == (200, 100, 50)  # the caller's is as it was
    assert View().of(image) is image


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.integers(1, 4000), st.integers(1, 4000))
def test_a_rectangle_covers_every_pixel_that_it_touches(four: list[float], width: int, height: int) -> None:
    try:
        one = Rectangle.of(four)
    except ValueError:
        assert four[0] + four[2] > 1 or four[1] + four[3] > 1 or not four[2] or not four[3]
        return
    left, upper, right, lower = one.box((width, height))
    assert left <= one.left * width
    assert upper <= one.top * height
    assert right >= (one.left + one.width) * width - 1e-6
    assert lower >= (one.top + one.height) * height - 1e-6
    assert 0 <= left < right <= width + 1
    assert 0 <= upper < lower <= height + 1


def test_schedules() -> None:
    office = Schedule(["mon-fri 08:00-18:00", "sat"])
    assert not office.holds(MONDAY.replace(hour=7, minute=59))
    assert office.holds(MONDAY.replace(hour=8))
    assert not office.holds(MONDAY.replace(hour=18))
    assert office.holds(MONDAY + timedelta(days=5, hours=23))
    assert not office.holds(MONDAY + timedelta(days=6, hours=12))
    night = Schedule(["fri,sun 22:00-06:00"])
    hours = [h for h in range(7 * 24) if night.holds(MONDAY + timedelta(hours=h))]
    assert hours == [*range(6), *range(4 * 24 + 22, 5 * 24 + 6), *range(6 * 24 + 22, 7 * 24)]
    assert Schedule(["sun-tue"]).holds(MONDAY)
    assert Schedule().holds(MONDAY)
    for wrong in ("", "noon", "08:00", "mon-xyz", "08:00-08:00", "08:60-09:00", "25:00-26:00", "1:00-2:00"):
        with pytest.raises(ValueError, match=r"span|days"):
            Schedule([wrong])


def test_rates() -> None:
    def taken(fps: float | None, times: list[float]) -> list[float]:
        pace = Pace(fps)
        return [at for at in times if pace.takes(at)]

    assert taken(2, [n / 10 for n in range(21)]) == [0, 0.5, 1, 1.5, 2]
    assert taken(None, [0, 0, 0]) == [0, 0, 0]
    assert taken(5, [0, 1, 2, 3]) == [0, 1, 2, 3]  # a source that is slower
    assert len(taken(3, [n / 25 for n in range(2500)])) == pytest.approx(300, abs=2)
    assert taken(1, [100, 100.5, 3, 3.5, 4, 4, 900]) == [100, 3, 4, 900]  # a clock that jumps


def test_motion() -> None:
    still, moved = (Image.fromarray(scene(9)[at]) for at in (0, 8))
    gate = MotionGate(0.01, heartbeat_s=60)
    assert gate.takes(still, 0)
    assert not gate.takes(still, 1)
    assert not gate.takes(Image.fromarray(scene(1, moving=False)[0]), 2)
    assert gate.takes(moved, 3)
    assert not gate.takes(moved, 62)
    assert gate.takes(moved, 63)  # the heartbeat
    darker = moved.point(lambda level: max(level - 30, 0))
    assert not gate.takes(darker, 64)
    assert all(MotionGate(None).takes(still, at) for at in (0, 0))


def test_many_small_changes_add_up() -> None:
    """Compared with the last image that was sent, so what moves slowly is seen in the end."""
    gate = MotionGate(0.02, heartbeat_s=1000)
    sent = [at for at, one in enumerate(scene(20)) if gate.takes(Image.fromarray(one), at)]
    assert sent[0] == 0
    assert 2 < len(sent) < 20
