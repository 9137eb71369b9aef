"""The image quality that does as well as Isthmus, read from a rate bench."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.latency.equal_quality import equal_quality
from shared.errors import DataError


def rate_results(path: Path, top1: list[float], own: float) -> Path:
    def contender(name: str, settings: dict[str, float]) -> dict[str, object]:
        return {
            "name": name,
            "family": "image",
            "about": "",
            "together": True,
            "images": 9,
            "settings": [
                {
                    "name": name,
                    "bytes": {"classification": 1.0},
                    "metrics": {"classification": {"top1": top}},
                }
                for name, top in settings.items()
            ],
        }

    ladder = dict(zip(("quality 10", "quality 50", "quality 90"), top1, strict=True))
    contenders = [contender("Isthmus", {"quality 90": own}), contender("JPEG", ladder)]
    path.write_text(json.dumps({"default": "quality 90", "contenders": contenders}))
    return path


@pytest.mark.parametrize(
    ("top1", "own", "quality"),
    [
        ([0.5, 0.7, 0.9], 0.8, 70),  # half way between two settings
        ([0.5, 0.7, 0.9], 0.4, 10),
        ([0.5, 0.7, 0.9], 0.95, 90),  # none is as good
        ([0.5, 0.9, 0.8], 0.85, 45),  # noise above counts nothing
    ],
)
def test_equal_quality_is_read_from_a_rate_bench(
    tmp_path: Path, top1: list[float], own: float, quality: int
) -> None:
    assert equal_quality(rate_results(tmp_path / "results.json", top1, own), "JPEG") == pytest.approx(
        quality, abs=1
    )


def test_what_is_no_rate_bench_is_refused(tmp_path: Path) -> None:
    path = rate_results(tmp_path / "results.json", [0.5, 0.7, 0.9], 0.8)
    with pytest.raises(DataError, match="no results for Isthmus and AVIF"):
        equal_quality(path, "AVIF")
    path.write_text("[]")
    with pytest.raises(DataError, match=r"is not a results\.json"):
        equal_quality(path, "JPEG")
