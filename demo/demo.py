"""`isthmus demo`: a cloud and an edge as two real processes on this machine, and what they make of some images.

    check the images of all bundles, then for each bundle:
        start `isthmus cloud serve`, `isthmus edge serve` -> POST each image to the edge -> both processes ended
            -> the maps, sheet.png, result.json, a table

Without a bundle the sample photographs and the images that are named go through `photos`, the sample rooms through
`rooms`, and each has a folder of its own. After the photographs, what a fixed camera saw is sent in a session.

Speaks HTTP to the edge like any client, and loads neither torch nor a network itself.
"""

from __future__ import annotations

import io
import itertools
import json
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from demo.contact_sheet import Tile, draw_sheet
from shared.bundle import Bundle, Preprocess, Task
from shared.errors import RemoteError, RemoteRejectedError, RequestError, exit_of
from shared.files import write_atomically
from shared.image import fit, read_image
from shared.kinds import KINDS
from shared.kinds.kind import map_of
from shared.maps import Colour, MapPng
from shared.process.child_process import ISTHMUS, SAMPLES, server
from shared.shipped import find_bundle, shipped_bundle
from shared.types import Analysis, TaskResult

JPEG_QUALITY = 75
PHOTOS, CAMERA = (
    "photos",
    "corridor",
)  # a bundle with samples of its own; of these, the folder of a fixed camera


@dataclass(frozen=True)
class DemoImage:
    """An image to send. name: no other's, for files. fitted: as the network sees it; jpeg_bytes: that, as JPEG of
    quality 75, for scale. session: the one in which it is sent; empty: by itself."""

    path: Path
    name: str
    fitted: Image.Image
    jpeg_bytes: int
    session: str = ""


@dataclass(frozen=True)
class Row:
    """One image and what came back for it."""

    image: DemoImage
    analysis: Analysis

    @property
    def best(self) -> tuple[str | None, float | None]:
        """The one label that stands for the image, with its score: of the first task whose kind has such a thing."""
        bests = (KINDS[result.kind].best(result) for result in self.analysis.results.values())
        return next((best for best in bests if best is not None), (None, None))

    @property
    def maps(self) -> dict[str, bytes]:
        """By task, the PNG file of its map."""
        maps = {name: map_of(result) for name, result in self.analysis.results.items()}
        return {name: given.file() for name, given in maps.items() if isinstance(given, MapPng)}

    @property
    def ratio(self) -> float:
        return self.image.jpeg_bytes / self.analysis.bytes.total

    @property
    def edge_ms(self) -> float:
        times = self.analysis.times
        return sum(t or 0 for t in (times.read_ms, times.front_ms, times.code_ms))

    @property
    def cloud_ms(self) -> float | None:
        """None where the answer does not say, as in sessions."""
        times = self.analysis.times
        spent = [t for t in (times.queue_ms, times.decode_ms, times.tails_ms) if t is not None]
        return sum(spent) if spent else None


@dataclass(frozen=True)
class Show:
    """The images that go through one bundle, read and checked, and the folder for what comes back."""

    bundle: Bundle
    images: tuple[DemoImage, ...]
    out: Path

    @property
    def map_files(self) -> list[str]:
        mapped = [task.name for task in self.bundle.tasks if KINDS[task.kind].mapped]
        return [_map_file(image, task) for image in self.images for task in mapped]


def run_demo(
    images: Sequence[Path],
    out: Path,
    bundle: Path | None = None,
    quality: int | None = None,
    bytes_max: int | None = None,
) -> None:
    """The whole demo.

    bundle: None for both that ship. quality, bytes_max: asked of the edge, the bundle's default and no limit without
    them.

    Raises ImageError or a subclass, BundleError or RequestError before any server starts; IsthmusError, or
    RequestError for what the user can mend, after.
    """
    if bundle is not None:
        shows = [_prepared(find_bundle(bundle), images, out, quality)]
    else:
        photos, rooms = shipped_bundle(PHOTOS), shipped_bundle("rooms")
        shows = [
            _prepared(photos, images, out / photos.name, quality),
            _prepared(rooms, (), out / rooms.name, quality),
        ]
    for show in shows:
        _check_writable(show.out, ["result.json", "sheet.png", *show.map_files])
    limits = {"quality": quality, "bytes_max": bytes_max}
    for show in shows:
        _run(show, {key: str(value) for key, value in limits.items() if value is not None})


