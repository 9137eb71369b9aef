"""A TCP proxy that counts: bytes each way, and where they can be read, which HTTP/2 frames they are.

Knows no request and no codec. What TCP and IP add below is not seen here: 40 to 66 bytes a segment.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from shared.process.process import address_of

CHUNK = 1 << 16
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADER = 9  # bytes of each HTTP/2 frame before what it holds
_TYPES = {
    0x0: "DATA",
    0x1: "HEADERS",
    0x3: "RST_STREAM",
    0x4: "SETTINGS",
    0x6: "PING",
    0x7: "GOAWAY",
    0x8: "WINDOW_UPDATE",
    0x9: "HEADERS",  # CONTINUATION
}
OTHER = "other"


class Http2Tally:
    """Bytes of each type of HTTP/2 frame in one direction of a connection, frame headers included."""

    def __init__(self, counts: Counter[str], *, preface: bool) -> None:
        self._counts = counts
        self._left = len(PREFACE) if preface else 0  # of the frame that is being read
        self._name = OTHER
        self._head = b""

    def add(self, data: bytes) -> None:
        while data:
            if self._left:
                taken = min(self._left, len(data))
                self._counts[self._name] += taken
                self._left -= taken
                data = data[taken:]
                continue
            taken = _HEADER - len(self._head)
            self._head, data = self._head + data[:taken], data[taken:]
            if len(self._head) == _HEADER:
                self._name = _TYPES.get(self._head[3], OTHER)
                self._counts[self._name] += _HEADER
                self._left, self._head = int.from_bytes(self._head[:3], "big"), b""


@dataclass
class Direction:
    """What went one way so far. size: bytes. frames: of them, by type of HTTP/2 frame; empty if they cannot be read."""

    size: int = 0
    frames: Counter[str] = field(default_factory=Counter)


class CountingProxy:
    """A proxy in front of one address, listening. up: towards that address. down: from it."""

    def __init__(self, address: str, *, readable: bool) -> None:
        self.address = ""  # once it listens
        self.up, self.down = Direction(), Direction()
        self._host, _, port = address.rpartition(":")
        self._port, self._readable = int(port), readable
        self._last_s = 0.0

    async def quiet(self, for_s: float) -> None:
        """Waits until nothing has passed for so long: what belongs to a frame has passed by then."""
        now = asyncio.get_running_loop().time
        self._last_s = now()
        while (left := self._last_s + for_s - now()) > 0:
            await asyncio.sleep(left)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        there, back = await asyncio.open_connection(self._host, self._port)
        await asyncio.gather(
            self._carry(self.up, reader, back, preface=True),
            self._carry(self.down, there, writer, preface=False),
        )

    async def _carry(
        self, way: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, preface: bool
    ) -> None:
        tally = Http2Tally(way.frames, preface=preface) if self._readable else None

        def count(data: bytes) -> None:
            way.size += len(data)
            self._last_s = asyncio.get_running_loop().time()
            if tally is not None:
                tally.add(data)

        await carry(reader, writer, count)


async def carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Callable[[bytes], None] = lambda _: None
) -> None:
    """Hands one direction of a connection on until it ends."""
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        while data := await reader.read(CHUNK):
            seen(data)
            writer.write(data)
            await writer.drain()
    writer.close()


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """The address of a server on a free port, whose connections are ended when this is left."""
    running: set[asyncio.Task[None]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # nobody is there any more
            await serve(reader, writer)
        writer.close()

    # A plain function, because asyncio logs a handler of its own that is cancelled.
    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(one(reader, writer))
        running.add(task)
        task.add_done_callback(running.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    try:
        yield address_of(*server.sockets[0].getsockname()[:2])
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


@asynccontextmanager
async def counting_proxy(address: str, *, readable: bool = True) -> AsyncIterator[CountingProxy]:
    """A proxy in front of an address. readable: whether what passes is HTTP/2 in the clear."""
    proxy = CountingProxy(address, readable=readable)
    async with listening(proxy.serve) as own:
        proxy.address = own
        yield proxy
