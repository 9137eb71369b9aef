"""A real cloud's HTTP over a shelf of bundles, and a link to it that breaks after a number of bytes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from cloud.faces.http_face import build_app
from cloud.pipeline import Pipeline
from cloud.settings import PipelineSettings
from cloud.shelf.keeper import Keeper
from cloud.shelf.shelf import Shelf
from shared.bundle import Bundle
from shared.process.config import HttpSettings
from shared.process.process import HttpServer
from support.shelves import ShelfLoads


@asynccontextmanager
async def serving(*folders: Path) -> AsyncIterator[tuple[str, Keeper]]:
    """A cloud that has these bundles: its address, and its keeper."""
    shelf = Shelf(ShelfLoads(), 1 << 30)
    for folder in folders:
        await shelf.put(folder.name, Bundle.open_without_added(folder))
    pipeline = Pipeline(shelf, PipelineSettings(batch_wait_ms=0))
    keeper = Keeper(shelf, Bundle.open_without_added(folders[0]))
    app = build_app(lambda: pipeline, HttpSettings(), lambda: keeper)
    server = HttpServer(app, "127.0.0.1", HttpSettings(port=0), 1000)
    running = asyncio.create_task(server.serve())
    try:
        yield server.address, keeper
    finally:
        server.stop()
        await running
        await pipeline.close()


class BreakingLink:
    """A way to an address. left: bytes of answers that still pass on the next connection; then whole ones do."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self.left: Iterator[int] = iter(())
        self.passed = 0
        self.address = ""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[BreakingLink]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, to = await asyncio.open_connection(self._host, self._port)
        up = asyncio.create_task(_copy(reader, to))
        left = next(self.left, None)
        with contextlib.suppress(ConnectionError):
            while data := await upstream.read(1 << 16):
                data = data if left is None else data[:left]
                writer.write(data)
                await writer.drain()
                self.passed += len(data)
                if left is not None and (left := left - len(data)) <= 0:
                    break
        up.cancel()
        for end in (writer, to):
            end.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
