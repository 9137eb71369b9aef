"""Files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from shared.errors import DataError, RequestError
from shared.files import lock_folder, new_folder, refuse_foreign_folder, write_atomically

ROOT = Path(__file__).parents[2]


def test_new_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_atomically(path, b"one")
    assert path.read_bytes() == b"one"
    write_atomically(str(path), b"two, longer")
    assert path.read_bytes() == b"two, longer"
    write_atomically(path, b"")
    assert path.read_bytes() == b""
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_link_is_followed_and_a_pipe_or_folder_left_alone(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is not a regular file"):
        write_atomically(tmp_path / "pipe", b"new")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="is a folder"):
        write_atomically(tmp_path / "folder", b"new")


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
def test_failure_before_the_rename_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def broken(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, broken)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]  # and nothing lies about


def test_interrupt_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_kill_between_write_and_rename_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    code = (
        "import os, signal, sys\n"
        "from shared.files import write_atomically\n"
        "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomically(sys.argv[1], b'new' * 100_000)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")  # what the killed process left is in nobody's way
    assert path.read_bytes() == b"new"


def test_bytes_are_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for step in ("fsync", "replace"):
        real = getattr(os, step)
        monkeypatch.setattr(os, step, lambda *a, _r=real, _s=step, **k: (calls.append(_s), _r(*a, **k))[1])
    write_atomically(tmp_path / "a.bin", b"x")
    assert calls == ["fsync", "replace", "fsync"]  # the file, its name, the folder


def test_a_reader_sees_old_or_new(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    versions = [bytes([i]) * 200_000 for i in range(4)]
    write_atomically(path, versions[0])
    for version in versions[1:]:
        with path.open("rb") as reader:
            before = reader.read(10)
            write_atomically(path, version)
            assert before + reader.read() in versions  # an open reader keeps its file
        assert path.read_bytes() == version


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_atomically(tmp_path / "none" / "a.bin", b"x")


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    refuse_foreign_folder(folder, ("mark",))  # not there
    folder.mkdir()
    refuse_foreign_folder(folder, ("mark",))  # empty
    for name in "abcd":
        (folder / name).touch()
    with pytest.raises(RequestError, match=r"holds files of something else \(a, b, c, \.\.\.\)"):
        refuse_foreign_folder(folder, ("mark",))
    with pytest.raises(RequestError):
        refuse_foreign_folder(folder, ())
    refuse_foreign_folder(folder, ("mark",), force=True)
    (folder / "mark").touch()
    refuse_foreign_folder(folder, ("other", "mark"))


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "made" / "out"
    with new_folder(out) as folder:
        (folder / "a").write_text("x")
        assert not out.exists()
    assert (out / "a").read_text() == "x"
    assert stat.S_IMODE(out.stat().st_mode) == 0o755

    def interrupted() -> None:
        with new_folder(tmp_path / "other") as folder:
            (folder / "a").write_text("x")
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as folder:
        (folder / "a").write_text("x")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for there in ("empty", "file", "link"):  # the first is not empty any more
        with pytest.raises(DataError, match="exists already") as caught, new_folder(tmp_path / there):
            raise AssertionError("not reached")
        assert caught.value.setting == "out"
    assert (tmp_path / "file").read_text() == "mine"


def no_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks is not taken for another process that has the folder."""
    held = lock_folder(tmp_path / "new", "lock", "it is taken")
    with pytest.raises(DataError, match="it is taken"):
        lock_folder(tmp_path / "new", "lock", "it is taken")
    os.close(held)
    os.close(lock_folder(tmp_path / "new", "lock", "it is taken"))
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(OSError, match="No locks available"):
        lock_folder(tmp_path / "new", "lock", "it is taken")
