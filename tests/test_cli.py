"""The command line as a whole: groups, names, help, bounds, completion, and how errors leave it."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

import isthmus
from support.processes import ROOT, Done, refused, run_here
from support.processes import told as told_by
from support.service import png


def test_help_of_everything() -> None:
    for group in ((), *((name,) for name in isthmus.GROUPS)):
        done = run_here(*group, "--help")
        assert done.returncode == 0, done.stderr
        assert "Commands" in done.stdout
    shown = run_here("--help").stdout
    assert all(
        text in shown for text in ("The camera side", "The server side", "Build bundles", "inspect", "demo")
    )


# Wrong input. Each is one line that says what to do; 2 is the user's to mend, 1 the other side's.


def test_inspect_of_a_bundle_that_ships() -> None:
    done = run_here("inspect", "photos", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["name"] == "photos"


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


@pytest.mark.parametrize(
    ("group", "given", "threads"), [("edge", None, "1"), ("edge", "3", "3"), ("cloud", None, "None")]
)
def test_an_edge_leaves_the_cores_to_others(group: str, given: str | None, threads: str) -> None:
    """numpy reads the variable when it is imported, so it must not be imported before."""
    code = f"""
import sys, os
class Watches:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            print(os.environ.get("OPENBLAS_NUM_THREADS"))
sys.meta_path.insert(0, Watches())
sys.argv = ["isthmus", {group!r}, "serve", "--print-config"]
import isthmus
isthmus.main()
"""
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    environment |= {"OPENBLAS_NUM_THREADS": given} if given else {}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120, env=environment
    )
    assert done.stdout.splitlines()[0] == threads, done.stderr


def test_a_module_of_ours_that_is_missing_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shared.process.inspect", None)
    with pytest.raises(ModuleNotFoundError):
        run_here("inspect", "x")


def test_an_error_of_the_system_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, as_json: bool) -> None:
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


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("train rooms", "rooms render"),
        ("train network", "network train"),
        ("train import", "network import"),
        ("train recover", "network recover"),
        ("train single", "codec train"),
        ("train multi", "codec train"),
        ("train task", "task train"),
        ("train build", "bundle build"),
        ("train evaluate", "bundle evaluate"),
        ("split", "network layers"),
        ("cloud add-task", "task add"),
        ("cloud remove-task", "task remove"),
    ],
)
def test_an_old_name_prints_the_new_one_and_does_nothing(
    old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for rest in ((), ("--help",), ("x", "--count", "2", "--out", "y")):
        assert refused(*old.split(), *rest, status=2) == f"`isthmus {old}` is now `isthmus {new}`"
    assert list(tmp_path.iterdir()) == []
    assert run_here(*new.split(), "--help").returncode == 0


def commands(group: Any = None, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command, by its words."""
    if group is None:
        group = typer.main.get_group(isthmus.app)
        for name in isthmus.GROUPS:
            yield from commands(isthmus._group(name, [name, "--help"]), (name,))
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*words, name))
        else:
            yield " ".join((*words, name)), command


COMMANDS = dict(commands())


def test_the_walk_finds_the_commands() -> None:
    expected = {
        *("edge encode", "edge analyze", "edge serve", "cloud serve", "cloud decode", "cloud replay"),
        *("rooms render", "network train", "network import", "network layers", "network recover"),
        *("codec train", "task train", "task add", "task remove"),
        *("bundle build", "bundle inspect", "bundle evaluate"),
        *("bench rooms", "bench rate", "bench latency", "bench cloud", "demo", "inspect"),
    }
    assert expected <= COMMANDS.keys()


@pytest.mark.parametrize("words", sorted(COMMANDS))
def test_help_shows_every_text_and_no_two_are_the_same(words: str) -> None:
    shown = " ".join(run_here(*words.split(), "--help").stdout.split())
    texts = [" ".join((parameter.help or "").split()) for parameter in COMMANDS[words].params]
    assert all(texts), [p.name for p in COMMANDS[words].params if not p.help]
    assert len(set(texts)) == len(texts)
    for text in (*texts, COMMANDS[words].help.split("\n\n")[0]):
        # Folded lines are broken behind hyphens too.
        assert " ".join(text.split()).replace("- ", "-") in shown.replace("- ", "-")


