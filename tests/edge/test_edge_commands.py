"""`isthmus edge encode` and `analyze`: what works, and wrong input as a new user would give it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.processes import ISTHMUS, ROOT, refused, run, run_here, server
from support.processes import told as told_by
from support.service import bomb, png


@pytest.fixture(scope="module")
def cloud(tiny_bundle: Path) -> Iterator[str]:
    """The gRPC address of a cloud that serves the bundle."""
    ports = ("--grpc-port", "0", "--http-port", "0")
    with server("cloud", "serve", "--bundle", tiny_bundle, *ports) as process:
        address = process.event("listening")["grpc"]
        process.event("ready")
        yield address


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
    assert not out.exists()


@pytest.mark.parametrize("other", ["itself", "link", "folder"])
def test_what_is_encoded_is_not_overwritten(tmp_path: Path, tiny_bundle: Path, other: str) -> None:
    only = tmp_path / "only.isthmus"
    only.write_bytes(before := png(0))
    link = tmp_path / "link"
    link.symlink_to(only)
    out = {"itself": only, "link": link, "folder": tmp_path}[other]
    told = refused("edge", "encode", only, "-o", out, "--bundle", tiny_bundle, status=2)
    assert "is what is to be encoded; give the output another name" in told
    assert only.read_bytes() == before
    assert link.is_symlink()


def test_a_folder_that_is_encoded_as_a_clip_keeps_its_images(tmp_path: Path, tiny_bundle: Path) -> None:
    image = tmp_path / "1.png"
    image.write_bytes(before := png(0))
    out = ("--fps", "2", "-o")
    told = refused("edge", "encode", tmp_path, *out, image, "--bundle", tiny_bundle, status=2)
    assert told.startswith(f"{image} is what is to be encoded")
    assert image.read_bytes() == before


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


def run_bytes(*arguments: str | Path, data: bytes = b"") -> tuple[int, bytes, str]:
    """A command in a process of its own, with bytes in its standard input: status, standard output, errors."""
    done = subprocess.run(
        [*ISTHMUS, *map(str, arguments)], input=data, capture_output=True, timeout=120, cwd=ROOT
    )
    return done.returncode, done.stdout, done.stderr.decode()


def test_encode_from_a_pipe_into_a_pipe(tiny_bundle: Path, packed: list[bytes]) -> None:
    """`-` is standard input and output, and /dev/stdout in a pipe is written through, not replaced."""
    for output in ("-", "/dev/stdout"):
        status, out, errors = run_bytes(
            "edge", "encode", "-", "-o", output, "--bundle", tiny_bundle, data=png(0)
        )
        assert (status, out) == (0, packed[0]), errors
        assert "bytes" in errors  # the report, which standard output has no room for


def test_encode_into_a_named_pipe(
    tmp_path: Path, picture: Path, tiny_bundle: Path, packed: list[bytes]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(
        [*ISTHMUS, "edge", "encode", str(picture), "-o", str(pipe), "--bundle", str(tiny_bundle)],
        stdout=subprocess.DEVNULL,
    ) as process:
        assert pipe.read_bytes() == packed[0]
    assert process.returncode == 0
    assert pipe.is_fifo()


def test_what_standard_input_holds_is_named(tiny_bundle: Path, tmp_path: Path) -> None:
    status, out, errors = run_bytes(
        "edge", "encode", "-", "-o", tmp_path / "o", "--bundle", tiny_bundle, data=b"hello"
    )
    assert (status, out) == (2, b"")
    assert errors.startswith("isthmus: standard input is not an image")


def test_standard_output_takes_one_bitstream(picture: Path, tiny_bundle: Path) -> None:
    said = refused("edge", "encode", picture, picture, "-o", "-", "--bundle", tiny_bundle, status=2)
    assert said == "standard output takes one bitstream; several images need a folder (--output)"


def test_analyze_goes_on_after_a_bad_file(
    tmp_path: Path, picture: Path, tiny_bundle: Path, cloud: str
) -> None:
    again, bad = tmp_path / "again.png", tmp_path / "nope.png"
    again.write_bytes(png(1))
    flags = ("--cloud", cloud, "--bundle", tiny_bundle, "--json")
    done = run_here("edge", "analyze", picture, bad, again, *flags)
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == f"isthmus: no such file: {bad}\n"


def test_analyze_reports_each_file_and_ends_with_the_worst_status(
    tmp_path: Path, picture: Path, tiny_bundle: Path
) -> None:
    """An unreachable cloud is 1, a missing file 2; in either order both are reported."""
    bad = tmp_path / "nope.png"
    for files in ((picture, bad), (bad, picture)):
        done = run_here("edge", "analyze", *files, "--cloud", "127.0.0.1:1", "--bundle", tiny_bundle)
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.splitlines()) == 2


def test_maps_do_not_go_among_other_files(
    tmp_path: Path, picture: Path, tiny_bundle: Path, cloud: str
) -> None:
    maps = tmp_path / "maps"
    maps.mkdir()
    (maps / "thesis.tex").touch()
    command = ("edge", "analyze", picture, "--cloud", cloud, "--bundle", tiny_bundle, "--maps", maps)
    said = refused(*command, status=2)
    assert said == (
        f"{maps} holds files of something else (thesis.tex); choose another folder, or force it (--force)"
    )
    assert run_here(*command, "--force").returncode == 0
    assert run_here(*command).returncode == 0  # begun now
