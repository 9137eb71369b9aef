"""Segments by themselves: what was written is read, from every time on, on any store; damage has a name."""

from __future__ import annotations

import pickle
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cloud.segments.opened
from cloud.archive.records import Record
from cloud.archive.sources import count_records, open_part, parts_of
from cloud.segments.segment import Name, write_segment
from cloud.segments.store import SegmentStore
from shared.errors import DataError, RequestError
from support.archives import archive_at, at, put, record
from support.coded_sessions import CodedSession, latent_of, moments
from support.segments import flip, opened, written

END = at(10**6)


def coded(seed: int, frames: int, cameras: int = 3) -> tuple[list[Record], dict[str, Any]]:
    """Records of sessions that take turns, and what each says."""
    some = [CodedSession(f"c{i}", 100 * seed + i, f"{i:02x}") for i in range(cameras)]
    records = [some[i % cameras].some(i) for i in range(frames)]
    return records, {name: latent for one in some for name, latent in one.latents.items()}


@given(st.integers(0, 10**6), st.integers(1, 30))
@settings(deadline=None, max_examples=6)
def test_a_segment_is_answered_by_itself_from_every_time_on(seed: int, frames: int) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    records, says = coded(seed, frames)
    written(url, records)
    for start in moments(records)[::3]:
        found = opened(url, start)
        wanted = sorted((one for one in records if one.received_at >= start), key=lambda one: one.camera)
        assert [one.record for one in found] == wanted
        for one in found:
            assert latent_of(one.content).digest == says[one.record.request_id].digest


@pytest.mark.parametrize("place", ["memory", "folder"])
def test_segments_come_in_order_and_are_chosen_by_time_camera_and_clock(place: str, tmp_path: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}" if place == "memory" else str(tmp_path / "kept")
    later = [replace(record(i, f"c{i % 2}"), captured_at=at(i - 5)) for i in range(10, 20)]
    written(url, later)
    written(url, [record(i, f"c{i % 2}") for i in range(10)])
    parts = parts_of(url)
    assert [pickle.loads(pickle.dumps(part)) for part in parts] == parts
    assert len(parts_of(url, until=at(5))) == 1
    assert len(parts_of(url, until=at(8))) == 2
    assert len(parts_of(url, until=at(8), by="received")) == 1
    assert count_records(url) == 20
    assert count_records(url, at(12), at(15), "c1") == 2
    with open_part(parts[1]) as source:
        ids = [one.request_id for one in source.read(at(12), at(15), None, "received")]
        assert ids == ["r12", "r14", "r13"]
        assert next(source.read(None, None, "c0", "captured")).captured_at == at(5)
        assert list(source.read(None, None, "nobody", "captured")) == []


def test_a_record_that_lies_over_blocks_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud.segments.opened, "_BLOCK", 7)
    monkeypatch.setattr(cloud.segments.opened, "_BLOCKS", 1)
    records = [record(i, size=4 * (i % 9)) for i in range(30)]
    written(tmp_path, records)
    [part] = parts_of(tmp_path)
    with open_part(part) as source:
        assert list(source.read(None, None, None, "captured")) == records


def test_an_archive_with_segments_is_read_whole(tmp_path: Path) -> None:
    with archive_at(tmp_path) as archive:
        put(archive, record(5), record(6))
    written(tmp_path / "segments", [record(i) for i in range(5)])
    assert [part.name for part in parts_of(tmp_path)][:-1] == ["archive.sqlite3"]
    assert [one.record.request_id for one in opened(tmp_path)] == [f"r{i}" for i in (5, 6, 0, 1, 2, 3, 4)]
    assert count_records(tmp_path, at(3)) == 4


@given(st.integers(0, 10**9))
@settings(deadline=None, max_examples=40)
def test_a_flipped_bit_is_found_and_named(tmp_path_factory: pytest.TempPathFactory, where: int) -> None:
    folder = tmp_path_factory.mktemp("kept")
    name = written(folder, [record(i, f"c{i % 3}") for i in range(20)])
    file = folder / (name.data, name.index)[where % 2]
    flip(file, where % (8 * file.stat().st_size))
    store = SegmentStore(folder)
    try:
        flaws = list(store.open(name).flaws())
    except DataError as error:
        flaws = [str(error)]
    assert len(flaws) == 1
    assert str(name) in flaws[0]
    if file.suffix == ".data":
        assert "record r" in flaws[0]


def test_a_file_that_ends_early_or_is_of_a_later_release_is_named(tmp_path: Path) -> None:
    name = written(tmp_path, [record(i) for i in range(20)])
    (tmp_path / name.data).write_bytes((tmp_path / name.data).read_bytes()[:-1])
    with pytest.raises(DataError, match=rf"{name}\.data is damaged: it ends before byte 4000"):
        opened(tmp_path)
    (tmp_path / name.data).unlink()
    with pytest.raises(DataError, match="it was deleted or replaced"):
        opened(tmp_path)
    (tmp_path / name.index).write_bytes(b"PAR1")
    with pytest.raises(DataError, match="is damaged"):
        opened(tmp_path)


def test_only_the_last_generation_counts_and_the_others_are_left_over(tmp_path: Path) -> None:
    old = written(tmp_path, [record(0), record(1)])
    store = SegmentStore(tmp_path)
    new = write_segment(store.files, old.next, [record(1)])
    store.files.write(Name("20261122T120000Z-0123456789ab").data, b"unfinished")
    (tmp_path / f".{new.data}.x81ab").write_bytes(b"cut short by a kill")
    (tmp_path / "notes.txt").write_text("of somebody else")
    (tmp_path / ".notes.txt.swp").write_text("the same")
    assert store.names() == [new]
    assert len(store.leftovers()) == 4
    with store.lock():
        store.tidy()
        with pytest.raises(DataError, match="another command"), store.lock():
            pass
    assert {path.name for path in tmp_path.iterdir()} == {
        new.data,
        new.index,
        "notes.txt",
        ".notes.txt.swp",
        "segments.lock",
    }


def test_places_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    for place in (tmp_path / "absent", tmp_path, f"memory://{uuid.uuid4().hex}"):
        with pytest.raises(DataError, match="no archive at"):
            parts_of(place)
    with pytest.raises(RequestError, match="nowhere"):
        parts_of("nowhere://user:secret@host/x")
