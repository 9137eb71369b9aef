"""A box's file: sources as tables, and every mistake with file, line and key."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edge.box.check import check
from edge.box.notify import Systemd
from edge.box.server import Watched, serve_box
from edge.box.settings import BoxConfig, BoxSettings, load_box
from edge.capture.settings import without_password
from shared.errors import BundleUnsignedError, RequestError
from shared.process.config import example_toml
from support.keys import write_keys
from support.processes import refused, run_here

GOOD = """
camera = "local"
[cloud]
address = "cloud:50051"
[spool]
full = "stop"
[sources.door]
kind = "rtsp"
url = "rtsp://user:secret@10.0.0.7/1"
fps = 2.5
mask = [[0, 0, 0.5, 0.5]]
schedule = ["mon-fri 08:00-18:00"]
tasks = ["classification"]
[sources.in]
kind = "folder"
url = "in"
"""


def written(path: Path, text: str) -> BoxConfig:
    path.write_text(text)
    return load_box(path, {})


def test_sources_are_tables(tmp_path: Path) -> None:
    config = written(tmp_path / "box.toml", GOOD)
    assert list(config.sources) == ["door", "in"]
    door = config.sources["door"]
    assert (door.fps, door.mask, door.tasks) == (2.5, ((0, 0, 0.5, 0.5),), ("classification",))
    assert door.place == "rtsp://user:***@10.0.0.7/1"
    assert without_password("http://a:b@cam/jpg?user=a&password=b") == "http://a:***@cam/jpg?***"
    assert without_password("http://cam/jpg?user=a&password=b") == "http://cam/jpg?***"
    assert without_password("/data/what?/in") == "/data/what?/in"
    assert config.settings.spool.full == "stop"
    assert config.settings.cloud.address == "cloud:50051"


@pytest.mark.parametrize(("old", "new", "line", "words"), [
    ("fps = 2.5", "fps = 0", 10, "[sources.door] fps is 0; it must be above 0"),
    ("fps = 2.5", 'fps = "x"', 10, "[sources.door] fps is x"),
    ("fps = 2.5", "fsp = 2", 10, "[sources.door] has no key fsp; did you mean fps?"),
    ('kind = "rtsp"', 'kind = "usb"', 8, "[sources.door] kind is usb"),
    ("rtsp://user:secret@", "http://user:secret@", 7, "begins with rtsp://"),
    ("0.5]]", "1.5]]", 11, "no part of an image"),
    ("mon-fri", "always", 12, "days are mon, tue"),
    ('full = "stop"', 'full = "maybe"', 6, "full is maybe"),
    ("[spool]", "[spol]", 6, "there is no key spol.full"),
    ("[sources.in]", "[sources.in]\nother = 1", 15, "has no key other"),
    ('kind = "folder"\n', "", 14, "kind is not set"),
    ('[sources.door]', '[sources."the door"]', 0, "a camera's name has 1 to 64 characters"),
    ("[sources.door]\n", "[sources]\ndoor = 5\n[sources.other]\n", 8, "sources.door is a section"),
    ("camera", "sources = 5\ncamera", 2, ""),
    ("[sources.in]", '[mqtt]\nhost = "b"\n[sources.status]', 16, "choose another name"),
    ("[spool]", '[update]\nurl = "http://a"\n[spool]', 6, "folder is not set"),
])  # fmt: skip
def test_mistakes(tmp_path: Path, old: str, new: str, line: int, words: str) -> None:
    file = tmp_path / "box.toml"
    assert old in GOOD
    with pytest.raises(RequestError) as raised:
        written(file, GOOD.replace(old, new))
    text = str(raised.value)
    assert words in text
    assert text.startswith(f"{file}:{line}: " if line and words else f"{file}")
    assert "secret" not in text


def test_a_faulty_edit_keeps_what_was(tmp_path: Path) -> None:
    file = tmp_path / "box.toml"
    watched = Watched(file, {}, written(file, GOOD))
    assert watched.look() is None
    file.write_text(GOOD.replace("2.5", "0"))
    assert watched.look() is None
    assert "fps is 0" in watched.trouble
    assert watched.look() is None  # once is enough
    file.write_text(GOOD.replace("2.5", "3"))
    config = watched.look()
    assert config is not None
    assert config.sources["door"].fps == 3
    assert watched.trouble == ""
    file.write_text(GOOD.replace("cloud:50051", "other:50051"))
    assert watched.look() is not None
    assert "the rest after a restart" in watched.trouble  # and is seen, not only logged
    file.write_text(GOOD)
    assert watched.look() is not None
    assert watched.trouble == ""
    file.unlink()
    assert watched.look() is None
    assert "cannot read" in watched.trouble


async def test_a_check_names_file_line_and_key(tmp_path: Path) -> None:
    file = tmp_path / "box.toml"
    text = f"""[cloud]
