"""`isthmus inspect` and `bundle inspect`."""

from __future__ import annotations

import io
import json
import re
import subprocess
from pathlib import Path

import pytest

from shared.bundle import Bundle
from shared.codec.bitstream import Bitstream
from shared.codec.frame import Frame, FrameType, Packet
from shared.codec.session_log import LogHeader, LogRecord, LogWriter
from support.processes import ISTHMUS, ROOT, refused, run_here

VERSION_1 = Bitstream(b"\xaa\xbb\xcc\xdd", 96, 16, 16, b"\x01\x02", b"\x03")
P_FRAME = Frame(FrameType.P, 96, True, True, b"\x01\x02\x03")


def fields(tmp_path: Path, data: bytes) -> dict[str, object]:
    """What is printed as JSON; the table must have the same names."""
    path = tmp_path / "it.isthmus"
    path.write_bytes(data)
    told: dict[str, object] = json.loads(run_here("inspect", path, "--json").stdout)
    shown = run_here("inspect", path).stdout
    assert all(re.search(rf"^{re.escape(name)} ", shown, re.MULTILINE) for name in told)
    return told


def test_every_field_of_version_1(tmp_path: Path) -> None:
    data = VERSION_1.pack()
    assert fields(tmp_path, data) == {
        "magic": "0xb7",
        "version": 1,
        "fingerprint": "aabbccdd",
        "quality": 96,
        "h": 16,
        "w": 16,
        "b_v.bytes": 2,
        "b_z.bytes": 1,
        "crc32": data[-4:][::-1].hex(),
        "total.bytes": 18,
        "b_v": "0102",
        "b_z": "03",
    }


@pytest.mark.parametrize(
    ("frame", "grid", "reference", "layers", "total"),
    [
        (P_FRAME, None, bytes(range(8)), ["v", "z"], 22),
        (Frame(FrameType.I, 96, True, False, b"\x01\x02\x03"), (16, 200), None, ["v"], 17),
        (Frame(FrameType.S, 96, False, False, b""), None, bytes(range(8)), [], 19),
    ],
)
def test_every_field_of_version_2(
    tmp_path: Path,
    frame: Frame,
    grid: tuple[int, int] | None,
    reference: bytes | None,
    layers: list[str],
    total: int,
) -> None:
    data = Packet(b"\xaa\xbb\xcc\xdd", frame, grid, reference).pack()
    h, w = grid or (None, None)
    assert fields(tmp_path, data) == {
        "magic": "0xb8",
        "version": 2,
        "fingerprint": "aabbccdd",
        "type": frame.type.name,
        "layers": layers,
        "quality": 96,
        "h": h,
        "w": w,
        "reference": reference.hex() if reference else None,
        "payload.bytes": len(frame.payload),
        "crc32": data[-4:][::-1].hex(),
        "total.bytes": total,
        "payload": frame.payload.hex(),
    }


def test_every_field_of_a_bundle(tiny_bundle: Path, bundle: Bundle) -> None:
    told = json.loads(run_here("inspect", tiny_bundle, "--json").stdout)
    assert told["fingerprint"] == bundle.manifest.fingerprint
    assert {f"file.{name}" for name in bundle.manifest.files} < set(told)
    shown = run_here("inspect", tiny_bundle)
    assert shown.returncode == 0
    assert bundle.manifest.fingerprint in shown.stdout


def a_log() -> bytes:
    header = LogHeader(bytes(range(32)), bytes(range(16)), (16, 16), 1_764_421_200_000_000)
    file = io.BytesIO()
    log = LogWriter(file, header)
    frames = [Frame(FrameType.I, 96, True, True, b"\x01\x02\x03")] + [
        Frame(FrameType.S, 0, False, False, b"")
    ] * 2
    for number, frame in enumerate([*frames, P_FRAME], 1):
        reference = number - 1 if frame.needs_reference else None
        data = frame.pack(header.key, number, bytes(32) if reference else None)
        log.append(LogRecord(number, 200 * number, data, reference))
    return file.getvalue()


def test_a_log_for_a_person(tmp_path: Path) -> None:
    path = tmp_path / "clip.isthmus"
    path.write_bytes(a_log())
    done = run_here("inspect", path)
    assert done.returncode == 0, done.stderr
    head, frames, totals = done.stdout.split("\n\n")
    assert "2025-11-29T13:00:00.000000Z" in head
    assert bytes(range(16)).hex() in head
    assert [line.split() for line in frames.splitlines()] == [
        ["seconds", "number", "type", "quality", "v", "bytes", "reference"],
        ["0.200", "1", "I", "96", "own", "v", "7", "-"],
        ["0.400", "2", "S", "96", "-", "3", "1"],
        ["0.600", "3", "S", "96", "-", "3", "2"],
        ["0.800", "4", "P", "96", "own", "v", "7", "3"],
    ]
    assert [line.split() for line in totals.splitlines()] == [
        ["I", "1", "frames", "7", "bytes", "7.0", "each"],
        ["P", "1", "frames", "7", "bytes", "7.0", "each"],
        ["S", "2", "frames", "6", "bytes", "3.0", "each"],
        ["all", "4", "frames", "20", "bytes", "5.0", "each"],
    ]


def test_a_log_for_a_program(tmp_path: Path) -> None:
    path = tmp_path / "clip.isthmus"
    path.write_bytes(a_log())
    header, *frames, totals = map(json.loads, run_here("inspect", path, "--json").stdout.splitlines())
    assert (header["h"], header["session"]) == (16, bytes(range(16)).hex())
    assert [(one["number"], one["type"], one["reference"]) for one in frames] == [
        (1, "I", None),
        (2, "S", 1),
        (3, "S", 2),
        (4, "P", 3),
    ]
    assert totals["totals"]["S"] == {"frames": 2, "bytes": 6}


def test_a_damaged_log_is_shown_up_to_the_damage(tmp_path: Path) -> None:
    path = tmp_path / "clip.isthmus"
    path.write_bytes(a_log()[:-1])
    done = run_here("inspect", path)
    assert done.returncode == 2
    assert "0.600" in done.stdout
    assert "0.800" not in done.stdout
    assert done.stderr == "isthmus: the record after frame 3: cut off\n"


def test_inspect_reads_a_pipe(stream: Path, tmp_path: Path) -> None:
    log = tmp_path / "clip.isthmus"
    log.write_bytes(a_log())
    for path in (stream, log):
        done = subprocess.run(
            [*ISTHMUS, "inspect", "-", "--json"],
            input=path.read_bytes(),
            capture_output=True,
            timeout=60,
            cwd=ROOT,
        )
        assert done.stdout.decode() == run_here("inspect", path, "--json").stdout


def test_what_is_not_there(tmp_path: Path) -> None:
    assert refused("inspect", tmp_path / "x", status=2) == f"no such file or folder: {tmp_path / 'x'}"
    (tmp_path / "x").write_bytes(b"hello")
    assert "first byte is 0x68" in refused("inspect", tmp_path / "x", status=2)


def test_bundle_inspect_is_inspect_of_a_bundle(tiny_bundle: Path, stream: Path) -> None:
    assert run_here("bundle", "inspect", tiny_bundle) == run_here("inspect", tiny_bundle)
    assert "no bundle at" in refused("bundle", "inspect", stream.parent / "nope", status=2)
