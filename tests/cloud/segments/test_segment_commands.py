"""`isthmus cloud archive verify|export|expire|delete` on segments."""

from __future__ import annotations

import errno
import fcntl
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import cloud.segments.change
import cloud.segments.deleting
from cloud.archive import encryption
from cloud.archive.deletion import Deletion
from cloud.archive.encryption import ArchiveKey
from cloud.archive.records import Record
from cloud.archive.sources import open_parts
from cloud.segments.change import copy_records, expire_records
from cloud.segments.deleting import delete_everywhere
from cloud.segments.encrypting import encrypt_everywhere
from cloud.segments.seal import Limits, seal_archive
from cloud.segments.store import SegmentStore
from shared.errors import DataError
from support.archives import archive_at, at, put
from support.coded_sessions import CodedSession, latent_of
from support.processes import refused, run_here
from support.segments import flip, opened

CAMERAS = 3
FRAMES = 90


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """An archive of which two thirds are sealed, in several segments."""
    some = [CodedSession(f"c{i}", i, f"{i:02x}") for i in range(CAMERAS)]
    path = tmp_path / "kept"
    with archive_at(path) as archive:
        put(archive, *(some[i % CAMERAS].some(i) for i in range(FRAMES)))
    seal_archive(path, at(60), limits=Limits(600, 1000))
    return path


