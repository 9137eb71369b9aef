"""Encryption at rest: nothing readable in the files, no other key opens it, damage hurts one record."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.archive import encryption
from cloud.archive.encryption import OVERHEAD, ArchiveKey, decrypt, is_encrypted
from cloud.archive.overview import newest, slots
from cloud.archive.records import Record, read
from cloud.archive.schema import FILE
from cloud.archive.sources import open_part, parts_of
from shared.bundle import Bundle
from shared.codec.bitstream import MAGIC
from shared.codec.frame import MAGIC_2
from shared.errors import DataError
from support.archives import NOON, archive_at, at, put, record
from support.processes import ROOT, refused, run_here

TEXT, OTHER = "ab" * 32, "cd" * 32


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was given no key."""
    monkeypatch.setattr(encryption, "_keys", {})
    for name in (encryption.KEY_VARIABLE, encryption.KEY_FILE_VARIABLE):
        monkeypatch.delenv(name, raising=False)


def key_file(path: Path, text: str = TEXT) -> Path:
    file = path / "archive.key"
    file.write_text(f"{text}\n")
    return file


def fill(path: Path, key: ArchiveKey | None, number: int = 200) -> list[Record]:
    records = [replace(record(i), data=b"readable %4d " % i * 20) for i in range(number)]
    with archive_at(path, key=key) as archive:
        put(archive, *records)
    return records


def files_of(path: Path) -> bytes:
    return b"\0".join(file.read_bytes() for file in path.iterdir() if file.is_file())


def forget_keys() -> None:
    encryption._keys.clear()


def test_no_bitstream_is_readable_and_all_come_back(tmp_path: Path) -> None:
    records = fill(tmp_path / "kept", ArchiveKey(TEXT))
    assert b"readable" not in files_of(tmp_path / "kept")
    assert TEXT.encode() not in files_of(tmp_path / "kept")
    assert bytes.fromhex(TEXT) not in files_of(tmp_path / "kept")
    assert list(read(tmp_path / "kept")) == records
    # The same archive without a key: its bytes are there to be found.
    fill(tmp_path / "plain", None)
    assert b"readable" in files_of(tmp_path / "plain")


def test_equal_bitstreams_look_different(tmp_path: Path) -> None:
    same = [replace(record(i), data=b"the same") for i in range(2)]
    with archive_at(tmp_path, key=ArchiveKey(TEXT)) as archive:
        put(archive, *same)
    first, second = (one.encrypted for one in read(tmp_path))
    assert len(first) == len(second) == len(b"the same") + OVERHEAD
    assert first[8:] != second[8:]


def test_a_repeat_is_recognised_and_another_bitstream_too(tmp_path: Path) -> None:
    with archive_at(tmp_path, key=ArchiveKey(TEXT)) as archive:
        put(archive, record(1), record(1), replace(record(1), data=b"another"))
        assert archive.flush(30)
        assert (archive.written, archive.repeated, archive.dropped) == (1, 1, 1)


@pytest.mark.parametrize("key", [None, ArchiveKey(OTHER)])
def test_no_key_and_another_key_are_refused_by_name(tmp_path: Path, key: ArchiveKey | None) -> None:
    records = fill(tmp_path, ArchiveKey(TEXT))
    forget_keys()
    with (
        pytest.raises(DataError, match=f"encrypted with the key {ArchiveKey(TEXT).id.hex()}") as caught,
        archive_at(tmp_path, key=key),
    ):
        pass
    assert ("--archive-key-file" in str(caught.value)) == (key is None)
    with pytest.raises(DataError, match="is encrypted with the key"):
        list(read(tmp_path))
    encryption.use_key(ArchiveKey(TEXT))
    assert list(read(tmp_path)) == records


def test_the_environment_names_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = fill(tmp_path / "kept", ArchiveKey(TEXT))
    forget_keys()
    monkeypatch.setenv(encryption.KEY_FILE_VARIABLE, str(key_file(tmp_path)))
    assert list(read(tmp_path / "kept")) == records
    forget_keys()
    monkeypatch.setenv(encryption.KEY_FILE_VARIABLE, "")
    monkeypatch.setenv(encryption.KEY_VARIABLE, TEXT)
    assert list(read(tmp_path / "kept")) == records


def test_damaged_and_moved_records_are_errors_of_their_own(tmp_path: Path) -> None:
    records = fill(tmp_path, ArchiveKey(TEXT), 6)
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        db.execute("UPDATE records SET data = substr(data, 1, length(data) - 1) WHERE id = 1")
        moved = "UPDATE records SET data = (SELECT data FROM records WHERE id = 3) WHERE id = 2"
        db.execute(moved)
        db.commit()
    found = list(read(tmp_path))
    assert [is_encrypted(one.data) for one in found] == [True, True, False, False, False, False]
    assert found[2:] == records[2:]


