"""The command line: what works, and wrong input as a new user would give it."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import isthmus
from shared.bundle import Bundle
from shared.codec.bitstream import Bitstream
from shared.errors import RequestError
from support.processes import ROOT, Done, refused, run, run_here
from support.processes import told as told_by
from support.service import bomb, png


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "room.png"
    path.write_bytes(png(0))
    return path


@pytest.fixture
def stream(tmp_path: Path, packed: list[bytes]) -> Path:
    path = tmp_path / "room.isthmus"
    path.write_bytes(packed[0])
    return path


def test_encode_one(tmp_path: Path, picture: Path, tiny_bundle: Path, packed: list[bytes]) -> None:
    out = tmp_path / "out.isthmus"
    done = run_here("edge", "encode", picture, "-o", out, "--bundle", tiny_bundle)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == packed[0]
    assert f"{len(packed[0])} bytes" in done.stdout


def test_encode_several_as_json(tmp_path: Path, picture: Path, tiny_bundle: Path) -> None:
    second = tmp_path / "other.png"
    second.write_bytes(png(1))
    out = tmp_path / "made"
    done = run_here("edge", "encode", picture, second, "-o", out, "--bundle", tiny_bundle, "--json")
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(one["output"]).name for one in told] == ["room.isthmus", "other.isthmus"]
    for one in told:
        assert one["bytes"]["total"] == Path(one["output"]).stat().st_size


def test_decode(stream: Path, tiny_bundle: Path) -> None:
    done = run_here("cloud", "decode", stream, "--bundle", tiny_bundle, "--json", "--top-k", "2")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told["results"]["classification"]["top"]) == 2
    assert told["bytes"]["total"] == stream.stat().st_size


def test_inspect_tells_every_field(stream: Path, tiny_bundle: Path, bundle: Bundle) -> None:
    done = run_here("inspect", stream, "--json")
    told = json.loads(done.stdout)
    read = Bitstream.unpack(stream.read_bytes())
    assert (told["h"], told["w"], told["b_v"], told["b_z"]) == (
        read.h,
        read.w,
        read.b_v.hex(),
        read.b_z.hex(),
    )
    shown = run_here("inspect", stream)
    assert all(name in shown.stdout for name in told)
    told = json.loads(run_here("inspect", tiny_bundle, "--json").stdout)
    assert told["fingerprint"] == bundle.manifest.fingerprint
    assert {f"file.{name}" for name in bundle.manifest.files} < set(told)
    shown = run_here("inspect", tiny_bundle)
    assert shown.returncode == 0
    assert bundle.manifest.fingerprint in shown.stdout


def test_help_of_everything() -> None:
    for group in ((), *((name,) for name in isthmus.GROUPS)):
        done = run_here(*group, "--help")
        assert done.returncode == 0, done.stderr
        assert "Commands" in done.stdout
    shown = run_here("--help").stdout
    assert all(
        text in shown for text in ("The camera side", "The server side", "Build bundles", "inspect", "demo")
    )


def test_encode_loads_neither_torch_nor_a_server(tmp_path: Path, picture: Path, tiny_bundle: Path) -> None:
    arguments = list(map(str, ["edge", "encode", picture, "-o", tmp_path / "o", "--bundle", tiny_bundle]))
    code = f"""
import sys
sys.argv = ["isthmus", *{arguments!r}]
import isthmus
try:
    isthmus.main()
except SystemExit as end:
    assert not end.code, end.code
tops = {{name.split(".")[0] for name in sys.modules}}
print(*sorted(tops))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines()[-1].split())
    assert {"edge", "shared", "onnxruntime"} < loaded
    unwanted = "torch torchvision compressai fastapi starlette uvicorn grpc google cloud httpx onnx ray numba"
    assert not loaded & set(unwanted.split())


# Wrong input. Each is one line that says what to do; 2 is the user's to mend, 1 the other side's.