def _prepared(bundle: Path, images: Sequence[Path], out: Path, quality: int | None) -> Show:
    """Opens a bundle, its samples and the images. Raises ImageError or a subclass, BundleError or RequestError."""
    opened = Bundle.open(bundle)
    opened.quality(quality)
    photographs = opened.manifest.name == PHOTOS
    samples = sorted((SAMPLES / PHOTOS).glob("*.jpg") if photographs else SAMPLES.glob("*.png"))
    camera = sorted((SAMPLES / PHOTOS / CAMERA).glob("*.jpg")) if photographs else []
    paths = [*samples, *images, *camera]
    if not paths:
        raise RequestError(f"there are no samples in {SAMPLES}; name images: isthmus demo photo.jpg")
    sessions = [""] * (len(paths) - len(camera)) + [CAMERA] * len(camera)
    preprocess = opened.manifest.preprocess
    read = (
        _open_image(path, name, preprocess, session)
        for path, name, session in zip(paths, _names(paths), sessions, strict=True)
    )
    return Show(opened, tuple(read), out)


def _run(show: Show, limits: Mapping[str, str]) -> None:
    """Sends a bundle's images, writes and prints what came back. Raises IsthmusError."""
    out, tasks = show.out, show.bundle.tasks
    # By their names: another task may be added to the bundle meanwhile.
    query = {"tasks": ",".join(task.name for task in tasks), "maps": "png", **limits}
    with (
        _two_processes(show.bundle.path) as edge,
        httpx.Client(base_url=f"http://{edge}", timeout=60) as client,
    ):
        rows = [Row(image, _ask(client, image.path, query, image.session)) for image in show.images]
    for row in rows:
        for task, data in row.maps.items():
            write_atomically(out / _map_file(row.image, task), data)
    write_atomically(out / "sheet.png", _sheet(rows))
    write_atomically(out / "result.json", _result(rows).encode())
    _print_table(_alone(rows), tasks, _caption(rows[0].image.fitted, tasks))
    if seen := _in_session(rows):
        _print_table(
            seen, tasks, f"{CAMERA}: what a fixed camera saw, two images a second, sent in one session"
        )
    beside = f", and the maps, {out / '*.TASK.png'}" if show.map_files else ""
    print(f"written: {out / 'result.json'}, {out / 'sheet.png'}{beside}")


def _check_writable(out: Path, names: Sequence[str]) -> None:
    """Make the folder, and try it before any server starts. Raises RequestError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"cannot make the folder {out}: {error.strerror}") from None
    for name in names:
        if (out / name).is_dir():
            raise RequestError(f"cannot write {out / name}: it is a folder")
    try:
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise RequestError(f"cannot write into {out}: {error.strerror}") from None


def _names(paths: Sequence[Path]) -> list[str]:
    """The files' names without their endings; kitchen-2 for a second kitchen."""
    names: list[str] = []
    for path in paths:
        tries = (path.stem if n == 1 else f"{path.stem}-{n}" for n in itertools.count(1))
        names.append(next(name for name in tries if name not in names))
    return names


def _map_file(image: DemoImage, task: str) -> str:
    return f"{image.name}.{task}.png"


def _alone(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if not row.image.session]


def _in_session(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.image.session]


def _open_image(path: Path, name: str, preprocess: Preprocess, session: str) -> DemoImage:
    fitted = fit(read_image(path), preprocess)
    jpeg = io.BytesIO()
    fitted.save(jpeg, "JPEG", quality=JPEG_QUALITY)
    return DemoImage(path, name, fitted, jpeg.tell(), session)


def _ask(client: httpx.Client, path: Path, query: Mapping[str, str], session: str = "") -> Analysis:
    """POST /analyze on the edge. Raises RequestError or RemoteRejectedError with the problem's text, or RemoteError.

    session: as `DemoImage` has it; its images have one quality, and no size of their own.
    """
    headers = {"Content-Type": "application/octet-stream"}
    if session:
        headers["X-Session"] = session
        query = {key: value for key, value in query.items() if key != "bytes_max"}
    try:
        answer = client.post("/analyze", params=query, content=path.read_bytes(), headers=headers)
    except httpx.HTTPError as error:
        raise RemoteError(f"{path}: the edge did not answer: {error}") from None
    if answer.status_code == exit_of(RequestError()).http:
        raise RequestError(f"{path}: {answer.json()['detail']}")
    if answer.status_code != httpx.codes.OK:
        raise RemoteRejectedError(str(answer.status_code), f"{path}: {answer.json()['detail']}")
    return Analysis.model_validate_json(answer.content)


