"""An RTSP server for tests: H.264 of small images over the same TCP (RFC 2326, 3984). It can misbehave."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np

from support.videos import scene

SDP = """v=0
o=- 0 0 IN IP4 127.0.0.1
s=test
c=IN IP4 127.0.0.1
t=0 0
m=video 0 RTP/AVP 96
a=rtpmap:96 H264/90000
a=fmtp:96 packetization-mode=1
a=control:track
""".replace("\n", "\r\n")
STEP_S = 0.05


@dataclass
class Camera:
    """url: of the stream. silent: it says nothing. size: of the images that follow. plays: streams begun."""

    url: str = ""
    silent: bool = False
    size: int = 64
    plays: int = 0
    sockets: list[socket.socket] = field(default_factory=list)

    def hang_up(self) -> None:
        """Ends every open stream."""
        while self.sockets:
            with suppress(OSError):
                self.sockets.pop().shutdown(socket.SHUT_RDWR)


@contextmanager
def rtsp_camera() -> Iterator[Camera]:
    camera, ended = Camera(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        camera.url = f"rtsp://127.0.0.1:{listening.getsockname()[1]}/door"

        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                camera.sockets.append(connection)
                threading.Thread(target=_serve, args=(connection, camera, ended), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield camera
        finally:
            ended.set()
            listening.shutdown(socket.SHUT_RDWR)
            camera.hang_up()


def _serve(connection: socket.socket, camera: Camera, ended: threading.Event) -> None:
    with connection, suppress(OSError):
        lines = connection.makefile("r", newline="\r\n")
        while request := [line.strip() for line in iter(lines.readline, "\r\n") if line]:
            if camera.silent or not request:
                ended.wait()
                return
            method = request[0].split()[0]
            number = next(line for line in request if line.lower().startswith("cseq"))
            extra, body = "", ""
            if method == "DESCRIBE":
                body = SDP
                extra = f"Content-Type: application/sdp\r\nContent-Base: {camera.url}/\r\n"
                extra += f"Content-Length: {len(SDP)}\r\n"
            elif method == "SETUP":
                extra = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
            elif method == "PLAY":
                extra = "Session: 1\r\n"
            elif method == "OPTIONS":
                extra = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
            connection.sendall(f"RTSP/1.0 200 OK\r\n{number}\r\n{extra}\r\n{body}".encode())
            if method == "PLAY":
                camera.plays += 1
                _play(connection, camera, ended)
                return


def _play(connection: socket.socket, camera: Camera, ended: threading.Event) -> None:
    """Sends one image after the other, a key frame first and after each change of size."""
    sequence, at, size, encode = 0, 0, 0, _encoder(16)
    images = scene(40)
    while not ended.wait(STEP_S):
        if camera.silent:
            continue
        if size != camera.size:
            size = camera.size
            encode = _encoder(size)
        units = encode(np.resize(images[at % 40], (size, size, 3)) if size != 64 else images[at % 40])
        for number, unit in enumerate(units):
            last = number == len(units) - 1
            header = struct.pack(
                ">BBHII", 0x80, 96 | 128 * last, sequence % 65536, int(at * 90_000 * STEP_S), 1
            )
            sequence += 1
            packet = header + unit
            connection.sendall(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
        at += 1


def _encoder(size: int) -> Callable[[np.ndarray], list[bytes]]:
    """Gives the NAL units of each image, all of them small."""
    context = av.CodecContext.create("libx264", "w")
    context.width = context.height = size
    context.pix_fmt, context.time_base, context.framerate = "yuv420p", Fraction(1, 20), Fraction(20)
    context.options = {
        "preset": "ultrafast",
        "tune": "zerolatency",
        "x264-params": "slice-max-size=1200:keyint=20",
    }

    def encode(image: np.ndarray) -> list[bytes]:
        data = b"".join(
            bytes(packet) for packet in context.encode(av.VideoFrame.from_ndarray(image, "rgb24"))
        )
        return [unit for unit in data.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1") if unit]

    return encode
