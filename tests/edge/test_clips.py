"""Clips: which images they are, as logs of frames, and what is wrong with those that are none."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge.clips import Clip, is_clip
from edge.record import Recorder
from edge.settings import SessionSettings
from shared.bundle import Bundle
from shared.codec.session_log import LogReader
from shared.encoder import Encoder
from shared.errors import ImageError, NotAnImageError, RequestError
from support.levels import write_levels
from support.processes import ROOT, refused, run_here
from support.receiver import Receiver
from support.videos import scene, write_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_levels(tmp_path_factory.mktemp("video") / "bundle", default_quality=30, video=True)


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return Encoder(Bundle.open(folder))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 seconds at 10 images a second."""
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", scene(30), 10)


def times(path: Path, fps: float | None) -> list[int]:
    with Clip(path, fps) as clip:
        return [one.at_ms for one in clip.images()]


def test_the_images_of_a_video(video: Path) -> None:
    assert times(video, None) == list(range(0, 3000, 100))
    assert times(video, 5) == list(range(0, 3000, 200))
    assert times(video, 1) == [0, 1000, 2000]
    assert times(video, 100) == list(range(0, 3000, 100))
    with Clip(video, None) as clip:
        first = next(clip.images()).image
    assert isinstance(first, Image.Image)
    assert (first.mode, first.size) == ("RGB", (64, 64))
    assert np.abs(np.asarray(first).astype(int) - scene(1)[0]).mean() < 3


def test_a_folder_of_images(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    with Clip(tmp_path, 4) as clip:
        images = [(one.at_ms, one.image) for one in clip.images()]
    assert images == [(0, tmp_path / "a.png"), (250, tmp_path / "b.png")]
    assert is_clip(tmp_path, 4)
    assert not is_clip(tmp_path, None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotAnImageError, match="holds no images"):
        Clip(tmp_path / "empty", 4)


def test_what_is_no_video(tmp_path: Path, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotAnImageError, match="no such file"):
        Clip(tmp_path / "nope.mp4", None)
    text = tmp_path / "text.mp4"
    text.write_text("hello")
    with pytest.raises(NotAnImageError, match="no video that can be read here"):
        Clip(text, None)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(RequestError, match=r"PyAV.*pip install av"):
        Clip(video, None)


def test_a_damaged_video(tmp_path: Path, video: Path) -> None:
    """Either fewer images or an error that says from where on; never anything else."""
    data = bytearray(video.read_bytes())
    seen: set[str | bool] = set()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        damaged = data.copy()
        for at in rng.integers(0, len(data), 1 + seed % 5):
            damaged[at] ^= 0xFF
        path = tmp_path / "damaged.mp4"
        path.write_bytes(damaged[: len(data) if seed % 3 else len(data) // 2])
        try:
            times(path, None)
            seen.add("read")
        except ImageError as error:
            seen.add("damaged.mp4" in str(error))
    assert seen == {"read", True}


def test_what_a_log_says_is_what_was_encoded(encoder: Encoder) -> None:
    """Every frame decodes to its z, which lies within its bound of the number before rounding; all types occur."""
    file, kinds = io.BytesIO(), []
    recorder = Recorder(encoder, file, SessionSettings(hold=0.3, intra_every_s=2), session=bytes(16))
    sent = [
        recorder.add(Image.fromarray(one), 200 * n)
        for n, one in enumerate(scene(10) + scene(10, moving=False))
    ]
    log = LogReader(io.BytesIO(file.getvalue()))
    receiver = Receiver(encoder.frames, log.header.key, log.header.grid)
    for record, own, pixels in zip(log, sent, scene(10) + scene(10, moving=False), strict=True):
        got = receiver.receive(record.number, record.data)
        assert got is not None
        assert got.digest == own.latent.digest
        s = encoder.read(Image.fromarray(pixels)).u[0] * np.float32(4)
        assert np.abs(s - got.z).max() <= 0.8 + 1e-4
        assert record.at_ms == 200 * (record.number - 1)
        kinds.append((record.frame.name, record.reference))
    assert {kind for kind, _ in kinds} == {"I", "P", "S"}
    assert kinds[0] == kinds[10] == ("I", None)
    assert all(reference is not None for kind, reference in kinds if kind != "I")


def test_encode_a_clip(tmp_path: Path, folder: Path, video: Path) -> None:
    out = tmp_path / "clip.isthmus"
    done = run_here("edge", "encode", video, "-o", out, "--fps", "5", "--bundle", folder, "--quality", "30")
    assert done.returncode == 0, done.stderr
    assert f"{video} -> {out}: 15 frames (I " in done.stdout
    header, *frames, totals = map(json.loads, run_here("inspect", out, "--json").stdout.splitlines())
    assert header["fingerprint"] == Bundle.open(folder).manifest.fingerprint
    assert [one["at_s"] for one in frames] == [n / 5 for n in range(15)]
    assert frames[0]["type"] == "I"
    assert sum(one["frames"] for one in totals["totals"].values()) == 15


def test_what_is_held_costs_nothing(tmp_path: Path, folder: Path, video: Path) -> None:
    sizes = []
    for hold in ("0", "0.3", "4"):
        command = (
            "edge",
            "encode",
            video,
            "-o",
            tmp_path / "o",
            "--bundle",
            folder,
            "--json",
            "--hold",
            hold,
        )
        told = json.loads(run_here(*command).stdout)
        assert sum(told["frames"].values()) == 30
        sizes.append(told["bytes"])
    assert sizes[0] > sizes[1] > sizes[2]


def test_encode_a_folder_of_images(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "images").mkdir()
    for number, one in enumerate(scene(3, moving=False)):
        Image.fromarray(one).save(tmp_path / "images" / f"{number}.png")
    out = tmp_path / "clip.isthmus"
    done = run_here("edge", "encode", tmp_path / "images", "-o", out, "--fps", "2", "--bundle", folder)
    assert done.returncode == 0, done.stderr
    assert "3 frames" in done.stdout
    assert "in 1.0 s" in done.stdout


def test_encode_a_clip_into_a_pipe(tmp_path: Path, folder: Path, video: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "isthmus",
        "edge",
        "encode",
        str(video),
        "-o",
        "-",
        "--bundle",
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert len(list(LogReader(io.BytesIO(done.stdout)))) == 30
    assert b"30 frames" in done.stderr


def test_a_clip_and_other_options(tmp_path: Path, folder: Path, video: Path, picture: Path) -> None:
    def told(*arguments: str | Path) -> str:
        return refused("edge", "encode", *arguments, "-o", tmp_path / "o", "--bundle", folder, status=2)

    assert told(video, picture) == f"{video} is a clip; name it alone"
    assert "one quality, not one size (--bytes-max)" in told(video, "--bytes-max", "100")
    assert told(picture, "--hold", "0.2").endswith("(--hold)")
    assert told(tmp_path / "nope.mp4") == f"no such file: {tmp_path / 'nope.mp4'}"
    assert not (tmp_path / "o").exists() or not list((tmp_path / "o").iterdir())


def test_a_clip_goes_nowhere_without_a_cloud(folder: Path, video: Path) -> None:
    told = refused("edge", "analyze", video, "--cloud", "127.0.0.1:1", "--bundle", folder, status=1)
    assert "127.0.0.1:1 cannot be reached" in told
