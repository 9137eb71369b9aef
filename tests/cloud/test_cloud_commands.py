"""`isthmus cloud decode`: what works, and wrong input as a new user would give it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from shared.bundle import Bundle
from shared.errors import RequestError
from support.processes import ISTHMUS, ROOT, refused, run_here


def test_decode(stream: Path, tiny_bundle: Path) -> None:
    done = run_here("cloud", "decode", stream, "--bundle", tiny_bundle, "--json", "--top-k", "2")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told["results"]["classification"]["top"]) == 2
    assert told["bytes"]["total"] == stream.stat().st_size


def test_decode_answers_the_good_files_and_names_the_bad(
    tmp_path: Path, stream: Path, tiny_bundle: Path
) -> None:
    bad, again = tmp_path / "bad", tmp_path / "again"
    bad.write_bytes(stream.read_bytes()[:-1])
    shutil.copy(stream, again)
    done = run_here("cloud", "decode", stream, bad, tmp_path, again, "--bundle", tiny_bundle, "--json")
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 2
    first, second = done.stderr.splitlines()
    assert first.startswith(f"isthmus: {bad}: the bitstream is damaged or cut short")
    assert second == f"isthmus: cannot read {tmp_path}: Is a directory"


def test_an_unknown_task(stream: Path, tiny_bundle: Path) -> None:
    told = refused("cloud", "decode", stream, "--bundle", tiny_bundle, "--task", "nope", status=2)
    assert told == "unknown task 'nope'; this bundle answers: classification"


def test_a_device_that_is_not_there(stream: Path, tiny_bundle: Path) -> None:
    told = refused("cloud", "decode", stream, "--bundle", tiny_bundle, "--device", "abacus", status=2)
    assert "'abacus' cannot be used" in told


def test_tf32_is_not_told_as_a_damaged_bundle(
    tiny_bundle: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    from cloud.engine import bundle_model as model
    from cloud.engine.load import load

    class OnCuda(model.TorchBackend):  # without a GPU: the check alone, on a device that says it is one
        def __init__(self, device: str) -> None:
            super().__init__("cuda")

    monkeypatch.setattr(model, "TorchBackend", OnCuda)
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(allow_tf32=True))
    with pytest.raises(RequestError, match="allow_tf32"):
        load(bundle, "meta")


def test_decode_from_a_pipe(stream: Path, tiny_bundle: Path) -> None:
    command = [*ISTHMUS, "cloud", "decode", "-", "--bundle", str(tiny_bundle), "--json"]
    done = subprocess.run(command, input=stream.read_bytes(), capture_output=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bytes"]["total"] == stream.stat().st_size
    done = subprocess.run(command, input=b"", capture_output=True, timeout=120, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.startswith(b"isthmus: standard input: the bitstream is empty")
