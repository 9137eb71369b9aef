"""SQLite connections whose errors are all sqlite3's."""

from __future__ import annotations

import sqlite3
from typing import Any


class Database(sqlite3.Connection):
    """For `sqlite3.connect(..., factory=Database)`.

    Some messages quote the file, as that of a malformed schema does. Where a damaged file's bytes are no UTF-8, Python
    raises UnicodeDecodeError in place of the error that it meant.
    """

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        try:
            return super().execute(*arguments)
        except UnicodeDecodeError:
            error = sqlite3.DatabaseError("the database's schema is damaged")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT  # as SQLite says of such a file
            raise error from None