address = "127.0.0.1:9"
attempts_max = 1
[spool]
folder = "{tmp_path}/no/where"
[sources.in]
kind = "folder"
url = "{tmp_path}/nope"
loss = 0.0
[sources.clip]
kind = "video"
url = "{tmp_path}/clip.mp4"
"""
    found = {one.what: one.text for one in [one async for one in check(written(file, text))] if not one.good}
    for what, place in {
        "bundle": f"{file}:9: sources.in.loss",
        "cloud": f"{file}:2: cloud.address",
        "spool": f"{file}:5: spool.folder",
        "source in": f"{file}:8: sources.in.url",
        "source clip": f"{file}:12: sources.clip.url",
    }.items():
        assert place in found.pop(what)
    assert found == {}


async def test_a_bundle_that_is_not_signed_is_not_run(tmp_path: Path) -> None:
    write_keys(tmp_path, "key", "pub")
    text = f'[http]\nport = 0\n[spool]\nfolder = "{tmp_path / "spool"}"\n'
    text += f'[update]\nrequire_signature = "{tmp_path / "pub.pem"}"\n'
    config = written(tmp_path / "box.toml", text)
    async with asyncio.timeout(90):
        with pytest.raises(BundleUnsignedError):
            await serve_box(tmp_path / "box.toml", {}, config)
        first = await anext(check(config))
    assert (first.what, first.good) == ("bundle", False)
    assert "is not signed" in first.text


async def test_a_box_that_asks_for_its_bundle_needs_a_name(tmp_path: Path) -> None:
    text = f'[http]\nport = 0\n[spool]\nfolder = "{tmp_path / "spool"}"\n'
    text += f'[update]\nurl = "http://127.0.0.1:9"\nfolder = "{tmp_path / "bundles"}"\n'
    file = tmp_path / "box.toml"
    async with asyncio.timeout(90):
        with pytest.raises(RequestError, match="needs a name"):
            await serve_box(file, {}, written(file, text))
        for more, words in (("", "needs a name (camera)"), ('camera = "box"\n', ":7: update.url)")):
            found = [one async for one in check(written(file, more + text)) if one.what == "update"]
            assert [one.good for one in found] == [False]
            assert words in found[0].text


def test_the_example_has_every_key() -> None:
    """deploy/box.toml: its sections are those of the settings; its sources are examples."""
    file = Path(__file__).parents[3] / "deploy" / "box.toml"
    assert example_toml(BoxSettings) in file.read_text()
    assert load_box(file, {}).sources == {}
    lively = "\n".join(line.removeprefix("#") if "sources" in line or "=" in line else line
                       for line in file.read_text().partition("# Sources")[2].splitlines()[1:])  # fmt: skip
    scratch = load_box_text(lively)
    assert {"rtsp", "v4l2", "video", "folder", "snapshot"} == {one.kind for one in scratch.sources.values()}


def load_box_text(text: str) -> BoxConfig:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        return written(Path(folder) / "box.toml", text)


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "box.toml"
    file.write_text(GOOD.replace("2.5", "0"))
    assert refused("edge", "run", "--config", file, status=2).startswith(f"{file}:10: [sources.door] fps")
    assert "cannot read" in refused("edge", "run", "--config", tmp_path / "nope", status=2)
    file.write_text(GOOD)
    printed = run_here("edge", "run", "--config", file, "--cloud", "b:1", "--print-config").stdout
    assert 'address = "b:1"  # --cloud' in printed
    assert "secret" not in printed


def test_systemd(tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        Systemd({"NOTIFY_SOCKET": str(tmp_path / "notify")}).send("READY=1")
        assert server.recv(100) == b"READY=1"
    Systemd({"NOTIFY_SOCKET": str(tmp_path / "notify")}).send("READY=1")  # systemd has gone
    Systemd({}).send("READY=1")