def test_the_overview_sees_what_is_inside(tmp_path: Path) -> None:
    fill(tmp_path / "kept", ArchiveKey(TEXT), 10)
    fill(tmp_path / "plain", None, 10)
    span = NOON, at(3600), 900
    assert list(slots(tmp_path / "kept", *span)) == list(slots(tmp_path / "plain", *span))
    assert newest(tmp_path / "kept", "door", 3) == newest(tmp_path / "plain", "door", 3)


def test_an_archive_from_before_goes_on_and_is_encrypted_by_a_command(tmp_path: Path) -> None:
    kept, file = tmp_path / "kept", key_file(tmp_path)
    records = fill(kept, None)
    with archive_at(kept, key=ArchiveKey(TEXT)) as archive:
        put(archive, record(1000))
    assert list(read(kept)) == [*records, record(1000)]
    assert b"readable" in files_of(kept)
    command = ("cloud", "archive", "encrypt", "--archive", kept, "--archive-key-file", file)
    assert f"200 records encrypted with the key {ArchiveKey(TEXT).id.hex()}" in run_here(*command).stdout
    assert b"readable" not in files_of(kept)
    assert list(read(kept)) == [*records, record(1000)]
    assert "0 records encrypted" in run_here(*command).stdout


def test_a_new_key_takes_the_place_of_the_old(tmp_path: Path) -> None:
    """Also of readable records; what is damaged stays so; a third key changes nothing."""
    kept, old, new, third = (tmp_path / name for name in ("kept", "archive.key", "new.key", "third.key"))
    for file, text in ((old, TEXT), (new, OTHER), (third, "5e" * 32)):
        file.write_text(text)
    fill(kept, None, 3)
    records = fill(kept, ArchiveKey(TEXT), 40)
    with closing(sqlite3.connect(kept / FILE)) as db, db:
        cut = "UPDATE records SET data = substr(data, 1, 60) WHERE request_id = ?"
        db.execute(cut, (records[7].request_id,))
    run = ("cloud", "archive", "encrypt", "--archive", kept, "--archive-key-file")
    told = refused(*run, third, "--new-key-file", new, status=2)
    assert f"is encrypted with the key {ArchiveKey(TEXT).id.hex()}; the one given is" in told
    id_ = ArchiveKey(OTHER).id.hex()
    assert f"40 records encrypted with the key {id_}" in run_here(*run, old, "--new-key-file", new).stdout
    assert ArchiveKey(TEXT).mark not in files_of(kept)
    assert b"readable" not in files_of(kept)
    assert f"0 records encrypted with the key {id_}" in run_here(*run, old, "--new-key-file", new).stdout
    forget_keys()
    with pytest.raises(DataError, match="the one given is"), archive_at(kept, key=ArchiveKey(TEXT)):
        pass
    with archive_at(kept, key=ArchiveKey(OTHER)) as archive:
        put(archive, record(2000))
    found = list(read(kept))
    assert is_encrypted(found.pop(7).data)
    assert found == [*records[:7], *records[8:], record(2000)]


def test_encrypting_has_the_archive_alone(tmp_path: Path) -> None:
    kept, file = tmp_path / "kept", key_file(tmp_path)
    fill(kept, None)
    command = ("cloud", "archive", "encrypt", "--archive", kept)
    with archive_at(kept):
        told = refused(*command, "--archive-key-file", file, status=2)
        assert told == f"a server has {kept}; stop it first"
    assert "openssl rand" in refused(*command, status=2)
    assert "no archive at" in refused(
        "cloud", "archive", "encrypt", "--archive", tmp_path / "no", "--archive-key-file", file, status=2
    )
    assert not (tmp_path / "no").exists()


