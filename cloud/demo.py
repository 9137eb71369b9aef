"""`isthmus demo`: a cloud and an edge as two real processes on this machine, and what they make of some images.

    check the images -> start `isthmus cloud serve`, `isthmus edge serve` -> POST each image to the edge
                     -> a table, result.json, sheet.png -> both processes ended

Speaks HTTP to the edge like any client, and loads neither torch nor a network itself.
"""

from __future__ import annotations

import io
import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx
from PIL import Image, ImageDraw, ImageFont

from shared.bundle import Bundle, Preprocess
from shared.errors import IsthmusError, RemoteError, RemoteRejectedError, RequestError
from shared.files import write_atomically
from shared.image import fit, read_image
from shared.types import Analysis, ClassificationResult, ClassScore

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "deploy" / "samples"
JPEG_QUALITY = 75
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 15.0

_TILE, _CAPTION = 256, 58  # pixels of a picture and of the text below it


@dataclass(frozen=True)
class Picture:
    """An image to send. fitted: as the network sees it; jpeg_bytes: that, as JPEG of quality 75, for scale."""

    path: Path
    fitted: Image.Image
    jpeg_bytes: int


@dataclass(frozen=True)
class Row:
    """One picture and what came back for it."""

    picture: Picture
    analysis: Analysis

    @property
    def label(self) -> str:
        return self._best.label

    @property
    def score(self) -> float:
        return self._best.score

    @property
    def _best(self) -> ClassScore:
        results = self.analysis.results.values()
        return next(result for result in results if isinstance(result, ClassificationResult)).top[0]

    @property
    def ratio(self) -> float:
        return self.picture.jpeg_bytes / self.analysis.bytes.total

    @property
    def edge_ms(self) -> float:
        times = self.analysis.times
        return sum(t or 0 for t in (times.read_ms, times.front_ms, times.code_ms))

    @property
    def cloud_ms(self) -> float:
        times = self.analysis.times
        return sum(t or 0 for t in (times.queue_ms, times.decode_ms, times.tails_ms))


def run_demo(images: Sequence[Path], out: Path, bundle: Path) -> None:
    """The whole demo. Raises ImageError and its kin or BundleError before any server starts, IsthmusError after."""
    manifest = Bundle.open(bundle).manifest
    paths = [*sorted(SAMPLES.glob("*.png")), *images]
    if not paths:
        raise RequestError(f"there are no sample rooms in {SAMPLES}; name images: isthmus demo room.jpg")
    pictures = [_picture(path, manifest.preprocess) for path in paths]
    _check_writable(out)
    with _two_processes(bundle) as edge, httpx.Client(base_url=f"http://{edge}", timeout=60) as client:
        rows = [Row(picture, _ask(client, picture.path)) for picture in pictures]
    write_atomically(out / "result.json", _result(rows).encode())
    write_atomically(out / "sheet.png", _sheet(rows))
    _print_table(rows)
    print(f"written: {out / 'result.json'}, {out / 'sheet.png'}")


def _check_writable(out: Path) -> None:
    """Make the folder, and try it before any server starts. Raises RequestError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"cannot make the folder {out}: {error.strerror}") from None
    for name in ("result.json", "sheet.png"):
        if (out / name).is_dir():
            raise RequestError(f"cannot write {out / name}: it is a folder")
    try:
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise RequestError(f"cannot write into {out}: {error.strerror}") from None


def _picture(path: Path, preprocess: Preprocess) -> Picture:
    fitted = fit(read_image(path), preprocess)
    jpeg = io.BytesIO()
    fitted.save(jpeg, "JPEG", quality=JPEG_QUALITY)
    return Picture(path, fitted, jpeg.tell())


def _ask(client: httpx.Client, path: Path) -> Analysis:
    """POST /analyze on the edge. Raises RemoteRejectedError with the problem's text, or RemoteError."""
    headers = {"Content-Type": "application/octet-stream"}
    try:
        answer = client.post("/analyze", content=path.read_bytes(), headers=headers)
    except httpx.HTTPError as error:
        raise RemoteError(f"{path}: the edge did not answer: {error}") from None
    if answer.status_code != httpx.codes.OK:
        raise RemoteRejectedError(str(answer.status_code), f"{path}: {answer.json()['detail']}")
    return Analysis.model_validate_json(answer.content)


