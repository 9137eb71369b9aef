"""`isthmus bench video` on small random networks from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

import bench.video.contenders
from bench.video.contenders import IsthmusContender
from bench.video.receiver import Receiver
from shared.bundle import Bundle
from shared.codec.frame import FrameType, Sent
from shared.codec.frame_codec import Latent
from support.processes import refused, run_here
from support.untrained import SIZE, random_network, random_run
from support.videos import scene, write_video
from train.bundle.build import build
from train.data.room_set import RoomSet
from train.rooms import write_rooms

TASKS = ("classification", "normals")
FRAMES, SEQUENCES = 4, 2
DATA = ("static", "door.mp4", "photographs")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("video")
    write_rooms(work / "single", range(10**9, 10**9 + 3), height=SIZE, width=SIZE, layers=("image",))
    sequences = {"layers": ("image", "category", "normals"), "frames": FRAMES, "fps": 5.0}
    seeds = range(10**9, 10**9 + SEQUENCES)
    write_rooms(work / "static", seeds, height=SIZE, width=SIZE, motion="static", **sequences)
    write_rooms(work / "larger", seeds[:1], height=128, width=128, motion="static", **sequences)
    write_video(work / "door.mp4", scene(6), 5)
    (work / "photographs").mkdir()
    for number, image in enumerate(scene(2)):
        Image.fromarray(image).save(work / "photographs" / f"{number}.png")
    networks = [random_network(work / task, task) for task in TASKS]
    random_run(work / "codec", networks, context=True)
    build(work / "codec", work / "bundle", "rooms", RoomSet(work / "single"))
    return work


def options(work: Path, *data: str) -> list[str]:
    networks = [f"--network={work / task}" for task in TASKS]
    given = (f"images:{work / one}" if one == "photographs" else work / one for one in data)
    return ["bench", "video", str(work / "bundle"), *networks, *(f"--data={one}" for one in given)]


@pytest.fixture(scope="module")
def results(work: Path) -> dict:
    flags = ("--quick", "--device", "cpu", "--out", work / "run")
    done = run_here(*options(work, *DATA), *flags)
    assert done.returncode == 0, done.stderr
    return json.loads((work / "run" / "results.json").read_text())


def test_every_contender_on_every_footage(work: Path, results: dict) -> None:
    assert [(one["name"], one["kind"], one["motion"]) for one in results["footage"]] == [
        ("static", "rooms", "static"),
        ("door", "clip", ""),
        ("photographs", "photographs", ""),
    ]
    rooms, clip, photographs = results["footage"]
    assert (rooms["sequences"], rooms["frames"], rooms["labelled"]) == (2, 8, sorted(TASKS))
    assert (clip["sequences"], clip["frames"], clip["labelled"]) == (1, 6, [])
    assert (photographs["sequences"], photographs["frames"], photographs["labelled"]) == (2, 24, [])
    for one in results["footage"]:
        assert [result["family"] for result in one["results"]] == ["isthmus", "video", "feature", "image"]
        for result in one["results"]:
            for setting in result["settings"]:
                assert set(setting["metrics"]) == set(TASKS)
                count = one["sequences"]
                whole = (setting["first"] * count + setting["rest"] * (one["frames"] - count)) / one["frames"]
                assert setting["mean"] == pytest.approx(whole)
    assert clip["plain"]["classification"]["top1"] == 1
    assert (work / "run" / "video.png").read_bytes().startswith(b"\x89PNG")
    assert "### static: 8 frames of 2 at 5 a second" in (work / "run" / "results.md").read_text()


def test_a_session_costs_less_than_frames_alone_and_holding_still_less(results: dict) -> None:
    settings = {one["name"]["text"]: one for one in results["footage"][0]["results"][0]["settings"]}
    alone, *holds = (
        settings[f"quality {results['quality']}, {how}"] for how in ("I alone", "hold 0", "hold 0.3")
    )
    assert results["sticky"]
    assert results["predicts"]
    assert alone["kinds"] == {"I": 8}
    assert all(one["kinds"]["I"] < 8 for one in holds)
    assert alone["mean"] > holds[0]["mean"] >= holds[1]["mean"]
    targets = {one["what"]: one for one in results["targets"]}
    assert targets["static: bytes a frame, all tasks"]["met"] in (True, False)
    assert len(targets) == 5


def test_a_frame_that_is_asked_for_as_an_i_counts_twice(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the check of a frame holds for two references by chance."""
    lost: list[int] = []

    class Deaf(Receiver):
        def receive(self, number: int, data: bytes) -> Latent | None:
            if not lost and Sent.unpack(data).frame.type is not FrameType.I:
                lost.append(len(data))
                return None
            return super().receive(number, data)

    contender = IsthmusContender(Bundle.open(work / "bundle"), "cpu", (50,), (0.3,))
    pixels = np.stack(scene(6))
    _, usual = contender.coded(pixels, 5.0)
    monkeypatch.setattr(bench.video.contenders, "Receiver", Deaf)
    _, asked = contender.coded(pixels, 5.0)
    assert asked.kinds["I"] == usual.kinds["I"] + 1
    assert asked.sizes[0] == usual.sizes[0]
    assert asked.sizes[1] > usual.sizes[1] == lost[0]


def test_what_was_measured_is_not_measured_again(work: Path, results: dict) -> None:
    part = work / "run" / "parts" / "static-x265-of-the-picture.json"
    record = json.loads(part.read_text())
    record["measured"]["about"] = "as it was kept"
    part.write_text(json.dumps(record))
    done = run_here(*options(work, *DATA), "--quick", "--device", "cpu", "--out", work / "run")
    assert done.returncode == 0, done.stderr
    again = json.loads((work / "run" / "results.json").read_text())
    assert again["footage"][0]["results"][1]["about"] == "as it was kept"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (("single",), "holds single rooms; render with --frames 2 or more (--data)"),
        (("larger",), f"has images of another size than the bundle's {SIZE} x {SIZE} (--data)"),
        (("static", "static"), "two of the data sets are called static; rename one (--data)"),
        (("nothing.mp4",), "no such file"),
    ],
)
def test_data_that_cannot_be_measured(work: Path, data: tuple[str, ...], message: str) -> None:
    assert message in refused(*options(work, *data), "--out", work / "refused", status=2)


def test_holds_that_cannot_be(work: Path) -> None:
    line = refused(*options(work, "static"), "--out", work / "refused", "--hold", "0,x", status=2)
    assert line == "'0,x': give numbers from 0 to 4, comma-separated (--hold)"
