"""The model of fleets: its arithmetic, its inputs as their pages have them, and docs/scale.md in step with it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from bench.scale.inputs import INPUTS, inputs_with
from bench.scale.model import SIZES, camera_of, fleet_of, limits_of, lost_zone, year_replay
from bench.scale.page import rewritten
from cloud.settings import SessionSettings
from edge.settings import SessionSettings as EdgeSessionSettings
from shared.errors import DataError
from support.processes import ROOT, refused, run_here

PAGE = ROOT / "docs" / "scale.md"


def test_the_page_is_in_step() -> None:
    text = PAGE.read_text("utf-8")
    assert rewritten(text, INPUTS) == text, "isthmus bench scale --write docs/scale.md"
    with pytest.raises(DataError, match="it must have"):
        rewritten(text.replace("<!-- table: cost -->", ""), INPUTS)


@pytest.mark.parametrize("one", [one for one in INPUTS if one.page], ids=lambda one: one.name)
def test_a_measured_input_stands_in_its_page(one) -> None:
    assert one.quoted in (ROOT / "docs" / "results" / one.page).read_text("utf-8")
    value = f"{100 * one.value:.0f}%" if one.unit == "share" else f"{one.value:g}"
    assert value in one.quoted.replace(",", "")


def test_defaults_are_the_settings() -> None:
    value = {one.name: one.value for one in INPUTS}
    assert value["intra_every_s"] == EdgeSessionSettings().intra_every_s
    assert value["sessions_max"] == SessionSettings().open_max
    assert sorted(one.name for one in INPUTS if one.setting) == [
        "intra_every_s",
        "segment_records",
        "sessions_max",
    ]


def test_one_camera_by_hand() -> None:
    camera = camera_of(inputs_with({"fps": 2, "busy": 0.5, "intra_every_s": 10, "p_busy": 0.4}))
    assert camera.intra == pytest.approx(1 / 20)
    assert camera.predicted == pytest.approx(19 / 20 * 0.2)
    assert camera.intra + camera.predicted + camera.same == pytest.approx(1)
    value = {one.name: one.value for one in INPUTS}
    mean = 19 / 20 * (value["still_up"] + value["busy_up"]) / 2 + value["intra_up"] / 20
    assert camera.up == pytest.approx(16 * (2 * value["tcp_ip"] + mean))
    assert camera.tails == pytest.approx(2 * 0.24 * (value["forward_ms"] + value["results_ms"]) / 1e3)


def test_fleets_grow_in_step_with_cameras() -> None:
    fleets = [fleet_of(INPUTS, cameras) for cameras in SIZES]
    for small, large in pairwise(fleets):
        factor = large.cameras / small.cameras
        assert large.cores == pytest.approx(factor * small.cores)
        assert large.stored_gb == pytest.approx(factor * small.stored_gb)
        assert large.dollars_a_camera <= small.dollars_a_camera
    million = fleets[-1]
    spare = lost_zone(INPUTS, million.cameras)
    # What is left after a zone is lost carries all cameras at the load that was wanted.
    assert million.paid_cores * 2 / 3 * 0.6 >= million.cores
    assert spare.seconds > 0
    assert [one.cameras for one in limits_of(INPUTS)] == sorted(one.cameras for one in limits_of(INPUTS))


def test_a_year_that_never_moves_is_frames_i_alone() -> None:
    still = [replace(one, value=0.0) if one.name == "busy" else one for one in INPUTS]
    year = year_replay(still, 1000, class_alone=True)
    assert year.answers == pytest.approx(year.frames / 60)
    assert year_replay(INPUTS, 1000, class_alone=False).core_hours > year.core_hours


def test_the_command(tmp_path: Path) -> None:
    page = tmp_path / "scale.md"
    page.write_text(PAGE.read_text("utf-8"), "utf-8")
    assert run_here("bench", "scale", "--set", "fps=2", "--write", page).returncode == 0
    assert "| fps | 2 frames/s |" in page.read_text("utf-8")
    assert "a camera" in run_here("bench", "scale").stdout
    for wrong, text in (("fps", "gives no input a value"), ("fps=-1", "above 0"), ("speed=2", "is no input")):
        assert text in refused("bench", "scale", "--set", wrong, status=2)