@contextmanager
def _two_processes(bundle: Path) -> Iterator[str]:
    """A cloud and an edge, ready; gives the edge's host:port. Both have ended when it is left, however it is left."""
    with ExitStack() as stack:
        stack.enter_context(_sigterm_as_interrupt())
        cloud = stack.enter_context(
            _server("cloud", "serve", "--bundle", str(bundle), "--grpc-port", "0", "--http-port", "0")
        )
        grpc = cloud.wait_for("listening")["grpc"]
        edge = stack.enter_context(
            _server("edge", "serve", "--bundle", str(bundle), "--port", "0", "--cloud", grpc)
        )
        address: str = edge.wait_for("listening")["http"]
        edge.wait_for("ready")
        cloud.wait_for("ready")
        yield address


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM unwinds the stack like Ctrl-C, so that the two processes are ended with this one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Server:
    """A process of ours, and the events that it prints."""

    def __init__(self, name: str, process: subprocess.Popen[str], log: IO[str]) -> None:
        self._name, self._process, self._log = name, process, log
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def wait_for(self, event: str) -> dict[str, Any]:
        """Raises IsthmusError where the process ends first, or takes longer than START_TIMEOUT_S."""
        while True:
            try:
                told = self._events.get(timeout=START_TIMEOUT_S)
            except queue.Empty:
                raise IsthmusError(f"the {self._name} was not ready within {START_TIMEOUT_S:.0f} s") from None
            if told is None:
                self._process.wait()
                self._log.seek(0)
                last = (self._log.read().strip().splitlines() or ["no reason given"])[-1]
                raise IsthmusError(f"the {self._name} did not start: {last.removeprefix('isthmus: ')}")
            if told["event"] == event:
                return told

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._events.put(json.loads(line))
        self._events.put(None)


@contextmanager
def _server(name: str, *arguments: str) -> Iterator[_Server]:
    # By its file, not with -m: that would let a folder `shared` where the user stands hide ours.
    command = [sys.executable, str(ROOT / "isthmus.py"), name, *arguments]
    with tempfile.TemporaryFile("w+") as log:
        # A session of its own, so that Ctrl-C reaches this process alone, and the two are ended in order.
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
        try:
            yield _Server(name, process, log)
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _result(rows: Sequence[Row]) -> str:
    images = [
        {
            "image": str(row.picture.path),
            "label": row.label,
            "score": row.score,
            "jpeg_bytes": row.picture.jpeg_bytes,
            "jpeg_ratio": row.ratio,
            "edge_ms": row.edge_ms,
            "cloud_ms": row.cloud_ms,
            "analysis": row.analysis.model_dump(mode="json", exclude_none=True),
        }
        for row in rows
    ]
    means = {
        "bytes": sum(row.analysis.bytes.total for row in rows) / len(rows),
        "jpeg_bytes": sum(row.picture.jpeg_bytes for row in rows) / len(rows),
    }
    result = {
        "bundle": rows[0].analysis.bundle,
        "fingerprint": rows[0].analysis.fingerprint,
        "jpeg_quality": JPEG_QUALITY,
        "mean": means,
        "images": images,
    }
    return json.dumps(result, indent=2, ensure_ascii=False) + "\n"


def _print_table(rows: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(caption="JPEG: the same image at the network's size, quality 75")
    table.add_column("image", overflow="fold")
    table.add_column("class")
    for name in ("score", "b_v", "b_z", "bytes", "JPEG", "ratio", "edge ms", "cloud ms"):
        table.add_column(name, justify="right")
    for row in rows:
        size = row.analysis.bytes
        table.add_row(
            Text(row.picture.path.name),
            Text(row.label),
            f"{row.score:.2f}",
            str(size.b_v),
            str(size.b_z),
            str(size.total),
            str(row.picture.jpeg_bytes),
            f"{row.ratio:.0f}x",
            f"{row.edge_ms:.0f}",
            f"{row.cloud_ms:.0f}",
        )
    console = Console()
    # Cut to 80 columns, a table in a log or a pipe would fold its figures.
    Console(width=None if console.is_terminal else 120).print(table)


def _sheet(rows: Sequence[Row]) -> bytes:
    """Every picture as the network sees it, with its class, score and sizes below; PNG."""
    columns = min(4, len(rows))
    lines = -(-len(rows) // columns)
    sheet = Image.new("RGB", (columns * (_TILE + 12) + 12, lines * (_TILE + _CAPTION + 12) + 12), "white")
    draw = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(18), ImageFont.load_default(14)
    for i, row in enumerate(rows):
        x, y = 12 + i % columns * (_TILE + 12), 12 + i // columns * (_TILE + _CAPTION + 12)
        shown = row.picture.fitted.copy()
        shown = shown.resize(_within(shown.size), Image.Resampling.LANCZOS)
        sheet.paste(shown, (x + (_TILE - shown.width) // 2, y + (_TILE - shown.height) // 2))
        draw.text((x, y + _TILE + 4), f"{row.label} {row.score:.2f}", "black", large)
        sizes = f"{row.analysis.bytes.total} bytes; JPEG {row.picture.jpeg_bytes}"
        draw.text((x, y + _TILE + 30), sizes, "dimgrey", small)
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()


def _within(size: tuple[int, int]) -> tuple[int, int]:
    scale = _TILE / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
