"""What a job is answered with, as a name that other processes can load it by."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from shared.bundle import TASKS, AddedTask, Bundle
from shared.errors import BundleError


@dataclass(frozen=True)
class Version:
    """A bundle's folder and fingerprint, and its added tasks.

    tasks: name and digest of each. Another task is another version, which is loaded beside the one that runs.
    """

    path: str
    fingerprint: str
    tasks: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, name: str) -> Version:
        return _VERSION.validate_json(name)

    @property
    def name(self) -> str:
        return _VERSION.dump_json(self).decode()

    @classmethod
    def of(cls, bundle: Bundle) -> Version:
        tasks = tuple((added.task.name, _digest(added)) for added in bundle.added)
        return cls(str(bundle.path.resolve()), bundle.manifest.fingerprint, tasks)

    def open(self) -> Bundle:
        """The bundle as it lies on the disk. Raises BundleError where it is another one by now."""
        bundle = Bundle.open_without_added(self.path)
        if bundle.manifest.fingerprint != self.fingerprint:
            raise BundleError(f"{self.path} holds another bundle by now")
        for name, digest in self.tasks:
            added = bundle.read_added(Path(self.path) / TASKS / name)
            if _digest(added) != digest:
                raise BundleError(f"{self.path} holds another task {name} by now")
            bundle = bundle.with_added(added)
        return bundle


def _digest(added: AddedTask) -> str:
    return hashlib.sha256(added.model_dump_json().encode()).hexdigest()[:16]


_VERSION = TypeAdapter(Version)
