"""Who may import whom: the house's table, read from the source, and once from running processes."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.kinds import KINDS

ROOT = Path(__file__).parents[1]
# Every room, and the packages of ours that it may import besides itself; "cloud.engine" names that part alone.
MAY_IMPORT = {
    "shared": (),
    "edge": ("shared",),
    "cloud": ("shared",),
    "train": ("cloud.engine", "cloud.networks", "shared"),
    "bench": ("train", "cloud", "edge", "shared"),
    "demo": ("shared",),
}
# Rooms with an order inside: each may import those behind it, and none before it.
INSIDE = {
    "train": ("commands", "tasks", "bundle", "codec", "networks", "loop", "data", "kinds", "rooms"),
    "shared": ("process", "wire", "kinds", "codec"),
}
SOURCES = sorted(p for folder in MAY_IMPORT for p in (ROOT / folder).rglob("*.py"))
ALL = [*SOURCES, ROOT / "isthmus.py"]
GRPC = {"grpc", "grpc_health", "grpc_reflection", "grpc_status", "grpc_tools"}
TORCH = {"torch", "torchvision", "compressai"}


def where(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything imported, at any depth of the file, and by import_module("name") too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__"):
                yield node.lineno, str(node.args[0].value)


def offences(paths: list[Path], packages: set[str]) -> list[str]:
    """Where any of `packages` is imported."""
    return [
        f"{where(path)}:{line} imports {name}"
        for path in paths
        for line, name in imports(ast.parse(path.read_text("utf-8")))
        if name.split(".")[0] in packages
    ]


def under(*places: str) -> list[Path]:
    return [path for path in SOURCES if where(path).startswith(places)]


def outside(*places: str) -> list[Path]:
    return [path for path in SOURCES if not where(path).startswith(places)]


def test_the_reader_of_imports_sees_every_form() -> None:
    text = (
        "import torch.nn as nn, os\n"
        "from torch import Tensor\n"
        "def f():\n    import grpc\n"
        "if TYPE_CHECKING:\n    from cloud.engine.bundle_model import Model\n"
        "importlib.import_module('ray.serve')\n__import__('pickle')\n"
    )
    found = {name for _, name in imports(ast.parse(text))}
    assert found == {
        "torch.nn",
        "os",
        "torch.Tensor",
        "grpc",
        "cloud.engine.bundle_model.Model",
        "ray.serve",
        "pickle",
    }
    assert len(SOURCES) > 20


def names_of_ours(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import of a room's."""
    for line, name in imports(ast.parse(path.read_text("utf-8"))):
        if name.split(".")[0] in MAY_IMPORT:
            yield line, name


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def breaks_the_table(room: str, name: str) -> bool:
    return not any(within(name, package) for package in (room, *MAY_IMPORT[room]))


def test_rooms_import_what_the_table_allows() -> None:
    found = [
        f"{where(path)}:{line} imports {name}"
        for path in SOURCES
        for line, name in names_of_ours(path)
        if breaks_the_table(path.relative_to(ROOT).parts[0], name)
    ]
    assert found == []


def test_the_table_refuses() -> None:
    assert breaks_the_table("cloud", "train.loop.run")
    assert breaks_the_table("cloud", "edge.client.Client")
    assert breaks_the_table("train", "cloud.server")
    assert breaks_the_table("train", "cloud.networks_of_old")
    assert breaks_the_table("shared", "edge.client")
    assert not breaks_the_table("train", "cloud.networks.sizes.CodecConfig")
    assert not breaks_the_table("bench", "edge.client")


def floor_of(name: str, order: tuple[str, ...]) -> int | None:
    parts = name.split(".")
    return order.index(parts[1]) if len(parts) > 1 and parts[1] in order else None


@pytest.mark.parametrize("room", INSIDE)
def test_no_import_runs_back_up_inside_a_room(room: str) -> None:
    found = []
    for path in under(f"{room}/"):
        floor = floor_of(where(path).removesuffix(".py").replace("/", "."), INSIDE[room])
        for line, name in names_of_ours(path):
            other = floor_of(name, INSIDE[room]) if within(name, room) else None
            if floor is not None and other is not None and other < floor:
                found.append(f"{where(path)}:{line} imports {name}")
    assert found == []


def test_the_renderer_knows_shared_at_most() -> None:
    allowed = ("train.rooms", "shared")
    found = [
        f"{where(path)}:{line} imports {name}"
        for path in under("train/rooms/")
        for line, name in names_of_ours(path)
        if not any(within(name, package) for package in allowed)
    ]
    assert found == []


