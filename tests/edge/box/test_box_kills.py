"""A real box and a real cloud, both killed meanwhile: each accepted frame has exactly one record in the archive.

`python -m pytest -m slow tests/edge/box/test_box_kills.py` sends 5,000 frames, kills the cloud five times and the box
three times, and cuts the link for 20 s. With `-k ray` the cloud is a gateway before replicas of Ray.
"""

from __future__ import annotations

import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from cloud.archive.chunks import Chunks
from cloud.archive.frames import FrameReader
from cloud.archive.records import Head, read, reading
from edge.spool.spool import Spool
from shared.bundle import Bundle
from shared.codec.latent_codec import LatentCodec
from shared.shipped import default_bundle
from support.processes import ROOT, Server, server
from support.service import png

LIMIT_S = 150.0


def wait_for(condition: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until, what
        threading.Event().wait(0.02)


def free_port() -> int:
    """A port for a server that comes back at the same address after a kill."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


class Site:
    """A cloud and a box that can be killed and started again, a folder that feeds the box, and the cloud's archive."""

    def __init__(
        self, path: Path, bundle: Path, stack: ExitStack, cloud_port: int, at: int, more: str
    ) -> None:
        """cloud_port: where the cloud listens. at: where the box looks for it. more: settings of the cloud."""
        self.inbox, self.archive, self.spool = path / "inbox", path / "archive", path / "spool"
        self.inbox.mkdir()
        self._bundle = bundle
        self._stack, self._config = stack, path / "box.toml"
        self._config.write_text(
            f'[cloud]\naddress = "127.0.0.1:{at}"\ndeadline_ms = 5000\n'
            f'[spool]\nfolder = "{self.spool}"\n[http]\nport = 0\n'
            f'[sources.door]\nkind = "folder"\nurl = "{self.inbox}"\nafter = "delete"\nsettle_ms = 0\n'
            "groups = true\n"
        )
        cloud = path / "cloud.toml"
        cloud.write_text(
            f'[grpc]\nport = {cloud_port}\n[http]\nport = 0\n[archive]\nfolder = "{self.archive}"\n'
            f"[pipeline]\narchived_first = true\n{more}"
        )
        self._cloud_command = ("cloud", "serve", "--config", cloud, "--bundle", bundle)
        self._box_command = ("edge", "run", "--config", self._config, "--bundle", bundle)
        self.url = ""

    def start_cloud(self) -> None:
        self.cloud: Server = self._stack.enter_context(server(*self._cloud_command))

    def start_box(self) -> None:
        self.box: Server = self._stack.enter_context(server(*self._box_command))
        self.url = f"http://{self.box.event('listening')['http']}"
        self.box.event("ready")

    def feed(self, images: list[bytes], count: int, first: int = 0) -> None:
        for number in range(first, first + count):
            (self.inbox / f".{number}").write_bytes(images[number // 3 % len(images)])  # a scene that stays
            (self.inbox / f".{number}").rename(self.inbox / f"{number:06d}.png")

    @property
    def left(self) -> int:
        return sum(1 for one in self.inbox.iterdir() if one.suffix == ".png")

    def status(self) -> dict[str, object]:
        answer: dict[str, object] = httpx.get(f"{self.url}/status", timeout=30).raise_for_status().json()
        return answer

    def recorded(self) -> Counter[str]:
        return Counter(one.request_id for one in read(self.archive, camera="door"))

    def types(self) -> Counter[str]:
        """Frames of the archive by their types; each can be decoded, with those that it needs."""
        bundle = Bundle.open(self._bundle)
        reader, found = FrameReader(bundle, LatentCodec(bundle.entropy()), 1024), Counter[str]()
        with reading(self.archive) as db:
            for one in Chunks(Head(self.archive, db), reader).open(read(self.archive)):
                assert not isinstance(one.content, Exception), one.content
                found[one.frame] += 1
        return found


@contextmanager
def site(path: Path, bundle: Path, cloud_port: int, at: int = 0, more: str = "") -> Iterator[Site]:
    with ExitStack() as stack:
        one = Site(path, bundle, stack, cloud_port, at or cloud_port, more)
        yield one


def check_ends(one: Site, count: int) -> Counter[str]:
    """The box and the cloud are ended in order; every file has one record, and the spool is empty.

    Returns the types of the records' frames.
    """
    assert one.box.stop() == 0
    assert one.cloud.stop() == 0
    recorded = one.recorded()
    assert set(recorded.values()) == {1}
    assert len(recorded) == count
    with Spool(one.spool) as spool:
        assert spool.depth == 0
    types = one.types()
    assert types.total() == count
    assert types["S"] > 0  # frames that others are needed for are among them
    return types


def test_one_kill_of_each(tmp_path: Path, tiny_bundle: Path) -> None:
    images = [png(seed) for seed in range(8)]
    with site(tmp_path, tiny_bundle, free_port()) as one:
        one.start_box()  # the cloud is down
        one.feed(images, 20)
        wait_for(lambda: one.status()["sources"]["door"]["accepted"] >= 10, "frames are accepted")  # type: ignore[index]
        one.box.stop(signal.SIGKILL)
        one.start_cloud()
        one.start_box()
        wait_for(lambda: one.left < 15, "frames are answered")
        one.cloud.stop(signal.SIGKILL)
        one.feed(images, 10, 20)
        wait_for(lambda: one.status()["link"]["trouble"], "the cloud is missed")  # type: ignore[index]
        ready = httpx.get(f"{one.url}/readyz", timeout=30).json()
        assert ready["status"] == "ready"
        assert "link" in ready["troubles"]
        one.start_cloud()
        wait_for(lambda: one.left == 0, "all are answered")
        check_ends(one, 30)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_gateway_before_ray(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under load: what was accepted is answered by the next gateway, and what both were sent is recorded once."""
    pytest.importorskip("ray", reason="comes with the extra ray")
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # everything on the loopback address
    images = [png(seed) for seed in range(8)]
    with ExitStack() as stack:
        # Sockets have short names; its processes may still write as they end.
        made = tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True)
        folder = stack.enter_context(made)
        ray = f'[ray]\nreplicas_min = 2\ncpus = 0.25\nmachine_cpus = 2\nfolder = "{folder}"\n'
        more = f'[engine]\nkind = "ray"\nthreads = 1\n{ray}'
        one = stack.enter_context(site(tmp_path, tiny_bundle, free_port(), more=more))
        one.start_cloud()
        one.start_box()
        one.feed(images, 60)
        wait_for(lambda: one.left < 55, "the first are answered", 900)
        one.cloud.stop(signal.SIGKILL)
        assert one.left > 0
        one.feed(images, 10, 60)
        one.start_cloud()
        cloud = one.cloud.process

        def done() -> bool:
            assert cloud.poll() is None, cloud.stderr and cloud.stderr.read()[-3000:]
            return one.left == 0

        wait_for(done, "all are answered", 900)
        check_ends(one, 70)


class Cable:
    """A TCP proxy that can be cut: its connections end, and new ones are refused."""

    def __init__(self, to: int) -> None:
        self._to, self._open, self.cut = to, list[socket.socket](), False
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def set_cut(self, cut: bool) -> None:
        self.cut = cut
        while cut and self._open:
            with suppress(OSError):
                self._open.pop().shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            near, _ = self._listening.accept()
            try:
                if self.cut:
                    raise OSError
                far = socket.create_connection(("127.0.0.1", self._to), 10)
            except OSError:
                near.close()
                continue
            self._open += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=_copy, args=(one, other), daemon=True).start()


def _copy(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while data := one.recv(1 << 16):
            other.sendall(data)
    for end in (one, other):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_5000_frames(tmp_path: Path) -> None:
    storm(tmp_path, 5000)


def storm(path: Path, count: int) -> None:
    """The shipped bundle; a kill, or a cut of the link, after each tenth of the frames."""
    port = free_port()
    cable = Cable(port)
    images = [one.read_bytes() for one in sorted((ROOT / "deploy" / "samples").glob("*.png"))]
    with site(path, default_bundle(), port, cable.port) as one:
        one.feed(images, count)
        one.start_cloud()
        one.start_box()
        began = time.monotonic()
        for number in range(1, 10):
            wait_for(lambda left=count - number * count // 10: one.left <= left, f"part {number}", 1200)
            if number in (1, 3, 5, 7, 9):
                one.cloud.stop(signal.SIGKILL)
                one.start_cloud()
            elif number == 4:
                cable.set_cut(True)
                threading.Event().wait(20)
                cable.set_cut(False)
            else:
                one.box.stop(signal.SIGKILL)
                one.start_box()
        wait_for(lambda: one.left == 0, "all are answered", 1200)
        seconds = time.monotonic() - began
        types = check_ends(one, count)
    print(f"{count} frames in {seconds:.0f} s: one record each; {dict(types)}")