def test_a_kill_while_encrypting_loses_nothing(tmp_path: Path) -> None:
    kept, file = tmp_path / "kept", key_file(tmp_path)
    records = fill(kept, None, 900)
    script = f"""
import os, signal, sys
from cloud.archive import encrypting, offline
from cloud.archive.encryption import ArchiveKey
from pathlib import Path
seen = 0
class Dying(ArchiveKey):
    def encrypt(self, *what):
        global seen
        seen += 1
        if seen == 700: os.kill(os.getpid(), signal.SIGKILL)
        return super().encrypt(*what)
offline.encrypt_archive(Path({str(kept)!r}), Dying({TEXT!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], timeout=60, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == -signal.SIGKILL
    encryption.use_key(ArchiveKey(TEXT))
    assert list(read(kept)) == records
    assert {bool(one.encrypted) for one in read(kept)} == {True, False}
    run_here("cloud", "archive", "encrypt", "--archive", kept, "--archive-key-file", file)
    assert list(read(kept)) == records
    assert b"readable" not in files_of(kept)


def test_a_replay_asks_with_the_key(tmp_path: Path, bundle: Bundle, tiny_bundle: Path, stream: Path) -> None:
    kept, file = tmp_path / "kept", key_file(tmp_path)
    with archive_at(kept, key=ArchiveKey(TEXT)) as archive:
        put(
            archive,
            replace(record(0), data=stream.read_bytes()),
            replace(record(1), data=stream.read_bytes()),
        )
    with closing(sqlite3.connect(kept / FILE)) as db:
        db.execute("UPDATE records SET data = substr(data, 1, length(data) - 1) WHERE id = 2")
        db.commit()
    forget_keys()
    span = ("--from", NOON.isoformat(), "--to", at(60).isoformat(), "--task", "classification")
    out = tmp_path / "out.jsonl"
    command = ("cloud", "replay", "--archive", kept, "--bundle", tiny_bundle, "--out", out, *span)
    assert "none is given" in refused(*command, status=2)
    assert not out.exists()
    wrong = tmp_path / "wrong.key"
    wrong.write_text(OTHER)
    told = refused(*command, "--archive-key-file", wrong, status=2)
    assert f"; the one given is {ArchiveKey(OTHER).id.hex()}" in told
    done = run_here(*command, "--archive-key-file", file)
    assert done.returncode == 0, done.stderr
    answered, damaged = out.read_text().splitlines()
    assert '"result"' in answered
    assert "it does not decrypt" in damaged


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is not 64 hex digits; openssl rand -hex 32 makes one"),
        (b"ab" * 31, "is not 64 hex digits"),
        (b"ab" * 33, "is not 64 hex digits"),
        (b"\xff\x00" * 32, "is not 64 hex digits"),
        (None, "cannot read the archive's key from"),
    ],
    ids=["empty", "short", "long", "binary", "absent"],
)
def test_what_is_no_key(tmp_path: Path, content: bytes | None, text: str) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    told = refused(
        "cloud", "serve", "--archive", tmp_path / "kept", "--archive-key-file", file, "--grpc-port", "0",
        "--http-port", "0", status=2,
    )  # fmt: skip
    assert str(file) in told
    assert text in told
    assert "ab" * 8 not in told


def test_segments_are_encrypted_too(tmp_path: Path, stream: Path) -> None:
    """Sealed from an encrypted database they stay so; from before, the command writes them anew."""
    pytest.importorskip("pyarrow")
    kept, data = tmp_path / "kept", stream.read_bytes()
    use = ("--archive", kept, "--archive-key-file", key_file(tmp_path))

    def seal_some(numbers: range, key: ArchiveKey | None) -> list[Record]:
        records = [replace(record(i), data=data) for i in numbers]
        with archive_at(kept, key=key) as archive:
            put(archive, *records)
        done = run_here("cloud", "archive", "seal", *use, "--older-than", "0m")
        assert "5 records" in done.stdout, done.stderr
        return records

    records = seal_some(range(5), None)
    assert data[20:] in files_of(kept / "segments")
    done = run_here("cloud", "archive", "encrypt", *use)
    assert "5 records encrypted" in done.stdout
    records += seal_some(range(5, 10), ArchiveKey(TEXT))
    assert data[20:] not in files_of(kept) + files_of(kept / "segments")
    done = run_here("cloud", "archive", "verify", *use)
    assert "no flaw in 10 records" in done.stdout, done.stdout
    assert list(archived(kept)) == records
    delete = ("cloud", "archive", "delete", *use, "--camera", "door", "--to", at(2).isoformat())
    assert "2 records deleted" in run_here(*delete).stdout
    assert list(archived(kept)) == records[2:]
    forget_keys()
    with pytest.raises(DataError, match="none is given"):
        list(archived(kept))


def archived(path: Path) -> Iterator[Record]:
    """The records of all parts of an archive."""
    for part in parts_of(path):
        with open_part(part) as source:
            yield from source.read(None, None, None, "captured")


@given(st.binary(max_size=300), st.text(max_size=20), st.integers(0, 1 << 52))
@settings(max_examples=30)
def test_any_bytes_return_and_none_are_taken_for_another_record(data: bytes, camera: str, at_us: int) -> None:
    key = ArchiveKey(TEXT)
    encryption.use_key(key)
    encrypted = key.encrypt(data, camera, "id", at_us)
    assert decrypt(encrypted, camera, "id", at_us) == data
    for beside in ((camera + "x", "id", at_us), (camera, "ide", at_us), (camera, "id", at_us + 1)):
        assert decrypt(encrypted, *beside) == encrypted
    for cut in (8, 19, len(encrypted) - 1):
        assert is_encrypted(decrypt(encrypted[:cut], camera, "id", at_us))
    assert TEXT not in repr(key)


def test_no_bitstream_begins_as_an_encrypted_one() -> None:
    assert encryption.MAGIC[0] not in (MAGIC, MAGIC_2)