def module_of(path: Path) -> str:
    return where(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def import_graph(paths: list[Path]) -> dict[str, set[str]]:
    """Modules of ours by the modules of ours that they import, lazily or not."""
    known = {module_of(path) for path in paths}

    def target(name: str) -> str | None:
        parts = name.split(".")
        return next((m for k in range(len(parts), 0, -1) if (m := ".".join(parts[:k])) in known), None)

    return {
        module_of(path): {
            t for _, name in names_of_ours(path) if (t := target(name)) and t != module_of(path)
        }
        for path in paths
    }


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Chains of modules that end where they began, each once. A package's own __init__ does not count: its modules
    may name their package."""
    found, done = [], set()

    def visit(module: str, chain: list[str]) -> None:
        if module in chain:
            found.append([*chain[chain.index(module) :], module])
            return
        if module in done:
            return
        for other in sorted(graph.get(module, ())):
            if not within(module, other):
                visit(other, [*chain, module])
        done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return found


def test_no_circle() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == [["a", "b", "c", "a"]]
    assert circles(import_graph(SOURCES)) == []


def test_nobody_imports_the_command_line_or_the_tests() -> None:
    assert offences(SOURCES, {"isthmus", "tests", "support", "conftest"}) == []


def test_grpc_is_touched_at_the_wire_only() -> None:
    allowed = (
        "shared/wire/",
        "edge/client.py",
        "edge/cloud_status.py",
        "cloud/faces/grpc_",
        "bench/throughput/load_client.py",
    )
    assert offences([*outside(*allowed), ROOT / "isthmus.py"], GRPC) == []


def test_the_edge_and_shared_know_no_torch() -> None:
    assert offences([*outside("cloud/", "train/", "bench/"), ROOT / "isthmus.py"], TORCH) == []


def test_training_libraries_do_not_reach_the_server() -> None:
    """`pip install isthmus[cloud]` brings neither onnx nor tensorboard nor Fabric nor torchvision."""
    training = {"onnx", "onnxscript", "tensorboard", "torchvision", "lightning_fabric"}
    assert offences(outside("train/", "bench/"), training) == []


def test_the_server_compiles_in_one_place() -> None:
    """numba takes seconds where its cache is empty, and an edge does not have it."""
    assert offences(outside("train/", "cloud/engine/compiled_reader.py"), {"numba"}) == []


def test_torchvision_is_imported_in_one_place() -> None:
    """It needs care beside a CPU build of torch; once that was taken, cutting names the nodes of a graph with it."""
    allowed = ("train/networks/torchvision_shim.py", "train/networks/cutting.py")
    assert offences([*outside(*allowed), ROOT / "isthmus.py"], {"torchvision"}) == []
    cutting = ast.parse((ROOT / allowed[1]).read_text("utf-8"))
    assert [name for _, name in imports(cutting) if name.startswith("torchvision")] == [
        "torchvision.models.feature_extraction.NodePathTracer"
    ]


RAY = "cloud/engine/ray_engine.py"


def test_one_file_touches_ray() -> None:
    assert offences([*outside(RAY), ROOT / "isthmus.py"], {"ray"}) == []
    assert offences(under(RAY), {"ray"}) != []


def importable(paths: list[Path]) -> list[str]:
    """Their dotted names, without the file that needs Ray where the extra `ray` is absent."""
    has_ray = importlib.util.find_spec("ray") is not None
    return [module_of(path) for path in paths if has_ray or where(path) != RAY]


def test_codec_knows_no_network_task_bundle_or_transport() -> None:
    strangers = (
        "shared.bundle",
        "shared.types",
        "shared.kinds",
        "shared.encoder",
        "shared.image",
        "shared.wire",
        "shared.process.http",
    )
    found = [
        f"{where(path)}:{line} imports {name}"
        for path in under("shared/codec/")
        for line, name in imports(ast.parse(path.read_text("utf-8")))
        if name.startswith(strangers)
    ]
    assert found == []


# Files that name kinds of answers by nature.
NAME_KINDS = (
    "shared/kinds/",
    "cloud/engine/kinds/",
    "train/kinds/",
    "shared/process/http.py",  # examples in the API's documentation
    "shared/process/http_parameters.py",
    "train/data/formats/",  # a format holds labels of one kind, or says which
    "train/rooms/",  # layers of a rendered room
    "train/networks/network_folder.py",  # what a file means that says nothing
    "train/networks/network_recipe.py",
    "train/networks/deeplab.py",  # what these networks answer
    "train/commands/network.py",
    "bench/rooms/",  # the three networks of the shipped bundle
    "bench/latency/inputs.py",
    "bench/photos/",  # targets of the tasks of the bundle photos
)


def kinds_named(path: Path) -> list[str]:
    """Where a file names a kind of answer in a string of its own."""
    return [
        f"{where(path)}:{node.lineno} names {node.value}"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in KINDS
    ]


def test_kinds_are_named_by_their_own_files_only() -> None:
    assert kinds_named(ROOT / "shared/kinds/depth.py")
    assert [line for path in outside(*NAME_KINDS) for line in kinds_named(path)] == []


def test_no_pickle() -> None:
    assert offences(ALL, {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}) == []
    found = []
    for path in ALL:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            call, words = ast.unparse(node.func), {w.arg: ast.unparse(w.value) for w in node.keywords}
            if call == "torch.load" and words.get("weights_only") != "True":
                found.append(f"{where(path)}:{node.lineno} torch.load without weights_only=True")
            if call in ("np.load", "numpy.load") and words.get("allow_pickle", "False") != "False":
                found.append(f"{where(path)}:{node.lineno} numpy.load that allows pickle")
    assert found == []


def test_proto_is_no_package() -> None:
    """A proto/__init__.py would hide proto-plus, which Ray needs."""
    assert list((ROOT / "proto").rglob("*.py")) == []


def test_test_folders_are_no_packages() -> None:
    """With __init__.py in them, tests/shared and the package `shared` would be one name."""
    inits = {where(path) for path in (ROOT / "tests").rglob("__init__.py")}
    assert inits == {"tests/support/__init__.py"}


def loaded_by(code: str) -> set[str]:
    """Top-level packages in a fresh process after `code`."""
    tail = "\nimport json, sys\nprint(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", code + tail],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


HEAVY = TORCH | {
    "ray",
    "numba",
    "onnx",
    "onnxscript",
    "tensorboard",
    "scipy",
    "pandas",
    "cloud",
    "train",
    "bench",
}


def test_a_running_edge_holds_no_torch() -> None:
    names = [
        where(path)[:-3].replace("/", ".").removesuffix(".__init__") for path in under("edge/", "shared/")
    ]
    loaded = loaded_by("\n".join(f"import {name}" for name in ["isthmus", *names]))
    assert {"edge", "shared", "grpc", "onnxruntime"} <= loaded  # everything was really imported
    assert loaded & HEAVY == set()


def test_a_serving_cloud_holds_no_training() -> None:
    loaded = loaded_by("\n".join(f"import {name}" for name in importable(under("cloud/"))))
    assert "torch" in loaded
    assert loaded & {"torchvision", "onnx", "onnxscript", "tensorboard"} == set()
    assert loaded & {"train", "bench", "demo", "edge"} == set()


def test_loading_a_model_needs_no_server() -> None:
    names = ("cloud.engine.load", "cloud.engine.bundle_model", "cloud.pipeline", "cloud.archive.replay")
    loaded = loaded_by("\n".join(f"import {name}" for name in names))
    assert "torch" in loaded
    assert loaded & {"grpc", "grpc_health", "fastapi", "starlette", "uvicorn"} == set()


def test_every_module_can_be_imported() -> None:
    """What only a bench or a long training imports would otherwise be found missing by its user."""
    peers = {"train.codec.compressai_priors"}  # needs an extra that is not in dev
    loaded_by("\n".join(f"import {name}" for name in importable(SOURCES) if name not in peers))


def test_the_command_line_loads_little() -> None:
    loaded = loaded_by("import isthmus")
    assert loaded & (HEAVY | {"grpc", "fastapi", "uvicorn", "onnxruntime", "edge"}) == set()


def test_edge_encode_loads_neither_torch_nor_a_server(tiny_bundle: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (80, 60), "red").save(tmp_path / "a.png")
    out = tmp_path / "a.isth"
    code = (
        "import sys, isthmus\n"
        f"sys.argv = ['isthmus', 'edge', 'encode', {str(tmp_path / 'a.png')!r},"
        f" '--bundle', {str(tiny_bundle)!r}, '-o', {str(out)!r}]\n"
        "try:\n    isthmus.main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
    )
    loaded = loaded_by(code)
    assert out.stat().st_size > 15
    assert loaded & (HEAVY | {"fastapi", "uvicorn", "starlette", "grpc"}) == set()


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_each_module_says_what_it_is(folder: str) -> None:
    missing = [
        where(path)
        for path in under(f"{folder}/")
        if not path.name.endswith(("_pb2.py", "_pb2_grpc.py"))
        and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert missing == []