@pytest.mark.parametrize("words", sorted(COMMANDS))
def test_every_number_has_bounds(words: str) -> None:
    """An absurd one (`--threads 100000`) is refused by name, before anything is loaded."""
    for name, hint in typing.get_type_hints(COMMANDS[words].callback, include_extras=True).items():
        for info in numbers(hint):
            assert info is not None, f"{words}: {name} has no option"
            assert info.max is not None, f"{words}: {name} has no upper bound"
            assert info.min is not None, f"{words}: {name} has no lower bound"


def numbers(hint: Any) -> Iterator[Any]:
    """The option of an annotation of whole numbers, None if it has none; nothing for any other."""
    base, *extra = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint,)
    if int in (base, *typing.get_args(base)):
        yield next((one for one in extra if hasattr(one, "min")), None)


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("edge encode a.png -o b --threads 100000", "--threads"),
        ("cloud decode a --threads 100000", "--threads"),
        ("rooms render r --workers 100000", "--workers"),
        ("rooms render r --size 100000", "--size"),
        ("codec train --out r --batch 100000000", "--batch"),
        ("cloud serve --http-port 99999", "--http-port"),
    ],
)
def test_an_absurd_number_is_refused_by_name(command: str, flag: str) -> None:
    assert f"'{flag}'" in refused(*command.split(), status=2)


def test_completion_knows_groups_commands_and_options() -> None:
    """The shell asks the program; what it asks of a training command loads no torch."""
    for words, expected in (
        ("isthmus ne", {"network"}),
        ("isthmus edge en", {"encode"}),
        ("isthmus codec train --distor", {"--distortion"}),
    ):
        code = (
            "import isthmus, sys\ntry:\n    isthmus.main()\nfinally:\n    assert 'torch' not in sys.modules"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={
                **os.environ,
                "_ISTHMUS_COMPLETE": "complete_bash",
                "COMP_WORDS": words,
                "COMP_CWORD": str(len(words.split()) - 1),
            },
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=60,
        )
        assert set(done.stdout.split()) == expected, done.stderr
    assert "--install-completion" in run_here("--help").stdout


WITHOUT_TRAINING = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in ("train", "bench"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
import isthmus
isthmus.main()
"""


def test_an_installation_without_training_says_so_and_has_the_rest(tiny_bundle: Path) -> None:
    def go(*arguments: str | Path) -> Done:
        command = [sys.executable, "-c", WITHOUT_TRAINING, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
        return Done(done.returncode, done.stdout, done.stderr)

    for words, extra in (
        (("rooms", "render", "x"), "train"),
        (("network", "layers", "x"), "train"),
        (("task", "train", "x"), "train"),
        (("bundle", "build", "x"), "train"),
    ):
        assert told_by(go(*words), 2) == (
            f"isthmus {words[0]} {words[1]} runs from a clone of the repository: "
            f"pip install -c constraints.txt -e '.[{extra}]'"
        )
    assert "bench runs from a clone" in told_by(go("bench", "rooms", "x"), 2)
    assert go("bundle", "inspect", tiny_bundle).returncode == 0
    shown = go("task", "--help")
    assert (shown.returncode, "remove" in shown.stdout, "train" in shown.stdout.split("Commands")[1]) == (
        0,
        True,
        False,
    )
    assert "no manifest.json" in told_by(go("task", "add", ROOT / "tests", "x"), 2)


def test_demo_does_not_write_among_other_files(tmp_path: Path, tiny_bundle: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    said = refused("demo", "--out", tmp_path, "--bundle", tiny_bundle, status=2)
    assert said.startswith(f"{tmp_path} holds files of something else (thesis.tex)")
