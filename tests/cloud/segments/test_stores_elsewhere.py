"""Stores that an archive was sealed into: deletion finds them again; others may seal there at any time."""

from __future__ import annotations

import uuid
from collections import Counter
from pathlib import Path

import pytest

import cloud.segments.head
import cloud.segments.seal
from cloud.archive.deletion import Deletion
from cloud.archive.records import Record, count
from cloud.segments.deleting import delete_everywhere, expire_everywhere, plan_everywhere
from cloud.segments.seal import Limits, seal_archive
from cloud.segments.segment import Name, write_segment
from cloud.segments.store import SegmentStore
from shared.errors import DataError
from support.archives import archive_at, at, held, put, record
from support.processes import refused, run_here

SMALL = Limits(bytes=2500, records=12)


def fill(path: Path, camera: str = "c", since: int = 0, number: int = 30) -> list[Record]:
    records = [record(i, f"{camera}{i % 3}") for i in range(since, since + number)]
    with archive_at(path) as archive:
        put(archive, *records)
    return records


def files(store: str) -> list[str]:
    return SegmentStore(store).files.names()


def test_what_is_deleted_goes_from_every_store_that_the_archive_was_sealed_into(tmp_path: Path) -> None:
    kept, disk, far = tmp_path / "kept", tmp_path / "disk", f"memory://{uuid.uuid4().hex}"
    records = fill(kept)
    seal_archive(kept, at(10), str(disk), SMALL)
    seal_archive(kept, at(20), far, SMALL)
    seal_archive(kept, at(25), limits=SMALL)
    assert count(kept) == 5
    deletion = Deletion.of("c1", None, at(28), "received")
    gone = [one for one in records if one.camera == "c1" and one.received_at < at(28)]
    assert plan_everywhere(str(kept), deletion)[0] == len(gone) == 9
    # One that is away is named, and the others are seen to.
    disk.rename(away := tmp_path / "away")
    with pytest.raises(DataError, match=r"disk is not there.*goes on"):
        delete_everywhere(str(kept), deletion, print)
    assert not set(held(kept, far)) & set(gone)
    assert not disk.exists()
    away.rename(disk)
    delete_everywhere(str(kept), deletion, print)
    assert held(kept, str(disk), far) == Counter(records) - Counter(gone)
    assert not any(one.data in file.read_bytes() for one in gone for file in disk.iterdir())
    # The archive's own folder goes where the archive goes.
    kept.rename(moved := tmp_path / "moved")
    assert plan_everywhere(str(moved), Deletion.of("*", None, None, "received"))[0] == 30 - 9


def test_the_command_reaches_them(tmp_path: Path) -> None:
    kept, store = tmp_path / "kept", tmp_path / "store"
    fill(kept)
    seal = ("cloud", "archive", "seal", "--archive", kept, "--older-than", "0m", "--store", store)
    assert "30 records" in run_here(*seal).stdout
    # One that is away keeps no other record from being deleted.
    fill(kept, since=30)
    store.rename(away := tmp_path / "away")
    delete = ("cloud", "archive", "delete", "--archive", kept, "--camera", "c1")
    assert "store is not there" in refused(*delete, "--dry-run", status=2)
    assert count(kept) == 30
    partly = run_here(*delete)
    assert partly.returncode == 2
    assert partly.stdout == ""
    assert "not all is deleted yet" in partly.stderr
    assert count(kept) == 20
    away.rename(store)
    assert "10 records deleted" in run_here(*delete).stdout
    assert len(held(str(store))) == 20


def test_a_sealing_into_a_store_that_is_away_keeps_no_record_from_being_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, store = tmp_path / "kept", tmp_path / "store"
    records = fill(kept)
    with monkeypatch.context() as patch:
        patch.setattr(cloud.segments.head, "set_written", lambda db: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            seal_archive(kept, at(30), str(store))
    store.rename(away := tmp_path / "away")
    deletion = Deletion.of("c1", None, None, "received")
    with pytest.raises(DataError, match=r"store is not there; a sealing into it was killed.*goes on"):
        delete_everywhere(str(kept), deletion, print)
    assert count(kept) == 20
    with pytest.raises(DataError, match="store is not there"):
        seal_archive(kept, at(30))
    # Once it is back, the same command finishes the segment and takes the records out of it.
    away.rename(store)
    delete_everywhere(str(kept), deletion, print)
    assert held(kept, str(store)) == Counter(one for one in records if one.camera != "c1")
    assert len(held(str(store))) == 20


def test_others_may_seal_into_a_store_that_is_deleted_from(tmp_path: Path) -> None:
    """What another server writes at this moment is not taken for a leftover; what a kill left of a deletion is."""
    kept, far = tmp_path / "kept", f"memory://{uuid.uuid4().hex}"
    records = fill(kept)
    seal_archive(kept, at(30), far, SMALL)
    store = SegmentStore(far)
    other = Name.new(record(99))
    store.files.write(other.data, b"not all of it is there yet")
    first = store.names()[0]
    write_segment(
        store.files, first.next, list(store.open(first).read())[:1]
    )  # killed before the old one went
    expire_everywhere(far, at(0))
    assert other.data in files(far)
    assert first.data not in files(far)
    assert first.index not in files(far)
    assert len(held(far)) == len(records) - (12 - 1)


def test_expire_finishes_a_sealing_that_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the segment that it cuts would be unknown to the next sealing, and count beside the database."""
    records = fill(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(cloud.segments.head, "set_written", lambda db: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            seal_archive(tmp_path, at(30))
    expire_everywhere(str(tmp_path), at(10))
    assert held(tmp_path) == Counter(records[10:])
    seal_archive(tmp_path, at(30))
    assert held(tmp_path) == Counter(records[10:])


def test_what_goes_while_it_is_sealed_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path)
    record_of = cloud.segments.seal.record_of
    with monkeypatch.context() as patch:
        patch.setattr(cloud.segments.seal, "record_of", lambda db, id_: None)
        sealed = seal_archive(tmp_path, at(30), limits=SMALL)
    assert (sealed.segments, sealed.records, sealed.bytes) == (0, 0, 0)
    assert not [name for name in files(str(tmp_path / "segments")) if name.endswith((".data", ".parquet"))]
    monkeypatch.setattr(
        cloud.segments.seal, "record_of", lambda db, id_: record_of(db, id_) if id_ % 2 else None
    )
    sealed = seal_archive(tmp_path, at(30))
    assert (sealed.segments, sealed.records, sealed.bytes) == (1, 15, 15 * 200)
