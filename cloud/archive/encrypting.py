"""Which key an archive's database is written with, and how it gets one, or another one.

The table `encryption` holds one row, the key id, since the archive was first opened with a key. Records from before
stay as they are until `encrypt` has been there: each says by its first bytes which key it needs, if any.
"""

from __future__ import annotations

import sqlite3

from cloud.archive.deletion import wipe
from cloud.archive.encryption import ArchiveKey, wrong_key
from shared.errors import DataError

# Of one transaction, which is held in memory.
_ROWS = 500
_BYTES = 8 << 20


def check_key(db: sqlite3.Connection, key: ArchiveKey | None) -> None:
    """Notes the key of an archive that has none yet. Raises DataError for another one, or where it needs one."""
    held = _key_id(db)
    if held is not None:
        if key is None or key.id != held:
            raise DataError(wrong_key(held, key))
    elif key is not None:
        db.execute("BEGIN IMMEDIATE")
        db.execute("CREATE TABLE encryption (key_id BLOB NOT NULL)")
        db.execute("INSERT INTO encryption VALUES (?)", (key.id,))
        db.execute("COMMIT")


def change_key(db: sqlite3.Connection, old: ArchiveKey, new: ArchiveKey) -> None:
    """Notes a new key in place of the old one, before `encrypt` writes with it: a kill between leaves records of both.

    Does nothing where it is noted, or no key is. Raises DataError where the archive has a third one.
    """
    held = _key_id(db)
    if held in (None, new.id):
        return
    if held != old.id:
        raise DataError(wrong_key(held, old))
    db.execute("UPDATE encryption SET key_id = ?", (new.id,))


def _key_id(db: sqlite3.Connection) -> bytes | None:
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'encryption'").fetchone():
        return None
    return bytes(db.execute("SELECT key_id FROM encryption").fetchone()[0])


def encrypt(db: sqlite3.Connection, key: ArchiveKey) -> int:
    """Encrypts what is not yet, or with another key that this process has, and leaves nothing of its former bytes in
    the files. Returns how many records. What is damaged stays so.

    A kill leaves records of both kinds, all whole; doing it again finishes. Raises sqlite3.Error, or DataError where a
    record needs a key that this process has not.
    """
    count = last = 0
    while span := _next(db, last, key):
        first, last = span
        rows = db.execute(
            f"""SELECT id, camera, request_id, received_us, data FROM records
                WHERE id BETWEEN ? AND ? AND {_OTHERS}""",
            (first, last, len(key.mark), key.mark),
        ).fetchall()
        changed = [(key.encrypt_again(bytes(data), *about), id_) for id_, *about, data in rows]
        db.execute("BEGIN IMMEDIATE")
        db.executemany("UPDATE records SET data = ? WHERE id = ?", changed)
        db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        count += len(changed)
    wipe(db)
    return count


_OTHERS = "substr(data, 1, ?) != ?"  # what another key, or none, has written


def _next(db: sqlite3.Connection, last: int, key: ArchiveKey) -> tuple[int, int] | None:
    """First and last id of some records after the id `last` that are not of the key; None if there are none."""
    query = f"SELECT id, length(data) FROM records WHERE id > ? AND {_OTHERS} ORDER BY id LIMIT ?"
    rows = db.execute(query, (last, len(key.mark), key.mark, _ROWS)).fetchall()
    if not rows:
        return None
    end, size = rows[0][0], 0
    for id_, length in rows:
        size += length
        if size > _BYTES:
            break
        end = id_
    return rows[0][0], end