@contextmanager
def _two_processes(bundle: Path) -> Iterator[str]:
    """A cloud and an edge, ready; gives the edge's host:port. Both have ended when it is left, however it is left."""
    with ExitStack() as stack:
        stack.enter_context(_sigterm_as_interrupt())
        ports = ("--grpc-port", "0", "--http-port", "0", "--insecure")  # also where this user has made tokens
        cloud = stack.enter_context(
            server("cloud", [*ISTHMUS, "cloud", "serve", "--bundle", str(bundle), *ports])
        )
        grpc = cloud.wait_for("listening")["grpc"]
        where = ("--port", "0", "--cloud", grpc)
        edge = stack.enter_context(
            server("edge", [*ISTHMUS, "edge", "serve", "--bundle", str(bundle), *where])
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


def _result(rows: Sequence[Row]) -> str:
    result = {
        "bundle": rows[0].analysis.bundle,
        "fingerprint": rows[0].analysis.fingerprint,
        "jpeg_quality": JPEG_QUALITY,
        **_entries(_alone(rows)),
    }
    if seen := _in_session(rows):
        result["session"] = _entries(seen)
    return json.dumps(result, indent=2, ensure_ascii=False) + "\n"


def _entries(rows: Sequence[Row]) -> dict[str, Any]:
    """What result.json has of some images: their mean bytes, and each of them."""
    images = [
        {
            "image": str(row.image.path),
            "label": row.best[0],
            "score": row.best[1],
            "jpeg_bytes": row.image.jpeg_bytes,
            "jpeg_ratio": row.ratio,
            "edge_ms": row.edge_ms,
            "cloud_ms": row.cloud_ms,
            "maps": {task: _map_file(row.image, task) for task in row.maps},
            "analysis": row.analysis.model_dump(
                mode="json", exclude_none=True, exclude={"results": {"__all__": {"map"}}}
            ),
        }
        for row in rows
    ]
    means = {
        "bytes": sum(row.analysis.bytes.total for row in rows) / len(rows),
        "jpeg_bytes": sum(row.image.jpeg_bytes for row in rows) / len(rows),
    }
    return {"mean": means, "images": images}


def _print_table(rows: Sequence[Row], tasks: Sequence[Task], caption: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(caption=caption)
    table.add_column("image", overflow="fold")
    for task in tasks:
        # Of two tasks of a kind each column has the name of its task.
        alone = [other.kind for other in tasks].count(task.kind) == 1
        name, *more = KINDS[task.kind].columns
        table.add_column(name if alone else task.name, overflow="fold")
        for name in more:
            table.add_column(name, justify="right")
    for name in ("b_v", "b_z", "bytes", "JPEG", "ratio", "edge\nms", "cloud\nms"):
        table.add_column(name, justify="right")
    for row in rows:
        size = row.analysis.bytes
        table.add_row(
            Text(row.image.path.name),
            *(Text("\n".join(cell)) for task in tasks for cell in _cells(row.analysis.results[task.name])),
            str(size.b_v),
            str(size.b_z),
            str(size.total),
            str(row.image.jpeg_bytes),
            f"{row.ratio:.0f}x",
            f"{row.edge_ms:.0f}",
            "" if row.cloud_ms is None else f"{row.cloud_ms:.0f}",
        )
    console = Console()
    # Cut to 80 columns, a table in a log or a pipe would fold its figures.
    Console(width=None if console.is_terminal else 200).print(table)


def _caption(fitted: Image.Image, tasks: Sequence[Task]) -> str:
    width, height = fitted.size
    jpeg = f"JPEG: bytes of the same image at the network's {width} x {height}, as a JPEG file of quality 75"
    captions = {task.kind: KINDS[task.kind].caption for task in tasks}
    return "\n".join([jpeg, *filter(None, captions.values())])


def _cells(result: TaskResult) -> tuple[Sequence[str], ...]:
    """The lines of a cell for each of the kind's columns."""
    return KINDS[result.kind].cells(result)


def _sheet(rows: Sequence[Row]) -> bytes:
    """Draws every image as the network sees it, its maps, answers and sizes; returns a PNG."""
    return draw_sheet([_tiles(row) for row in rows], _legend(rows))


def _tiles(row: Row) -> list[Tile]:
    """The image with what its tasks without a map answered, then a tile for each map."""
    results = row.analysis.results
    plain = [
        " ".join(" ".join(cell) for cell in _cells(result))
        for result in results.values()
        if not KINDS[result.kind].mapped
    ]
    sizes = f"{row.analysis.bytes.total} bytes; JPEG {row.image.jpeg_bytes}"
    tiles = [Tile(row.image.fitted, ", ".join(plain) or row.image.path.name, sizes)]
    for task, data in row.maps.items():
        note = ", ".join(line for cell in _cells(results[task]) for line in cell)
        tiles.append(Tile(KINDS[results[task].kind].tile(data), task, note))
    return tiles


def _legend(rows: Sequence[Row]) -> dict[str, list[tuple[Colour, str]]]:
    """By task, the colour and the name of each class that is in a map, in the order of its labels."""
    found: dict[str, dict[int, tuple[Colour, str]]] = {}
    for row in rows:
        for task, result in row.analysis.results.items():
            if classes := KINDS[result.kind].legend(result):
                found.setdefault(task, {}).update(classes)
    return {task: [entry for _, entry in sorted(classes.items())] for task, classes in found.items()}
