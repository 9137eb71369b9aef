"""Answers of replays as Parquet, each camera, request id and task once. Knows no engine.

    ANSWERS/<task>/<segment>.<digest>.parquet     <segment>: without its generation; <digest>: of the keys in the file

    camera, captured, received, request_id, frame   as in a segment's index
    bundle      fingerprint of the bundle that answered, 8 hex digits
    task
    result      JSON, as `POST /analyze` returns it for that task

Only answers are written. A record without one is asked again by the next replay: another bundle may answer it.

A replay writes what is not there yet, some thousand rows at a time, so that a killed one goes on where it was. Two that
answer the same segment at the same time write the same files.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cloud.segments.files import Files
from cloud.segments.segment import Name
from shared.errors import DataError

ROWS_MAX = 20_000  # of a file
BYTES_MAX = 16 << 20  # of its results
_KEY = b"isthmus.answers"

Key = tuple[str, str]  # camera, request id


@dataclass(frozen=True)
class Maker:
    """What made answers. digest: of the task's weights and of how it was asked, as hex."""

    task: str
    bundle: str
    digest: str


class AnswerStore:
    """The answers of one task. url: of the folder for all tasks, see `Files`.

    Every method raises DataError. Raises RequestError for an address that nothing here reads.
    """

    def __init__(self, url: str, maker: Maker) -> None:
        self._files, self._maker = Files(f"{url.rstrip('/')}/{maker.task}"), maker
        self._written: dict[str, list[str]] | None = None  # files by segment; the folder is listed once

    def check(self) -> None:
        """Raises DataError where the folder has answers of an older task of that name, or to another question."""
        for file in self._files.names(".parquet")[:1]:
            self._table(file, [])

    def known(self, segment: Name) -> set[Key]:
        """The records of a segment that are answered."""
        known: set[Key] = set()
        for file in self._of(segment):
            table = self._table(file, ["camera", "request_id"])
            cameras, request_ids = (table.column(i).to_pylist() for i in range(2))
            known.update(zip(cameras, request_ids, strict=True))
        return known

    def writer(self, segment: Name) -> AnswerWriter:
        return AnswerWriter(self._files, segment, self._maker, self._of(segment))

    def _of(self, segment: Name) -> list[str]:
        """The files of a segment's answers, those that a writer of this store adds included."""
        if self._written is None:
            self._written = {}
            for file in self._files.names(".parquet"):
                self._written.setdefault(file.partition(".")[0], []).append(file)
        return self._written.setdefault(segment.base, [])

    def _table(self, file: str, columns: list[str]) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(pa.BufferReader(self._files.read(file)), columns=columns)
            maker = json.loads((table.schema.metadata or {})[_KEY])["digest"]
        except (pa.ArrowException, KeyError, ValueError):
            raise DataError(
                f"{self._files.shown}/{file} holds no answers, or is damaged; remove it"
            ) from None
        if maker != self._maker.digest:
            raise DataError(
                f"{self._files.shown} has answers of {self._maker.task} as it was before, or asked in another way; "
                "choose another folder",
                setting="answers",
            )
        return table


@dataclass
class AnswerWriter:
    """Takes the lines of a replay of one segment. `flush` it at the end. names: gets the name of each file."""

    files: Files
    segment: Name
    maker: Maker
    names: list[str]
    rows: list[dict[str, Any]] = field(default_factory=list)
    size: int = 0
    written: int = 0

    def write(self, line: bytes) -> None:
        """One line of `cloud.archive.replay`. Raises DataError."""
        fields = json.loads(line)
        if "error" in fields:
            return
        result = json.dumps(fields["result"], ensure_ascii=False)
        self.size += len(result)
        self.rows.append(
            {
                "camera": fields["camera"],
                "captured": fields["captured_at"] and datetime.fromisoformat(fields["captured_at"]),
                "received": datetime.fromisoformat(fields["received_at"]),
                "request_id": fields["request_id"],
                "frame": fields["frame"],
                "bundle": self.maker.bundle,
                "task": fields["task"],
                "result": result,
            }
        )
        if len(self.rows) >= ROWS_MAX or self.size >= BYTES_MAX:
            self.flush()

    def flush(self) -> None:
        """Writes what was taken. Raises DataError."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self.rows:
            return
        keys = "\n".join(f"{row['camera']} {row['request_id']}" for row in self.rows)
        metadata = {_KEY: json.dumps({"version": 1, "digest": self.maker.digest}).encode()}
        moment, text = pa.timestamp("us", "UTC"), pa.string()
        types = {"captured": moment, "received": moment}
        schema = pa.schema([(name, types.get(name, text)) for name in self.rows[0]], metadata)
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(self.rows, schema), sink, compression="zstd")
        digest = hashlib.sha256(keys.encode()).hexdigest()[:16]
        file = f"{self.segment.base}.{digest}.parquet"
        self.files.write(file, bytes(sink.getvalue()))
        if file not in self.names:
            self.names.append(file)
        self.written += len(self.rows)
        self.rows, self.size = [], 0