def test_a_text_file_as_an_image(tmp_path: Path, tiny_bundle: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    # This one in a process of its own, so that what stands around `main` is seen too.
    told = told_by(run("edge", "encode", text, "-o", tmp_path / "o", "--bundle", tiny_bundle), 2)
    assert "notes.txt is not an image" in told
    assert not (tmp_path / "o").exists()


def test_an_image_that_is_not_there(tmp_path: Path, tiny_bundle: Path) -> None:
    told = refused("edge", "encode", "nope.png", "-o", tmp_path / "o", "--bundle", tiny_bundle, status=2)
    assert told == "no such file: nope.png"


def test_a_folder_as_an_image(tmp_path: Path, tiny_bundle: Path) -> None:
    told = refused("edge", "encode", tmp_path, "-o", tmp_path / "o", "--bundle", tiny_bundle, status=2)
    assert "is a folder; name an image" in told


def test_a_pixel_bomb(tmp_path: Path, tiny_bundle: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb())
    told = refused("edge", "encode", path, "-o", tmp_path / "o", "--bundle", tiny_bundle, status=2)
    assert "bomb.png" in told
    assert "megapixels" in told


def test_a_place_that_cannot_be_written(tmp_path: Path, picture: Path, tiny_bundle: Path) -> None:
    out = tmp_path / "no" / "such" / "folder" / "o"
    told = refused("edge", "encode", picture, "-o", out, "--bundle", tiny_bundle, status=2)
    assert told == f"{picture}: cannot write {out}: No such file or directory"


def test_several_images_into_one_file(tmp_path: Path, picture: Path, stream: Path, tiny_bundle: Path) -> None:
    told = refused("edge", "encode", picture, picture, "-o", stream, "--bundle", tiny_bundle, status=2)
    assert "need a folder" in told
    out = tmp_path / "made"
    told = refused("edge", "encode", picture, picture, "-o", out, "--bundle", tiny_bundle, status=2)
    assert "same name" in told


@pytest.mark.parametrize("command", ["encode", "decode", "serve", "demo", "inspect"])
def test_a_missing_bundle_and_an_empty_folder(
    command: str, tmp_path: Path, picture: Path, stream: Path
) -> None:
    def arguments(bundle: Path) -> list[str | Path]:
        return {
            "encode": ["edge", "encode", picture, "-o", tmp_path / "o", "--bundle", bundle],
            "decode": ["cloud", "decode", stream, "--bundle", bundle],
            "serve": ["cloud", "serve", "--grpc-port", "0", "--http-port", "0", "--bundle", bundle],
            "demo": ["demo", picture, "--out", tmp_path / "out", "--bundle", bundle],
            "inspect": ["inspect", bundle],
        }[command]

    told = refused(*arguments(tmp_path / "nowhere"), status=2)
    assert "no such file or folder" in told if command == "inspect" else "no bundle at" in told
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"no manifest.json in {empty}" in refused(*arguments(empty), status=2)


@pytest.mark.parametrize("name", ["edge.onnx", "entropy.safetensors", "cloud.safetensors", "manifest.json"])
def test_a_bundle_with_one_byte_changed(
    name: str, tmp_path: Path, picture: Path, stream: Path, tiny_bundle: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_bundle, damaged)
    data = bytearray((damaged / name).read_bytes())
    if name == "manifest.json":
        data[data.index(b'"green"') + 1] ^= 1  # a label, so that it is still a manifest
    else:
        data[len(data) // 2] ^= 0xFF
    (damaged / name).write_bytes(data)
    told = refused("inspect", damaged, status=2)
    assert name in told
    if name != "cloud.safetensors":
        assert name in refused("edge", "encode", picture, "-o", tmp_path / "o", "--bundle", damaged, status=2)
    if name == "cloud.safetensors":
        assert name in refused("cloud", "decode", stream, "--bundle", damaged, status=2)


def test_damaged_streams(tmp_path: Path, stream: Path, tiny_bundle: Path, picture: Path) -> None:
    data = stream.read_bytes()
    bad = tmp_path / "bad"
    for content, text in ((b"", "empty"), (data[:-1], "cut short"), (png(0), "not an Isthmus bitstream")):
        bad.write_bytes(content)
        assert text in refused("inspect", bad, status=2)
    assert "not an Isthmus bitstream" in refused("cloud", "decode", bad, "--bundle", tiny_bundle, status=2)
    told = refused("cloud", "decode", tmp_path / "no", "--bundle", tiny_bundle, status=2)
    assert told == f"no such file or folder: {tmp_path / 'no'}"


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
    assert first.startswith(f"isthmus: {bad}: the bitstream is cut short")
    assert second == f"isthmus: cannot read {tmp_path}: Is a directory"


def test_encode_answers_the_good_files_and_names_the_bad(
    tmp_path: Path, picture: Path, tiny_bundle: Path
) -> None:
    bad, again, out = tmp_path / "a", tmp_path / "again.png", tmp_path / "out"
    bad.write_bytes(b"hello")
    again.write_bytes(png(1))
    done = run_here("edge", "encode", picture, bad, again, "-o", out, "--bundle", tiny_bundle)
    assert done.returncode == 2
    assert sorted(path.name for path in out.iterdir()) == ["again.isthmus", "room.isthmus"]
    assert len(done.stdout.splitlines()) == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"isthmus: {bad} is not an image")


def test_an_empty_name_for_the_output(picture: Path, tiny_bundle: Path) -> None:
    told = refused("edge", "encode", picture, "-o", "", "--bundle", tiny_bundle, status=2)
    assert told == "the output's name is empty"


def test_an_unknown_task(stream: Path, tiny_bundle: Path) -> None:
    told = refused("cloud", "decode", stream, "--bundle", tiny_bundle, "--task", "nope", status=2)
    assert told == "unknown task 'nope'; this bundle answers: classification"


def test_a_cloud_that_is_not_there(picture: Path, tiny_bundle: Path) -> None:
    told = refused("edge", "analyze", picture, "--cloud", "127.0.0.1:1", "--bundle", tiny_bundle, status=1)
    assert "127.0.0.1:1 cannot be reached" in told
    assert "isthmus cloud serve" in told


@pytest.mark.parametrize(
    "address", ["x", "http://localhost:50051", "dns:///localhost:50051", "localhost:50051/"]
)
def test_an_address_that_is_none(address: str, tiny_bundle: Path) -> None:
    told = refused("edge", "serve", "--port", "0", "--cloud", address, "--bundle", tiny_bundle, status=2)
    assert told == f"--cloud: {address!r} is no address of a cloud; give HOST:PORT (no http://)"


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


def test_an_extra_that_is_not_installed(stream: Path, tiny_bundle: Path) -> None:
    arguments = ["cloud", "decode", str(stream), "--bundle", str(tiny_bundle)]
    # What an edge's installation is to the cloud's commands.
    code = f"""
import sys
sys.modules["torch"] = None
sys.argv = ["isthmus", *{arguments!r}]
import isthmus
isthmus.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("isthmus: torch is not installed; pip install -c constraints.txt -e '.[cloud]'\n")


def test_wrong_usage_is_one_line_that_says_how() -> None:
    for arguments, text, helped in (
        (("bogus",), "'bogus'", "isthmus --help"),
        (("edge", "encode"), "Missing", "isthmus edge encode --help"),
        (
            ("edge", "encode", "a.png", "-o", "b", "--quality", "999"),
            "--quality",
            "isthmus edge encode --help",
        ),
        (("cloud", "decode", "a", "--colour"), "--colour", "isthmus cloud decode --help"),
    ):
        told = refused(*arguments, status=2)
        assert text in told
        assert helped in told
    done = run_here("edge")
    assert (done.returncode, "Commands" in done.stdout + done.stderr) == (2, True)


def test_version() -> None:
    done = run_here("--version")
    assert (done.returncode, done.stdout) == (0, f"isthmus {importlib.metadata.version('isthmus')}\n")


def test_an_edges_image_has_no_demo() -> None:
    code = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "demo":
            raise ModuleNotFoundError("No module named 'demo'", name="demo")
sys.meta_path.insert(0, Missing())
sys.argv = ["isthmus", "demo"]
import isthmus
isthmus.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    told = told_by(Done(done.returncode, done.stdout, done.stderr), 2)
    assert told.startswith("demo runs from a clone of the repository: pip install")


def test_a_module_of_ours_that_is_missing_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shared.process.inspect", None)
    with pytest.raises(ModuleNotFoundError):
        run_here("inspect", "x")


def test_an_error_of_the_system_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "some/file")

    monkeypatch.setattr("shared.process.inspect.inspect_path", full)
    assert refused("inspect", "x", status=2) == "some/file: No space left on device"


@pytest.mark.parametrize("where", ["typer", "shared.process.inspect", "shared.errors"])
def test_interrupted_while_it_imports(where: str) -> None:
    code = f"""
import sys
class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == {where!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupts())
sys.argv = ["isthmus", "inspect", "x"]
import isthmus
isthmus.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
