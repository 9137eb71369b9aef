"""A folder on a local disk or in any store that fsspec knows. Knows no segment.

A local file is written under another name, synced and renamed; an object store shows an object when it is whole. So a
name that is there stands for a whole file, on every store that has one of the two.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import DataError, IsthmusError, RequestError
from shared.files import sync_folder, write_atomically

# Of these only a bucket could be made, of a misspelt name perhaps.
_BUCKETS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl"}
_NEEDED = "segments need pyarrow and fsspec: pip install -c constraints.txt -e '.[archive]'"


class Files:
    """The files of one folder, by name.

    url: a path, or an address as s3://bucket/folder or memory://folder; see fsspec for what each needs.

    Every method raises DataError where the store refuses. Raises RequestError for an address that nothing here reads.
    """

    def __init__(self, url: str | Path) -> None:
        try:
            from fsspec.core import url_to_fs
        except ModuleNotFoundError:
            raise RequestError(_NEEDED) from None
        self.shown = re.sub(r"://[^/@]*@", "://", str(url))  # without a password
        try:
            self._fs, self._root = url_to_fs(str(url))
        except (ValueError, ImportError) as error:
            raise RequestError(f"{self.shown}: {error}") from None
        named = self._fs.protocol
        protocols = set(named) if isinstance(named, tuple) else {named}
        self.folder = Path(self._root) if "local" in protocols else None
        self._has_folders = not protocols & _BUCKETS

    def is_same(self, other: Files) -> bool:
        """Whether both are one folder."""
        return bool(self._fs == other._fs) and self._root.rstrip("/") == other._root.rstrip("/")

    def names(self, end: str = "") -> list[str]:
        """The names that end so, in order; none where the folder is not there."""
        with self._asking("listed"):
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(self._root, detail=False)
            except FileNotFoundError:
                return []
        names = (path.rstrip("/").rpartition("/")[2] for path in found)
        return sorted(name for name in names if name.endswith(end) and not name.startswith("."))

    def unfinished(self) -> list[str]:
        """The names of files that a killed process was writing; only on a local disk."""
        if self.folder is None or not self.folder.is_dir():
            return []
        with self._asking("listed"):
            return sorted(path.name for path in self.folder.iterdir() if path.name.startswith("."))

    def read(self, name: str) -> bytes:
        """A whole file."""
        with self._asking(name):
            if self.folder is not None:
                return (self.folder / name).read_bytes()
            return bytes(self._fs.cat_file(self._path(name)))

    def range(self, name: str, start: int, end: int) -> bytes:
        """The bytes of a file from `start` to before `end`, fewer where it ends before; `start` is inside of it."""
        with self._asking(name):
            if self.folder is None:
                return bytes(self._fs.cat_file(self._path(name), start=start, end=end))
            with (self.folder / name).open("rb") as file:
                file.seek(start)
                return file.read(end - start)

    def size(self, name: str) -> int:
        with self._asking(name):
            return int(self._fs.size(self._path(name)))

    def write(self, name: str, data: bytes) -> None:
        """Writes a file that is whole or absent, and outlives a crash. One of that name is replaced."""
        with self._asking(name):
            if self.folder is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_atomically(self.folder / name, data)
            else:
                if self._has_folders:
                    self._fs.makedirs(self._root, exist_ok=True)
                try:
                    self._fs.pipe_file(self._path(name), data)
                except FileNotFoundError:
                    raise DataError(f"{self.shown} is not there; make it first") from None

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        with self._asking(name):
            if self.folder is not None:
                (self.folder / name).unlink(missing_ok=True)
                sync_folder(self.folder)
            elif self._fs.exists(self._path(name)):
                self._fs.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{os.path.basename(name)}"

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Each store's library has errors of its own, without a common base."""
        try:
            yield
        except IsthmusError:
            raise
        except FileNotFoundError:
            raise DataError(f"{self.shown} has no {what}; it was deleted or replaced") from None
        except Exception as error:
            text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
            raise DataError(f"{self.shown}: {what}: {text}") from None
