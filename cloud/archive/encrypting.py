"""Which key an archive's database is written with, and how one that was not encrypted becomes so.

The table `encryption` holds one row, the key id, since the archive was first opened with a key. Records from before
stay as they are until `encrypt` has been there: each says by its first bytes whether it is encrypted.
"""

from __future__ import annotations

import sqlite3

from cloud.archive.deletion import wipe
from cloud.archive.encryption import MAGIC, ArchiveKey, wrong_key
from shared.errors import DataError

_KEYS = 500  # rows of one transaction


def check_key(db: sqlite3.Connection, key: ArchiveKey | None) -> None:
    """Notes the key of an archive that has none yet. Raises DataError for another one, or where it needs one."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'encryption'").fetchone():
        (held,) = db.execute("SELECT key_id FROM encryption").fetchone()
        if key is None or key.id != held:
            raise DataError(wrong_key(held, key))
    elif key is not None:
        db.execute("BEGIN IMMEDIATE")
        db.execute("CREATE TABLE encryption (key_id BLOB NOT NULL)")
        db.execute("INSERT INTO encryption VALUES (?)", (key.id,))
        db.execute("COMMIT")


def encrypt(db: sqlite3.Connection, key: ArchiveKey) -> int:
    """Encrypts what is not yet, and leaves none of it readable in the files. Returns how many records.

    A kill leaves records of both kinds, all whole; doing it again finishes. Raises sqlite3.Error.
    """
    count = last = 0
    query = """SELECT id, camera, request_id, received_us, data FROM records
               WHERE id > ? AND substr(data, 1, 2) != ? ORDER BY id LIMIT ?"""
    while rows := db.execute(query, (last, MAGIC, _KEYS)).fetchall():
        encrypted = [(key.encrypt(bytes(row[4]), *row[1:4]), row[0]) for row in rows]
        db.execute("BEGIN IMMEDIATE")
        db.executemany("UPDATE records SET data = ? WHERE id = ?", encrypted)
        db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        count, last = count + len(rows), rows[-1][0]
    wipe(db)
    return count
