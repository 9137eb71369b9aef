"""Frames that need each other, from an archive: from every time on, in any order, damaged, deleted, mutated."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import zlib
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cloud.archive.chunks
import support.coded_sessions
from cloud.archive.chunks import Chunks, Opened
from cloud.archive.frames import Known, References
from cloud.archive.records import Head, Record, read, reading
from cloud.archive.replay import Counts, ReplayRequest, open_records, replay
from cloud.archive.schema import FILE
from cloud.engine.batch_work import Served
from shared.codec.bitstream import Bitstream
from shared.codec.frame_codec import Coded, Latent
from shared.errors import (
    ChecksumError,
    CorruptPayloadError,
    IsthmusError,
    MissingReferenceError,
)
from shared.process.cli import MapFolder
from shared.types import TaskQuery
from support.archives import archive_at, at, put
from support.coded_sessions import (
    CODEC,
    CodedSession,
    NamingModel,
    label_of,
    latent_of,
    made_up_bundle,
    moments,
    reader,
)

END = at(10**6)
ASKED = TaskQuery(name="classification")


def opened(path: Path, since: Any = None, **more: Any) -> list[Opened]:
    return list(open_records(request(path, since, **more), reader()))


def request(path: Path, since: Any = None, **more: Any) -> ReplayRequest:
    return ReplayRequest(path, since or at(-(10**6)), END, None, "classification", **more)


def assert_said(one: Opened, expected: Latent) -> None:
    latent = latent_of(one.content)
    assert latent.digest == expected.digest
    np.testing.assert_array_equal(latent.v, expected.v)
    if expected.z is None:
        assert latent.z is None
    else:
        np.testing.assert_array_equal(latent.z, expected.z)


def sessions(seed: int, cameras: int) -> list[CodedSession]:
    """The last two are of one camera."""
    names = [f"c{min(i, cameras - 2) if cameras > 1 else i}" for i in range(cameras)]
    return [CodedSession(name, 100 * seed + i, f"{i:02x}") for i, name in enumerate(names)]


def expected_of(some: list[CodedSession]) -> dict[str, Latent]:
    return {request_id: latent for one in some for request_id, latent in one.latents.items()}


def keep(path: Path, records: list[Record]) -> None:
    with archive_at(path) as archive:
        put(archive, *records)


async def replayed(
    path: Path, model: NamingModel, since: Any = None, batch: int = 4
) -> tuple[Counts, list[dict[str, Any]]]:
    out = path / "out.jsonl"
    with out.open("wb") as file:
        served = Served(made_up_bundle(), model)
        frames = open_records(request(path, since), reader())
        counts = await replay(served, frames, ASKED, file, MapFolder(None), batch)
    return counts, [json.loads(line) for line in out.read_text().splitlines()]


@given(st.integers(0, 10**6), st.lists(st.integers(0, 2), min_size=1, max_size=40))
@settings(deadline=None, max_examples=25)
def test_every_latent_is_the_encoders_from_every_time_on(
    tmp_path_factory: pytest.TempPathFactory, seed: int, order: list[int]
) -> None:
    path = tmp_path_factory.mktemp("kept")
    some = sessions(seed, 3)
    records = [some[which].some(i) for i, which in enumerate(order)]
    keep(path, records)
    expected = expected_of(some)
    for start in moments(records):
        frames = opened(path, start)
        assert [one.record.request_id for one in frames] == [
            one.request_id for one in records if one.received_at >= start
        ]
        for one in frames:
            assert_said(one, expected[one.record.request_id])


@pytest.mark.parametrize("bytes_max", [1, 1 << 20])
@given(seed=st.integers(0, 10**6), times=st.permutations(range(24)))
@settings(deadline=None, max_examples=15)
def test_times_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, bytes_max: int, seed: int, times: list[int]
) -> None:
    """Capture times that contradict the order of coding, and chunks that drive each other out, or not."""
    path = tmp_path_factory.mktemp("kept")
    some = sessions(seed, 3)
    records = [replace(some[i % 3].some(i), captured_at=at(when)) for i, when in enumerate(times)]
    keep(path, records)
    expected = expected_of(some)
    with reading(path) as db, pytest.MonkeyPatch.context() as patch:
        patch.setattr(cloud.archive.chunks, "LATENTS", 2)
        chunks = Chunks(Head(path, db), reader(), bytes_max)
        frames = list(chunks.open(read(path)))
        assert bytes_max > 1 or len(chunks._chunks) == 1
    assert len(frames) == len(records)
    for one in frames:
        assert_said(one, expected[one.record.request_id])


@pytest.mark.parametrize("latents", [1, 3, 16])
def test_a_reference_from_long_ago_is_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, latents: int
) -> None:
    """A server keeps what is used, also by frames that it then refused and did not archive."""
    monkeypatch.setattr(cloud.archive.chunks, "LATENTS", latents)
    monkeypatch.setattr(support.coded_sessions, "HELD", 1000)
    session = CodedSession("door", 12)
    records = [session.intra(0), *(session.predicted(i) for i in range(1, 60)), session.same(60)]
    keep(tmp_path, records)
    for since in (at(0), at(30), at(60)):
        frames = opened(tmp_path, since)
        assert len(frames) == sum(one.received_at >= since for one in records)
        for one in frames:
            assert_said(one, session.latents[one.record.request_id])


def test_origins_that_are_not_kept_cost_frames_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud.archive.chunks, "LATENTS", 2)
    monkeypatch.setattr(cloud.archive.chunks, "NAMES", 5)
    monkeypatch.setattr(support.coded_sessions, "HELD", 1000)
    session = CodedSession("door", 13)
    keep(tmp_path, [session.intra(0), *(session.predicted(i) for i in range(1, 60))])
    frames = opened(tmp_path)
    lost = [one for one in frames if not isinstance(one.content, Known)]
    assert 0 < len(lost) < 60
    assert all(isinstance(one.content, MissingReferenceError) for one in lost)
    for one in frames:
        if one not in lost:
            assert_said(one, session.latents[one.record.request_id])


def test_names_that_collide_on_purpose_stand_for_no_latent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Latent.digest.func  # type: ignore[attr-defined]
    monkeypatch.setattr(Latent, "digest", property(lambda latent: bytes(8) + real(latent)))
    session = CodedSession("door", 15)
    keep(tmp_path, [session.intra(0), session.predicted(1), session.same(2), session.predicted(3)])
    first, second, *others = opened(tmp_path)
    assert_said(first, session.latents["s.00.1"])
    assert_said(second, session.latents["s.00.2"])
    assert [type(one.content) for one in others] == [MissingReferenceError] * 2


def test_an_archive_of_an_older_release_has_no_chunks(tmp_path: Path) -> None:
    session = CodedSession("door", 14)
    keep(tmp_path, [session.intra(0), session.same(1)])
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        db.execute("DROP INDEX records_by_chunk")
        db.execute("ALTER TABLE records DROP COLUMN chunk")
        db.execute("PRAGMA user_version = 2")
    first, second = opened(tmp_path)
    assert isinstance(first.content, Coded)
    assert isinstance(second.content, MissingReferenceError)


def test_memory_is_bounded_and_a_steady_replay_decodes_each_frame_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud.archive.chunks, "CHUNKS_MAX", 3)
    some = sessions(3, 3)
    records = [some[i % 3].intra(i) if i < 3 else some[i % 3].predicted(i) for i in range(180)]
    keep(tmp_path, records)
    expected = expected_of(some)
    with reading(tmp_path) as db:
        chunks = Chunks(Head(tmp_path, db), reader())
        for one in chunks.open(read(tmp_path)):
            assert_said(one, expected[one.record.request_id])
            assert all(
                len(chunk.latents) <= cloud.archive.chunks.LATENTS for chunk in chunks._chunks.values()
            )
            assert len(chunks._chunks) <= 3
        assert chunks.decoded == 180
        middle = Chunks(Head(tmp_path, db), reader())
        list(middle.open(read(tmp_path, since=at(90))))
        assert middle.decoded == 180


def test_frames_that_no_other_needs_are_left_to_a_batch(tmp_path: Path) -> None:
    session = CodedSession("door", 1)
    alone, needed = session.intra(0), None
    session.held.clear()
    needed = session.intra(1)
    keep(tmp_path, [alone, needed, session.same(2)])
    kinds = [type(one.content) for one in opened(tmp_path)]
    assert kinds == [Coded, Known, Known]


async def test_a_replay_answers_a_frame_s_without_a_tail(tmp_path: Path) -> None:
    session = CodedSession("door", 5)
    records = [session.intra(0), *(session.same(i) for i in range(1, 40)), session.predicted(40)]
    records += [session.same(i) for i in range(41, 50)]
    keep(tmp_path, records)
    expected = [label_of(session.latents[one.request_id]) for one in records]
    for since, tails in ((None, 2), (at(20), 2), (at(45), len({*expected[45:]}))):
        model = NamingModel()
        counts, lines = await replayed(tmp_path, model, since)
        assert [line["result"]["top"][0]["label"] for line in lines] == expected[50 - len(lines) :]
        assert counts.answered == len(lines)
        assert model.images == tails


async def test_bases_answer_what_they_can(tmp_path: Path) -> None:
    session = CodedSession("door", 6)
    records = [
        session.intra(0, base=True),
        session.same(1),
        session.refinement(2),
        session.intra(3, base=True),
    ]
    keep(tmp_path, records)
    counts, lines = await replayed(tmp_path, NamingModel())
    labels = [label_of(session.latents[one.request_id]) for one in records]
    assert [line["result"]["top"][0]["label"] for line in lines] == labels
    counts, lines = await replayed(tmp_path, NamingModel(base=False))
    assert counts.answered == 1
    assert counts.errors == {"Invalid request": 3}
    assert "does not answer classification" in lines[0]["error"]["detail"]
    assert lines[2]["result"]["top"][0]["label"] == labels[2]


def damaged(record: Record, at_byte: int = 20) -> Record:
    data = bytearray(record.data)
    data[at_byte % len(data)] ^= 0x10
    return replace(record, data=bytes(data))


async def test_orphans_and_damage_are_counted_and_reported(tmp_path: Path) -> None:
    """A chunk whose beginning is gone, one with a damaged frame, and one that is whole."""
    gone, broken, whole = sessions(7, 3)
    records = [one.intra(i) for i, one in enumerate((gone, broken, whole))]
    for i in range(3, 24, 3):
        records += [gone.predicted(i), broken.same(i + 1), whole.predicted(i + 2)]
    broken.held.popitem(last=False)  # from here on, P of P alone
    chain = []
    for i in range(30, 36):
        broken.held.clear()
        first = broken.intra(i) if not chain else broken_next(broken, chain[-1], i)
        chain.append(first)
    kept = [one for one in records if one is not records[0]] + [*chain[:2], damaged(chain[2]), *chain[3:]]
    keep(tmp_path, kept)
    outcomes = {one.record.request_id: one for one in opened(tmp_path)}
    for one in records[3:]:
        found = outcomes[one.request_id]
        if one.camera == "c0":
            assert isinstance(found.content, MissingReferenceError)
            assert "chunk s.00.1" in str(found.content)
        else:
            assert_said(
                found, (broken if one.request_id.startswith("s.01") else whole).latents[one.request_id]
            )
    ends = [outcomes[one.request_id].content for one in chain]
    assert [type(one) for one in ends[2:]] == [ChecksumError] + [MissingReferenceError] * 3
    assert_said(outcomes[chain[1].request_id], broken.latents[chain[1].request_id])
    counts, lines = await replayed(tmp_path, NamingModel())
    assert counts.errors == Counter({"Reference missing": 7 + 3, "Invalid bitstream": 1})
    assert counts.answered == len(kept) - 11
    assert {line["error"]["title"] for line in lines if "error" in line} == set(counts.errors)


def broken_next(session: CodedSession, last: Record, when: int) -> Record:
    """A frame P given the last one."""
    latent = session.latents[last.request_id]
    session.held[latent.digest] = latent, last.chunk or last.request_id
    return session.predicted(when)


def test_a_frame_that_names_no_chunk_or_none_of_this_camera(tmp_path: Path) -> None:
    one, other = CodedSession("door", 8), CodedSession("hall", 8, "01")
    records = [one.intra(0), other.intra(1), replace(one.same(2), chunk="")]
    records += [replace(one.predicted(3), camera="hall"), replace(one.predicted(4), chunk="s.00.4")]
    keep(tmp_path, records)
    for found in opened(tmp_path)[2:]:
        assert isinstance(found.content, MissingReferenceError)


def test_references_hold_what_was_used_last() -> None:
    session = CodedSession("door", 9)
    latents = [session.latents[session.intra(i).request_id] for i in range(4)]
    held = References(3, 1 << 20)
    first = held.add(latents[0])
    for latent in latents[1:3]:
        held.add(latent)
    assert held.find(latents[0].digest) is first
    assert held.add(latents[0]) is first
    held.add(latents[3])
    assert held.find(latents[1].digest) is None
    assert [one.latent for one in held] == [latents[3], latents[0], latents[2]]
    assert held.bytes == sum(one.bytes for one in held)
    assert held.known(latents[0]) is first
    assert held.known(latents[1]) is not held.known(latents[1])
    small = References(3, first.bytes)
    for latent in latents:
        small.add(latent)
        assert small.bytes == first.bytes


def mutated(record: Record, others: list[Record], rng: np.random.Generator) -> Record:
    """Another packet, id or chunk in the place of this one; most with a CRC that fits."""
    data, other = bytearray(record.data), others[rng.integers(len(others))]
    kind = rng.integers(7)
    if kind == 0:
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    elif kind == 1:
        data = bytearray(record.data[: rng.integers(len(data))])
    elif kind == 2:
        data = bytearray(record.data[:7] + other.data[7:])
    elif kind == 3:
        data[5] = rng.integers(256)
    elif kind == 4:
        return replace(record, chunk=other.request_id)
    elif kind == 5:
        return replace(record, data=other.data)
    else:
        data[7:] = rng.bytes(rng.integers(60))
    if len(data) > 4 and rng.random() < 0.8:
        data[-4:] = zlib.crc32(data[:-4]).to_bytes(4, "little")
    return replace(record, data=bytes(data))


@pytest.mark.parametrize("seed", range(12))
async def test_mutated_archives_end_in_errors_with_names(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    some = sessions(seed, 3)
    records = [some[rng.integers(3)].some(i) for i in range(60)]
    kept = [mutated(one, records, rng) if rng.random() < 0.25 else one for one in records]
    keep(tmp_path, kept)
    seen: Counter[str] = Counter()
    for one in opened(tmp_path, at(int(rng.integers(30)))):
        content = one.content
        if isinstance(content, Coded):
            (content,) = CODEC.decode([content])
        if isinstance(content, IsthmusError):
            assert "\n" not in str(content)
            assert 0 < len(str(content)) < 400
        else:
            assert isinstance(content, Known | Latent | Bitstream)
        seen[type(content).__name__] += 1
    assert seen["Known"]
    counts, lines = await replayed(tmp_path, NamingModel())
    assert counts.answered + counts.failed == len(lines) == len(kept)
    assert counts.errors


async def test_a_payload_that_cannot_be_read_is_one_lines_error(tmp_path: Path) -> None:
    session = CodedSession("door", 10)
    first, second = session.intra(0), session.predicted(1)
    bad = []
    rng = np.random.default_rng(1)
    for i in range(40):
        data = second.data[:15] + b"\xff" * int(rng.integers(8)) + rng.bytes(12)
        data += zlib.crc32(data).to_bytes(4, "little")
        bad.append(replace(second, data=data, request_id=f"bad.{i}", received_at=at(2 + i)))
    keep(tmp_path, [first, second, *bad])
    ends = Counter(type(one.content) for one in opened(tmp_path))
    assert ends[CorruptPayloadError]
    counts, lines = await replayed(tmp_path, NamingModel())
    assert len(lines) == 42
    assert counts.errors["Invalid bitstream"] == ends[CorruptPayloadError]


async def test_a_replay_that_is_cancelled_ends(tmp_path: Path) -> None:
    session = CodedSession("door", 11)
    keep(tmp_path, [session.intra(0), *(session.predicted(i) for i in range(1, 200))])
    task = asyncio.create_task(replayed(tmp_path, NamingModel()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