def no_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_a_file_system_without_locks(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is reported at once: nobody waits for the end of a sealing that is not there."""
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(DataError, match=r"cannot lock .*: No locks available"):
        held(kept)


def use_key_of_test(monkeypatch: pytest.MonkeyPatch) -> ArchiveKey:
    key = ArchiveKey("ab" * 32)
    monkeypatch.setattr(encryption, "_keys", {key.id: key})
    return key


def held(path: Path) -> list[Record]:
    return [one for source in open_parts(path) for one in source.read(None, None, None, "captured")]


def verify(path: Path | str) -> str:
    return run_here("cloud", "archive", "verify", "--archive", path).stdout


def bytes_in(path: Path, data: bytes) -> bool:
    return any(data in file.read_bytes() for file in path.rglob("*") if file.is_file())


def test_verify_names_a_flipped_bit_wherever_it_is(kept: Path) -> None:
    assert f"no flaw in {FRAMES} records" in verify(kept)
    store = SegmentStore(kept / "segments")
    first, second, *_ = store.names()
    flip(kept / "segments" / first.data, 8 * 5)
    flip(kept / "segments" / second.index, 8 * 99)
    told = run_here("cloud", "archive", "verify", "--archive", kept)
    assert told.returncode == 2
    lines = told.stdout.splitlines()
    assert len(lines) == 2
    assert f"{first.data}, from byte 0: record s." in lines[0]
    assert f"{second.index} is damaged: its SHA-256" in lines[1]
    assert "2 flaws in" in told.stderr


def test_verify_reads_the_database_too(kept: Path) -> None:
    with archive_at(kept) as archive:
        put(archive, Record("door", at(200), "odd", b"no bitstream"))
    assert "record odd of camera door is damaged" in verify(kept)
    (kept / "segments" / "20261122T120000Z-0123456789ab-0.data").write_bytes(b"cut")
    assert "belongs to no segment" in verify(kept)
    assert "no archive at" in refused("cloud", "archive", "verify", "--archive", kept.parent, status=2)


def test_verify_names_what_was_damaged_before_a_segment_was_written_again(kept: Path) -> None:
    store = SegmentStore(kept / "segments")
    first = store.names()[0]
    flip(kept / "segments" / first.data, 8 * 5)
    last = max(one.received_at for one in store.open(first).read())
    camera = next(one.camera for one in store.open(first).read() if one.received_at == last)
    delete_everywhere(str(kept), Deletion.of(camera, last, None, "received"), print)
    assert first not in store.names()
    found = run_here("cloud", "archive", "verify", "--archive", kept)
    assert found.returncode == 2
    assert "from byte 0: record s." in found.stdout
    assert "was damaged before it was sealed or rewritten" in found.stdout
    assert "1 flaws in" in found.stderr


def test_export_takes_whole_chunks_and_doubles_none(kept: Path, tmp_path: Path) -> None:
    store, out = SegmentStore(kept / "segments"), tmp_path / "copy"
    whole = run_here("cloud", "archive", "export", "--archive", kept, "--out", out)
    sealed = held(kept / "segments")
    assert f"{len(sealed)} records" in whole.stdout
    assert {path.name for path in out.iterdir()} - {"segments.lock"} == {
        name for one in store.names() for name in (one.data, one.index)
    }
    part = tmp_path / "part"
    for _ in range(2):
        copy_records(store, SegmentStore(part), at(20), at(40), "c1")
    copied = held(part)
    assert Counter(copied) == Counter(set(copied))
    wanted = {one for one in sealed if one.camera == "c1" and at(20) <= one.received_at < at(40)}
    assert wanted <= set(copied)
    assert {one.camera for one in copied} == {"c1"}
    assert all(latent_of(one.content) for one in opened(part))
    assert "no segment at" in refused(
        "cloud", "archive", "export", "--archive", out / "x", "--out", out, status=2
    )
    into_itself = ("export", "--archive", kept, "--out", f"{kept}/segments/", "--camera", "c1")
    assert "--out" in refused("cloud", "archive", *into_itself, status=2)
    assert held(kept / "segments") == sealed


def test_expire_takes_whole_chunks_that_are_old(kept: Path) -> None:
    before = held(kept)
    gone = expire_records(SegmentStore(kept / "segments"), at(30))
    after = held(kept)
    lost = Counter(before) - Counter(after)
    assert gone.records == lost.total() > 5
    assert all(one.received_at < at(30) for one in lost)
    ends = Counter[tuple[str, str]]()
    for one in before:
        name = one.camera, one.chunk or one.request_id
        ends[name] = max(ends[name], int((one.received_at - at(0)).total_seconds()))
    sealed = {one for one in before if one.received_at < at(60)}
    assert all((ends[one.camera, one.chunk or one.request_id] < 30) == (one in lost) for one in sealed)
    assert all(latent_of(one.content) for one in opened(kept))
    done = run_here("cloud", "archive", "expire", "--archive", kept, "--older-than", "1d")
    assert "segments changed" in done.stdout
    assert not SegmentStore(kept / "segments").names()
    assert len(held(kept)) == len([one for one in before if one not in sealed or one in held(kept)])


def test_delete_reaches_segments_and_leaves_no_byte(kept: Path) -> None:
    before = held(kept)
    gone = [one for one in before if one.camera == "c1" and at(10) <= one.received_at < at(70)]
    # A frame S may be the same bytes as one that stays.
    large = [one for one in gone if one.data not in {other.data for other in before if other not in gone}]
    assert len(large) > 5
    assert all(bytes_in(kept, one.data) for one in large)
    span = ("--from", f"{at(10):%FT%TZ}", "--to", f"{at(70):%FT%TZ}")
    command = ("cloud", "archive", "delete", "--archive", kept, "--camera", "c1", *span)
    plan = run_here(*command, "--dry-run").stdout
    assert f"{len(gone)} records would be deleted" in plan
    assert held(kept) == before
    done = run_here(*command)
    assert f"{len(gone)} records deleted" in done.stdout
    assert Counter(held(kept)) == Counter(before) - Counter(gone)
    assert not any(bytes_in(kept, one.data) for one in large)
    assert verify(kept).startswith(f"{kept}: no flaw")


def test_a_deletion_that_is_killed_between_is_made_good(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = held(kept)
    remove = SegmentStore.remove
    monkeypatch.setattr(SegmentStore, "remove", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    deletion = Deletion.of("c0", None, at(30), "received")
    with pytest.raises(KeyboardInterrupt):
        delete_everywhere(str(kept), deletion, print)
    assert len(held(kept)) == len(set(held(kept)))
    assert "belongs to no segment" in verify(kept)
    monkeypatch.setattr(SegmentStore, "remove", remove)
    delete_everywhere(str(kept), deletion, print)
    assert Counter(held(kept)) == Counter(
        one for one in before if one.camera != "c0" or one.received_at >= at(30)
    )
    assert verify(kept).startswith(f"{kept}: no flaw")


def test_delete_finishes_a_sealing_that_was_killed(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = held(kept)
    finish = cloud.segments.head.finish
    monkeypatch.setattr(cloud.segments.head, "finish", lambda db: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        seal_archive(kept, at(1000))
    monkeypatch.setattr(cloud.segments.head, "finish", finish)
    assert Counter(held(kept)) == Counter(before)
    delete_everywhere(str(kept), Deletion.of("*", at(50), None, "received"), print)
    assert Counter(held(kept)) == Counter(one for one in before if one.received_at < at(50))


def test_a_first_sealing_takes_nothing_away_from_a_deletion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, path = CodedSession("c0", 0, "00"), tmp_path / "kept"
    with archive_at(path) as archive:
        put(archive, *(session.some(i) for i in range(20)))
    delete_records = cloud.segments.deleting.delete_records

    def after_sealing(*arguments: Any) -> None:
        seal_archive(path, at(1000))
        delete_records(*arguments)

    monkeypatch.setattr(cloud.segments.deleting, "delete_records", after_sealing)
    assert held(path)
    delete_everywhere(str(path), Deletion.of("c0", None, None, "received"), print)
    assert not held(path)


def test_what_a_killed_sealing_left_is_not_doubled_by_encrypting(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = held(kept)
    written = cloud.segments.head.set_written
    monkeypatch.setattr(
        cloud.segments.head, "set_written", lambda db: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        seal_archive(kept, at(1000))
    monkeypatch.setattr(cloud.segments.head, "set_written", written)
    encrypt_everywhere(str(kept), use_key_of_test(monkeypatch))
    seal_archive(kept, at(1000))
    assert Counter(held(kept)) == Counter(before)
    assert all(one.encrypted for one in held(kept))


def test_a_time_goes_by_its_clock(kept: Path) -> None:
    store = SegmentStore(kept / "segments")
    early = replace(held(kept)[0], request_id="late", received_at=at(55), captured_at=at(-500))
    with archive_at(kept) as archive:
        put(archive, early)
    seal_archive(kept, at(60))
    delete_everywhere(str(kept), Deletion.of("*", None, at(-400), "captured"), print)
    assert early not in held(kept)
    assert len(store.names()) > 1
