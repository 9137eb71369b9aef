"""`isthmus bench archive`: what sealing, verifying, exporting, replaying and expiring an archive cost.

real frames, repeated -> Archive -> seal, killed once in the middle -> verify -> export -> a flipped bit -> verify
    -> a replay of one camera over all segments, twice -> expiry of the older half -> report
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import IO, NamedTuple

from rich.progress import track

from bench.archive.archive_report import Archived, Step, write_archived
from bench.archive.streams import STARTED_AT, Stream, coded_streams, ends_at, records
from bench.report.report import About
from cloud.archive.archive import Archive
from cloud.archive.schema import FILE
from cloud.archive.sources import count_records
from shared.bundle import Bundle
from shared.errors import DataError
from shared.process.child_process import ISTHMUS

_QUEUE = 5000
_LOOK_S = 0.02
_LONG_S = 100 * 366 * 86_400.0


@dataclass(frozen=True)
class ArchivePlan:
    """What is measured. folder: for the archive, its copy and the answers. stream: frames of a chunk."""

    bundle: Path
    out: Path
    folder: Path
    total: int
    cameras: int
    task: str | None = None
    stream: int = 60


class _Ended(NamedTuple):
    status: int
    stdout: str
    seconds: float
    cpu_s: float
    most_mb: float


def bench_archive(plan: ArchivePlan, command: str) -> Archived:
    """Measures, and writes the report. Raises DataError where a command fails."""
    bundle = Bundle.open(plan.bundle)
    task = plan.task or bundle.tasks[0].name
    streams = coded_streams(bundle, plan.stream)
    kept, copy, answers = (plan.folder / name for name in ("kept", "copy", "answers"))
    steps = [_write(plan, streams, kept)]
    size = steps[0].bytes
    head_bytes = (kept / FILE).stat().st_size
    killed_records = _killed(kept)

    def step(name: str, *words: object, of: int = plan.total) -> str:
        ended = _run("cloud", *words)
        if ended.status:
            raise DataError(f"isthmus cloud {' '.join(map(str, words))}: status {ended.status}")
        steps.append(_step(name, ended, of, size))
        return ended.stdout

    step("seal", "archive", "seal", "--archive", kept, "--older-than", "0m")
    step("verify", "archive", "verify", "--archive", kept)
    step("export", "archive", "export", "--archive", kept, "--out", copy)
    flipped = _flip(copy)
    found = _run("cloud", "archive", "verify", "--archive", copy).stdout.strip().replace(f"{copy}/", "")
    replay = (
        "replay",
        "--archive",
        kept,
        "--task",
        task,
        "--bundle",
        plan.bundle,
        "--camera",
        "camera-1",
    )
    span = ("--from", STARTED_AT.isoformat(), "--to", ends_at(plan.cameras, plan.total).isoformat())
    for name in ("replay of one camera", "the same replay again"):
        step(name, *replay, *span, "--answers", answers, of=plan.total // plan.cameras)
    sealed = sorted((kept / "segments").iterdir())
    segments = _sizes(sealed)
    half = STARTED_AT + (ends_at(plan.cameras, plan.total) - STARTED_AT) / 2
    minutes = int((datetime.now(UTC) - half).total_seconds() // 60)
    step("expire the older half", "archive", "expire", "--archive", kept, "--older-than", f"{minutes}m")
    measured = Archived(
        about=About.now(command, plan.total),
        bundle=bundle.manifest.name,
        records=plan.total,
        cameras=plan.cameras,
        **_kinds(streams),
        **segments,
        head_bytes=head_bytes,
        killed_records=killed_records,
        flipped=flipped,
        found=found,
        steps=tuple(steps),
    )
    write_archived(plan.out, measured)
    return measured


def _write(plan: ArchivePlan, streams: list[Stream], kept: Path) -> Step:
    """Writes all records as a server does."""
    archive = Archive(kept, 1 << 40, _LONG_S, queue_max=_QUEUE)
    started, cpu, size = time.perf_counter(), time.process_time(), 0
    made = records(streams, plan.cameras, plan.total)
    for i, record in enumerate(track(made, "records", plan.total), start=1):
        archive.append(
            record.camera,
            record.received_at,
            record.request_id,
            record.data,
            record.captured_at,
            record.chunk,
        )
        size += len(record.data)
        if i % (_QUEUE // 2) == 0:
            archive.flush()
    archive.close()
    if archive.dropped:
        raise DataError(f"the archive dropped {archive.dropped} records: {archive.trouble}")
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    return Step(
        name="write (a server's archive)",
        seconds=seconds,
        cpu_s=cpu_s,
        records=plan.total,
        bytes=size,
        most_mb=0,
    )


def _killed(kept: Path) -> int:
    """Kills a sealing once its first file is there. Returns how many records the archive then has."""
    seal = _start("cloud", "archive", "seal", "--archive", kept, "--older-than", "0m")
    until = time.monotonic() + 600
    while seal.poll() is None and not any((kept / "segments").glob("*.data")):
        if time.monotonic() > until:
            break
        time.sleep(0.01)
    seal.kill()
    seal.wait()
    return count_records(kept)


def _flip(copy: Path) -> str:
    """Flips a bit in the middle of a segment. Returns the file's name."""
    files = sorted(copy.glob("*.data"))
    file = files[len(files) // 2]
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        byte = opened.read(1)[0]
        opened.seek(-1, os.SEEK_CUR)
        opened.write(bytes([byte ^ 1]))
    return file.name


def _run(*words: object) -> _Ended:
    started, most_kb = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as stdout:
        process = _start(*words, stdout=stdout)
        while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            # What wait4 says of memory would include this process, of which the other one began as a copy.
            most_kb = max(most_kb, _most_kb(process.pid))
            time.sleep(_LOOK_S)
        process.returncode = os.waitstatus_to_exitcode(ended[1])
        seconds, usage = time.perf_counter() - started, ended[2]
        stdout.seek(0)
        text = stdout.read()
    return _Ended(process.returncode, text, seconds, usage.ru_utime + usage.ru_stime, most_kb / 1024)


def _most_kb(pid: int) -> int:
    """The largest resident memory of a process so far; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def _start(*words: object, stdout: IO[str] | int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    return subprocess.Popen([*ISTHMUS, *map(str, words)], stdout=stdout, text=True)


def _step(name: str, ended: _Ended, of: int, size: int) -> Step:
    return Step(
        name=name,
        seconds=ended.seconds,
        cpu_s=ended.cpu_s,
        records=of,
        bytes=size,
        most_mb=ended.most_mb,
    )


def _kinds(streams: list[Stream]) -> dict[str, dict[str, float]]:
    """Shares and mean sizes of the frames, by type."""
    both = [(kind, len(data)) for one in streams for kind, data in zip(one.types, one.data, strict=True)]
    counts = Counter(kind for kind, _ in both)
    return {
        "shares": {kind: count / len(both) for kind, count in counts.items()},
        "sizes": {kind: fmean(size for other, size in both if other == kind) for kind in counts},
    }


def _sizes(files: list[Path]) -> dict[str, int]:
    data, index = (
        [one.stat().st_size for one in files if one.suffix == end] for end in (".data", ".parquet")
    )
    return {"segments": len(index), "data_bytes": sum(data), "index_bytes": sum(index)}
