"""Chunks of frames that need each other: what age and size delete leaves nothing without what it needs."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cloud.archive.store
from cloud.archive.records import Record, count, read
from cloud.archive.store import BYTES_MIN, Store
from support.archives import LONG_S, archive_at, at, on_disk, put


def chunk_of(camera: str, number: int, size: int, start: int, data: int = 4000) -> list[Record]:
    """A frame I and those that need it."""
    ids = [f"s.{camera}.{number + i}" for i in range(size)]
    return [
        Record(camera, at(start + i), id_, bytes([i % 256]) * data, None, ids[0] if i else "")
        for i, id_ in enumerate(ids)
    ]


def interleaved(*chunks: list[Record]) -> list[Record]:
    return [one[i] for i in range(max(map(len, chunks))) for one in chunks if i < len(one)]


def insert(store: Store, records: list[Record]) -> None:
    while records:
        some = store.batch(records)
        store.insert(records[:some])
        records = records[some:]


def assert_sound(left: list[Record], written: list[Record]) -> None:
    """Every record has all that were written to its chunk before it."""
    kept = {(one.camera, one.request_id) for one in left}
    before: dict[tuple[str, str], bool] = {}  # by chunk: whether all so far are there
    for one in written:
        name = one.camera, one.chunk or one.request_id
        there = (one.camera, one.request_id) in kept
        assert before.get(name, True) or not there, one.request_id
        before[name] = there


def test_a_full_archive_gives_up_whole_chunks(tmp_path: Path) -> None:
    records = interleaved(
        *(
            [one for k in range(20) for one in chunk_of(camera, 100 * k, 12, 100 * k)]
            for camera in ("door", "hall")
        )
    )
    with archive_at(tmp_path, BYTES_MIN) as archive:
        for one in records:
            put(archive, one)
            archive.flush()
    assert on_disk(tmp_path) <= BYTES_MIN
    left = list(read(tmp_path))
    assert 50 < len(left) < len(records)
    first = left[0].request_id
    assert left[0].chunk == "", first
    assert_sound(left, records)
    assert sum(not one.chunk for one in left) * 12 == len(left)
    assert {one.request_id for one in records[-12:]} <= {one.request_id for one in left}


def test_a_chunk_longer_than_the_archive_leaves_what_came_last(tmp_path: Path) -> None:
    records = chunk_of("door", 0, 600, 0)
    with archive_at(tmp_path, BYTES_MIN) as archive:
        for i, one in enumerate(records):
            put(archive, one)
            if i % 30 == 0:
                archive.flush()
    assert on_disk(tmp_path) <= BYTES_MIN
    left = list(read(tmp_path))
    assert records[-1] in left  # without its beginning, as its reader will find
    assert records[0] not in left


def test_age_takes_a_chunk_with_its_beginning(tmp_path: Path) -> None:
    now = datetime.now(UTC)

    def aged(records: list[Record], days: float, step_s: float) -> list[Record]:
        first = now - timedelta(days=days)
        return [
            Record(
                one.camera, first + timedelta(seconds=i * step_s), one.request_id, one.data, None, one.chunk
            )
            for i, one in enumerate(records)
        ]

    # The first chunk begins before the bound and ends after it.
    cut, whole = aged(chunk_of("door", 0, 10, 0), 2, 86_400 / 5), aged(chunk_of("hall", 0, 10, 0), 0.5, 1)
    with archive_at(tmp_path, age_max_s=86_400) as archive:
        put(archive, *interleaved(cut, whole))
    assert list(read(tmp_path)) == whole


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=60),
    st.integers(0, 60),
    st.integers(2, 5),
)
@settings(deadline=None, max_examples=40)
def test_any_deletion_leaves_whole_beginnings(
    tmp_path_factory: pytest.TempPathFactory, frames: list[tuple[int, int]], old: int, keys: int
) -> None:
    """frames: camera, and 0 for one that begins a chunk. old: how many of the first are too old."""
    path = tmp_path_factory.mktemp("store")
    chunks: dict[int, str] = {}
    records = []
    now = time.time()
    for i, (camera, kind) in enumerate(frames):
        received = datetime.fromtimestamp(now - (2e6 if i < old else 0) + i, UTC)
        chunk = chunks.get(camera, "") if kind else ""
        records.append(Record(f"c{camera}", received, f"r{i}", b"x" * 10, None, chunk))
        if not chunk:
            chunks[camera] = f"r{i}"
    store = Store(path, BYTES_MIN, 1e6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cloud.archive.store, "KEYS", keys)
        insert(store, records)
        while store.tidy():
            assert_sound(list(read(path)), records)
    store.close()
    left = list(read(path))
    assert_sound(left, records)
    begun_old = {(one.camera, one.request_id) for one in records[:old] if not one.chunk}
    gone = [one for i, one in enumerate(records) if i < old or (one.camera, one.chunk) in begun_old]
    assert [one.request_id for one in left] == [one.request_id for one in records if one not in gone]


def test_a_long_chunk_goes_in_several_transactions_from_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = chunk_of("door", 0, 2500, 0, data=8)
    store = Store(tmp_path, 64 << 20, 1.0)
    insert(store, records)
    left = []
    real = store._delete

    def delete(*arguments: Any) -> bool:
        unfinished = real(*arguments)
        left.append(list(read(tmp_path)))
        return unfinished

    monkeypatch.setattr(store, "_delete", delete)
    while store.tidy():
        pass
    store.close()
    assert len(left) >= 3
    for some in left:
        assert some == records[: len(some)]
    assert count(tmp_path) == 0


def test_chunks_and_ids_come_back_from_the_disk(tmp_path: Path) -> None:
    records = chunk_of("door", 7, 3, 0)
    with archive_at(tmp_path, age_max_s=LONG_S) as archive:
        put(archive, *records)
    left = list(read(tmp_path))
    assert left == records
    assert [one.chunk for one in left] == ["", "s.door.7", "s.door.7"]
    assert [one.id for one in left] == [1, 2, 3]
