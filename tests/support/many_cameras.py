"""A real box with many cameras and a real cloud for some minutes: what became of the images, CPU, memory.

python -m support.many_cameras FOLDER [--cameras 8] [--minutes 2] [--fps 5]
"""

from __future__ import annotations

import argparse
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from support.processes import ROOT, server

CLIP = ROOT / "deploy" / "samples" / "photos" / "people.mp4"


@dataclass(frozen=True)
class Found:
    """accepted: frames of each camera. Memory: PSS of the box and its children, bytes. text: all of it, for people."""

    accepted: tuple[int, ...]
    memory_minute_1: int
    memory_end: int
    text: str


def measure(path: Path, cameras: int = 8, minutes: float = 10, fps: float = 5) -> Found:
    with ExitStack() as stack:
        file = path / "cloud.toml"
        file.write_text(f'[grpc]\nport = 0\n[http]\nport = 0\n[archive]\nfolder = "{path / "archive"}"\n')
        cloud = stack.enter_context(server("cloud", "serve", "--config", file))
        address = cloud.event("listening")["grpc"]
        cloud.event("ready")
        file = path / "box.toml"
        file.write_text(
            f'[cloud]\naddress = "{address}"\n[http]\nport = 0\n[spool]\nfolder = "{path / "spool"}"\n'
            + "".join(
                f'[sources.camera-{number}]\nkind = "video"\nurl = "{CLIP}"\nloop = true\nfps = {fps:g}\n'
                for number in range(cameras)
            )
        )
        box = stack.enter_context(server("edge", "run", "--config", file))
        url = f"http://{box.event('listening')['http']}/status"
        box.event("ready")
        process = psutil.Process(box.process.pid)
        began = time.monotonic()
        _wait(began + 60)
        first, cpu_first = _status(url), _cpu_s(process)
        memory_first = _pss(process)
        _wait(began + 60 * minutes)
        last, cpu_last = _status(url), _cpu_s(process)
        memory_last = _pss(process)
        box.process.kill()
        cloud.process.kill()
    return _found(first, last, cpu_last - cpu_first, (memory_first, memory_last), minutes)


def _found(
    first: dict[str, Any], last: dict[str, Any], cpu_s: float, memory: tuple[int, int], minutes: float
) -> Found:
    sources = last["sources"]
    accepted = tuple(one["accepted"] for one in sources.values())
    frames = sum(accepted) - sum(one["accepted"] for one in first["sources"].values())
    drops, types = Counter[str](), Counter[str]()
    for one in sources.values():
        drops.update(one["drops"])
        types.update(one["sent"])
    lines = (
        f"{len(sources)} cameras, {minutes:g} minutes: {sum(one['captured'] for one in sources.values())} captured, "
        f"{sum(accepted)} accepted ({min(accepted)} to {max(accepted)} a camera), not sent {dict(drops)}",
        f"acknowledged {last['link']['sent']} ({dict(types)}), {last['link']['sent_bytes']} bytes, "
        f"{last['spool']['depth']} wait, spool drops {last['spool']['drops']}",
        f"CPU after the first minute: {1e3 * cpu_s / max(frames, 1):.0f} ms a frame, children included",
        f"PSS, children included: {memory[0] / 1e6:.0f} MB after minute 1, {memory[1] / 1e6:.0f} MB at the end",
    )
    return Found(accepted, *memory, "\n".join(lines))


def _wait(until_s: float) -> None:
    threading.Event().wait(max(until_s - time.monotonic(), 0))


def _status(url: str) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(url, timeout=60).raise_for_status().json()
    return answer


def _cpu_s(process: psutil.Process) -> float:
    """Of the box and of the children that run now; what ended ones took is in the box's own."""
    own = process.cpu_times()
    each = [one.cpu_times() for one in process.children()]
    return own.user + own.system + sum(one.user + one.system for one in each)


def _pss(process: psutil.Process) -> int:
    return sum(one.memory_full_info().pss for one in (process, *process.children()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cameras", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--fps", type=float, default=5)
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    print(measure(chosen.folder, chosen.cameras, chosen.minutes, chosen.fps).text)
