"""Files that are answered without a server: bitstreams, packets that need each other, logs of frames."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cloud.archive.decode_files import FileAnswer, FileDecoder
from cloud.archive.frames import FrameReader
from cloud.engine.batch_work import Served
from shared.bundle import Bundle
from shared.codec.bitstream import Bitstream
from shared.codec.frame import Frame, FrameType, Packet
from shared.codec.latent_codec import LatentCodec
from shared.codec.session_log import LogHeader, LogReader, LogRecord, LogWriter
from shared.errors import (
    BundleMismatchError,
    ChecksumError,
    IsthmusError,
    MissingReferenceError,
    RequestError,
)
from shared.types import Analysis, Wanted
from support.coded_sessions import (
    GRID,
    LATENT_CODEC,
    MARK,
    CodedSession,
    NamingModel,
    label_of,
    made_up_bundle,
)
from support.processes import run_here


def decoder(model: NamingModel | None = None, wanted: Wanted = Wanted(), **changed: Any) -> FileDecoder:
    bundle = made_up_bundle()
    for name, value in changed.items():
        setattr(bundle.manifest, name, value)
    return FileDecoder(Served(bundle, model or NamingModel()), wanted, 64)


def label(answer: FileAnswer) -> str:
    assert isinstance(answer.analysis, Analysis), answer.analysis
    found: Any = answer.analysis.results["classification"]
    return str(found.top[0].label)


def write(folder: Path, session: CodedSession, records: list[Any]) -> list[Path]:
    paths = [folder / f"{i:03}.isthmus" for i in range(len(records))]
    for path, record in zip(paths, records, strict=True):
        path.write_bytes(record.data)
    return paths


def test_packets_find_what_they_need_among_the_files_before(tmp_path: Path) -> None:
    session, model = CodedSession("door", 1), NamingModel()
    records = [session.some(i) for i in range(40)]
    paths = write(tmp_path, session, records)
    one = decoder(model)
    for path, record in zip(paths, records, strict=True):
        [answer] = one.answers(path)
        assert label(answer) == label_of(session.latents[record.request_id])
        assert isinstance(answer.analysis, Analysis)
        assert answer.analysis.bytes.total == len(record.data)
        assert answer.stem == path.stem
    assert model.images == len({latent.digest for latent in session.latents.values()})


def test_a_packet_whose_reference_is_not_there(tmp_path: Path) -> None:
    session = CodedSession("door", 2)
    paths = write(tmp_path, session, [session.intra(0), session.predicted(1), session.same(2)])
    with pytest.raises(
        MissingReferenceError, match="frame P needs another frame, which is not among the files"
    ):
        list(decoder().answers(paths[1]))
    one = decoder()
    for path in paths:
        [answer] = one.answers(path)
        assert answer.name == f"{path}{'' if path is paths[0] else ' (P)' if path is paths[1] else ' (S)'}"


def test_version_1(tmp_path: Path) -> None:
    session = CodedSession("door", 3)
    session.intra(0)
    [whole] = session.latents.values()
    assert whole.z is not None
    b_v, b_z = LATENT_CODEC.encode(whole.v, whole.z, whole.quality)
    path = tmp_path / "one.isthmus"
    data = Bitstream(MARK, whole.quality, *GRID, b_v, b_z).pack()
    path.write_bytes(data)
    [answer] = decoder().answers(path)
    assert label(answer) == label_of(whole)
    assert isinstance(answer.analysis, Analysis)
    assert (answer.analysis.bytes.b_v, answer.analysis.bytes.total) == (len(b_v), len(data))


@pytest.mark.parametrize("seed", range(6))
def test_a_log_is_answered_frame_by_frame(tmp_path: Path, seed: int) -> None:
    session, model = CodedSession("door", seed), NamingModel()
    for i in range(50):
        session.some(i)
    path = tmp_path / "clip.log"
    with path.open("wb") as file:
        session.log(file)
    answers = list(decoder(model).answers(path))
    assert [label(one) for one in answers] == [label_of(latent) for latent in session.latents.values()]
    names = [frame.name for frame, _ in session.frames]
    assert [one.name for one in answers] == [f"{path} frame {i} ({n})" for i, n in enumerate(names, start=1)]
    start = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=10**15)
    for i, (one, (frame, _), latent) in enumerate(
        zip(answers, session.frames, session.latents.values(), strict=True), start=1
    ):
        found = one.analysis
        assert isinstance(found, Analysis)
        assert found.captured_at == start + timedelta(milliseconds=200 * i)
        assert (found.request_id, found.quality) == (f"s.{'00' * 16}.{i}", latent.quality)
        assert found.bytes.b_v + found.bytes.b_z == len(frame.payload)
        assert found.bytes.total == len(frame.payload) + (3 if frame.name == "S" else 4)
    assert model.images < 50


def test_a_damaged_log_is_answered_up_to_the_damage(tmp_path: Path) -> None:
    session = CodedSession("door", 4)
    for i in range(10):
        session.predicted(i)
    file = io.BytesIO()
    session.log(file)
    data = bytearray(file.getvalue())
    data[-30] ^= 1
    path = tmp_path / "clip.log"
    path.write_bytes(data)
    answers: list[FileAnswer] = []
    with pytest.raises(ChecksumError):
        answers.extend(decoder().answers(path))
    assert 7 <= len(answers) < 10
    assert [label(one) for one in answers] == [label_of(one) for one in session.latents.values()][
        : len(answers)
    ]


def test_a_frame_of_another_session_costs_only_those_that_need_it(tmp_path: Path) -> None:
    session = CodedSession("door", 5)
    session.intra(0)
    session.predicted(1)
    session.held.popitem(last=False)
    session.predicted(2)
    session.held.clear()
    session.intra(3)
    file = io.BytesIO()
    session.log(file)
    log = LogReader(io.BytesIO(file.getvalue()))
    records = list(log)
    other = replace(log.header, session=b"\1" * 16)
    path = tmp_path / "mixed.log"
    with path.open("wb") as out:
        writer = LogWriter(out, log.header)
        frame, reference = session.frames[1]
        assert reference is not None
        records[1] = replace(records[1], data=frame.pack(other.key, 2, reference.digest))
        for record in records:
            writer.append(record)
    answers = list(decoder().answers(path))
    assert [type(one.analysis) for one in answers] == [
        Analysis,
        MissingReferenceError,
        MissingReferenceError,
        Analysis,
    ]
    assert str(answers[2].analysis).startswith("frame 3: this frame P needs another frame")


def test_a_log_of_another_bundle(tmp_path: Path) -> None:
    session = CodedSession("door", 6)
    session.intra(0)
    path = tmp_path / "clip.log"
    with path.open("wb") as file:
        session.log(file)
    with pytest.raises(BundleMismatchError, match="aabbccdd"):
        list(decoder(fingerprint="11" * 32).answers(path))


def test_a_base_answers_what_it_can(tmp_path: Path) -> None:
    session = CodedSession("door", 7)
    [path] = write(tmp_path, session, [session.intra(0, base=True)])
    [answer] = decoder().answers(path)
    assert label(answer) == label_of(*session.latents.values())
    assert answer.name == f"{path} (I base)"
    with pytest.raises(RequestError, match="only the base"):
        list(decoder(NamingModel(base=False)).answers(path))
    with pytest.raises(RequestError, match="only the base"):
        list(decoder(NamingModel(base=False), Wanted.same(["classification"], 1)).answers(path))
    bundle = made_up_bundle()
    bundle.tasks = (*bundle.tasks, SimpleNamespace(name="more", kind="classification", labels=()))
    [answer] = FileDecoder(Served(bundle, NamingModel()), Wanted(), 64).answers(path)
    assert isinstance(answer.analysis, Analysis)
    assert [*answer.analysis.results] == ["classification"]
    assert "more" in answer.analysis.warnings[0]


def test_mutated_logs_end_in_errors_with_names(tmp_path: Path) -> None:
    session, rng = CodedSession("door", 8), np.random.default_rng(8)
    for i in range(12):
        session.some(i)
    file = io.BytesIO()
    session.log(file)
    path = tmp_path / "clip.log"
    for _ in range(150):
        data = bytearray(file.getvalue())
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(bytes(data[: rng.integers(1, len(data) + 1)]) if rng.random() < 0.3 else bytes(data))
        ends: list[Any] = []
        try:
            ends += [one.analysis for one in decoder().answers(path)]
        except IsthmusError as error:
            ends.append(error)
        for end in ends:
            assert isinstance(end, Analysis) or "\n" not in str(end)


def test_the_command(tmp_path: Path, bundle: Bundle, tiny_bundle: Path, packed: list[bytes]) -> None:
    """A log of frames I and S, as a bundle without context makes them; one S is of a frame that is not there."""
    reader = FrameReader(bundle, LatentCodec(bundle.entropy()), 64)
    codec, latents = reader.codec, []
    for data in packed[:2]:
        packet = reader.read(data)
        assert isinstance(packet, Packet)
        latents.append(reader.latent(packet.frame, reader.grid_of(packet), None))
    header = LogHeader(bytes.fromhex(bundle.manifest.fingerprint), bytes(16), latents[0].grid)
    path, single = tmp_path / "clip.log", tmp_path / "one.isthmus"
    with path.open("wb") as file:
        writer = LogWriter(file, header)
        frames = [
            Frame(FrameType.I, latents[0].quality, True, True, codec.encode(latents[0])),
            *[Frame(FrameType.S, 0, False, False, b"")] * 3,
        ]
        for i, (frame, reference) in enumerate(
            zip(frames, (None, latents[0], latents[1], latents[0]), strict=True), start=1
        ):
            digest = None if reference is None else reference.digest
            data = frame.pack(header.key, i, digest)
            writer.append(LogRecord(i, 0, data, None if digest is None else 1))
    single.write_bytes(Packet(bundle.fingerprint, frames[0]).pack())
    done = run_here("cloud", "decode", single, path, "--bundle", tiny_bundle, "--json")
    assert done.returncode == 2
    assert done.stderr.startswith(f"isthmus: {path}: frame 3: this frame S needs another frame, which is not")
    assert len(done.stderr.splitlines()) == 1
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["request_id"] for one in found[1:]] == [f"s.{'00' * 16}.{i}" for i in (1, 2, 4)]
    assert all(one["results"] == found[0]["results"] for one in found)
    assert [one["bytes"]["total"] for one in found] == [
        len(frames[0].payload) + 11,
        len(frames[0].payload) + 4,
        3,
        3,
    ]
    done = run_here("cloud", "decode", path, "--bundle", tiny_bundle)
    assert f"{path} frame 4 (S): 3 bytes (b_v 0, b_z 0), quality {latents[0].quality}," in done.stdout
