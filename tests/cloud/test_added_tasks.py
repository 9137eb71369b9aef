"""Tasks that are added to a bundle: on the disk, and under servers that answer meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import numpy as np
import pytest
import torch

from cloud.archive.archive import Archive
from cloud.engine.bundle_model import CloudModel
from cloud.engine.load import load
from cloud.faces.http_face import build_app
from cloud.pipeline import Pipeline
from cloud.settings import AuthSettings, PipelineSettings
from cloud.shelf.keeper import Keeper
from cloud.shelf.shelf import Shelf
from cloud.task_folders import add_task, remove_task
from shared.bundle import TASK, TASKS, WEIGHTS, AddedTask, Bundle
from shared.codec.bitstream import MEDIA_TYPE
from shared.errors import BundleDamagedError, RequestError, UnknownTaskError
from shared.process.auth import Gate
from shared.process.config import HttpSettings
from shared.types import Analysis, TaskQuery, TaskResult, Wanted
from shared.wire import analyzer_pb2 as pb
from shared.wire import convert
from shared.wire.analyzer_pb2_grpc import AnalyzerStub
from support.processes import refused, run_here, server
from support.service import OneBundle, problem, until
from support.tasks import write_task

ALL = Wanted()
MOOD = Wanted(tasks=(TaskQuery(name="mood"),))
TOKEN = "a-token-of-the-tests"
STREAM = {"Content-Type": MEDIA_TYPE}


@pytest.fixture
def own(tmp_path: Path, tiny_bundle: Path) -> Path:
    """A copy of the tiny bundle that a test may change."""
    return shutil.copytree(tiny_bundle, tmp_path / "own")


@pytest.fixture(scope="session")
def mood(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """A task folder for the tiny bundle."""
    return write_task(tiny_bundle, tmp_path_factory.mktemp("tasks") / "trained")


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, hidden ones too."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def names(bundle: Bundle) -> list[str]:
    return [task.name for task in bundle.tasks]


# On the disk


def test_adding_and_taking_out_changes_no_other_byte(own: Path, mood: Path) -> None:
    before, mark = hashes(own), Bundle.open(own).fingerprint
    done = run_here("task", "add", own, mood)
    assert done.returncode == 0, done.stderr
    assert "mood" in done.stdout
    after = hashes(own)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {f"tasks/mood/{TASK}", f"tasks/mood/{WEIGHTS}"}
    assert hashes(own / TASKS / "mood") == hashes(mood)
    bundle = Bundle.open(own)
    assert bundle.fingerprint == mark
    assert names(bundle) == ["classification", "mood"]
    assert [task.name for task in bundle.info().tasks] == names(bundle)
    assert bundle.task("mood").labels == ("calm", "busy", "dim", "bright")
    assert (own / TASKS / "mood").stat().st_mode & 0o777 == 0o755
    assert run_here("task", "remove", own, "mood").returncode == 0
    assert hashes(own) == before
    assert names(Bundle.open(own)) == ["classification"]


def test_added_tasks_stand_behind_the_bundles_own_by_name(own: Path, tmp_path: Path) -> None:
    for name in ("zoo", "air"):
        add_task(own, write_task(own, tmp_path / name, name))
    assert names(Bundle.open(own)) == ["classification", "air", "zoo"]


def test_weights_in_16_bits_answer_as_those_in_32_do(own: Path, tmp_path: Path) -> None:
    add_task(own, write_task(own, tmp_path / "whole", "whole"))
    add_task(own, write_task(own, tmp_path / "half", "half", half=True))
    model = CloudModel(Bundle.open(own))
    config = model.bundle.manifest.codec
    z = (
        np.random.default_rng(0)
        .integers(-2, 3, (1, config["latent_channels"], *config["grid"]))
        .astype(np.int32)
    )
    outputs = model.outputs(z, {"whole": [0], "half": [0]}, [model.bundle.quality(None)])
    assert torch.allclose(outputs["whole"], outputs["half"], atol=1e-2)
    assert outputs["half"].dtype == torch.float32


def test_a_task_that_is_there_is_not_replaced(own: Path, mood: Path, tmp_path: Path) -> None:
    add_task(own, mood)
    before = hashes(own)
    other = write_task(own, tmp_path / "other", seed=1)
    assert "isthmus task remove" in refused("task", "add", own, other, status=2)
    assert hashes(own) == before


def test_the_bundles_own_task_can_neither_be_added_nor_taken_out(own: Path, tmp_path: Path) -> None:
    folder = write_task(own, tmp_path / "same", "classification")
    assert "another name" in refused("task", "add", own, folder, status=2)
    assert "itself" in refused("task", "remove", own, "classification", status=2)
    assert not (own / TASKS).exists()


def test_what_a_kill_left_is_swept(own: Path, mood: Path) -> None:
    old, young = own / TASKS / ".mood.old", own / TASKS / ".mood.young"
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    add_task(own, mood)
    assert not old.exists()
    assert young.exists()
    old.mkdir()
    os.utime(old, (0, 0))
    remove_task(own, "mood")
    assert not old.exists()


@pytest.mark.parametrize("name", ["nope", "../own", "", ".", ".mood.x"])
def test_taking_out_what_is_not_there(own: Path, mood: Path, name: str) -> None:
    add_task(own, mood)
    (own / TASKS / ".mood.x").mkdir()
    told = refused("task", "remove", own, name, status=2)
    assert "classification, mood" in told
    assert Bundle.open(own).task("mood")


def other_weights(folder: Path) -> None:
    """Sound by its hash, and no weights of that network."""
    from safetensors.numpy import save

    added = AddedTask.model_validate(
        {k: v for k, v in json.loads((folder / TASK).read_text()).items() if k != "sha256"}
    )
    data = save({})
    entry = added.file.model_copy(update={"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)})
    (folder / WEIGHTS).write_bytes(data)
    (folder / TASK).write_bytes(added.model_copy(update={"file": entry}).sealed_json())


def rewrite(folder: Path, **changed: Any) -> None:
    """Other fields of task.json, and a seal that fits."""
    raw = json.loads((folder / TASK).read_text())
    raw.pop("sha256")
    (folder / TASK).write_bytes(AddedTask.model_validate(raw | changed).sealed_json())


def changed_task(folder: Path, **changed: Any) -> None:
    rewrite(folder, task=json.loads((folder / TASK).read_text())["task"] | changed)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: list[tuple[Callable[[Path], Any], str]] = [
    (lambda f: (f / TASK).unlink(), "no task.json"),
    (lambda f: (f / TASK).write_text("{"), "not JSON"),
    (lambda f: (f / TASK).write_text('{"format": 2}'), "task format 2"),
    (lambda f: (f / TASK).write_text((f / TASK).read_text().replace("calm", "calx")), "was changed"),
    (lambda f: rewrite(f, fingerprint="0" * 64), "another bundle.*fingerprint 00000000"),
    (lambda f: rewrite(f, edge_sha256="0" * 64), "another bundle.*edge 00000000"),
]
WEIGHT_DAMAGES: list[tuple[Callable[[Path], Any], str]] = [
    (lambda f: (f / WEIGHTS).unlink(), "cannot read"),
    (lambda f: flip(f / WEIGHTS), "SHA-256 differs"),
    (other_weights, "does not fit.*Missing key"),
    (lambda f: changed_task(f, feature=[5, 9, 9]), "the feature is"),
    (lambda f: changed_task(f, feature=[5, 10**6, 10**6]), "the feature is"),
    (lambda f: changed_task(f, labels=["one"]), "4 outputs for 1 labels"),
    (lambda f: changed_task(f, labels=[]), "4 outputs for 0 labels"),
    (lambda f: changed_task(f, kind="normals"), "is no map of the image"),
    (lambda f: changed_task(f, kind="segmentation"), "is no map of the image"),
    (lambda f: rewrite(f, codec={"reconstruction": [10**9, 10**9]}), "does not fit"),
    (lambda f: changed_task(f, network="resnet"), "unknown network"),
    (lambda f: changed_task(f, split=99), "split layer 99"),
    (lambda f: rewrite(f, codec={"latent_channels": 1}), "does not fit"),
]


@pytest.mark.parametrize(("damage", "text"), DAMAGES + WEIGHT_DAMAGES)
def test_a_damaged_folder_is_not_added(
    own: Path, mood: Path, tmp_path: Path, damage: Callable[[Path], Any], text: str
) -> None:
    folder = shutil.copytree(mood, tmp_path / "damaged")
    damage(folder)
    before = hashes(own)
    with pytest.raises(BundleDamagedError, match=text) as caught:
        add_task(own, folder)
    assert "\n" not in str(caught.value)
    assert hashes(own) == before


@pytest.mark.parametrize(("damage", "text"), DAMAGES)
def test_a_bundle_with_a_damaged_task_does_not_open_and_can_be_mended(
    own: Path, mood: Path, damage: Callable[[Path], Any], text: str
) -> None:
    add_task(own, mood)
    damage(own / TASKS / "mood")
    with pytest.raises(BundleDamagedError, match=text) as caught:
        Bundle.open(own)
    assert str(own / TASKS / "mood") in str(caught.value)
    command = str(caught.value).rsplit("isthmus ")[-1].split()
    assert run_here(*command).returncode == 0
    Bundle.open(own)


@pytest.mark.parametrize(("damage", "text"), WEIGHT_DAMAGES)
def test_damaged_weights_of_a_bundle_are_told_when_they_are_read(
    own: Path, mood: Path, damage: Callable[[Path], Any], text: str
) -> None:
    add_task(own, mood)
    damage(own / TASKS / "mood")
    with pytest.raises(BundleDamagedError, match=text):
        CloudModel(Bundle.open(own))  # opens: an edge does not need the weights


def test_a_folder_must_have_its_tasks_name_and_hidden_ones_are_not_looked_at(own: Path, mood: Path) -> None:
    add_task(own, mood)
    shutil.copytree(own / TASKS / "mood", own / TASKS / ".mood.half")
    (own / TASKS / ".mood.half" / TASK).unlink()
    assert names(Bundle.open(own)) == ["classification", "mood"]
    (own / TASKS / "mood").rename(own / TASKS / "temper")
    with pytest.raises(BundleDamagedError, match="temper holds the task 'mood'"):
        Bundle.open(own)


def test_a_stray_file_among_the_tasks_is_named(own: Path, mood: Path) -> None:
    add_task(own, mood)
    (own / TASKS / "notes").write_text("hello")
    with pytest.raises(BundleDamagedError, match="tasks/notes"):
        Bundle.open(own)


def test_what_cannot_be_written_leaves_nothing(
    own: Path, mood: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = hashes(own)
    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(RequestError, match="No space left"):
        add_task(own, mood)
    assert hashes(own) == before
    assert list((own / TASKS).iterdir()) == []


def test_inspect_shows_an_added_task(own: Path, mood: Path) -> None:
    add_task(own, mood)
    told = json.loads(run_here("inspect", own, "--json").stdout)
    assert told["task.mood.labels"] == ["calm", "busy", "dim", "bright"]
    assert told[f"file.tasks/mood/{WEIGHTS}"]["bytes"] == (mood / WEIGHTS).stat().st_size
    flip(own / TASKS / "mood" / WEIGHTS)
    assert WEIGHTS in refused("inspect", own, status=2)


# The model


def test_an_added_task_runs_for_those_who_ask_and_leaves_the_others_as_they_were(
    own: Path, mood: Path, packed: list[bytes]
) -> None:
    import numpy as np
    import torch

    from cloud.networks.networks import build_network, split
    from cloud.networks.sizes import CodecConfig
    from cloud.networks.transforms import FeatureReconstruction

    plain = CloudModel(Bundle.open(own))
    add_task(own, mood)
    bundle = Bundle.open(own)
    model = CloudModel(bundle)
    config = CodecConfig.model_validate(bundle.manifest.codec)
    z = np.random.default_rng(0).integers(-3, 4, (3, config.latent_channels, *config.grid)).astype(np.int32)
    old, new = TaskQuery(name="classification"), TaskQuery(name="mood", top_k=4)
    ran: list[int] = []
    model._added["mood"].register_forward_hook(lambda _, given, __: ran.append(len(given[0])))
    assert model.answer(z, [[old]] * 3) == plain.answer(z, [[old]] * 3)
    assert ran == []
    answers = model.answer(z, [[old], [new, old], [new]])
    assert ran == [2]
    assert [set(answer) for answer in answers] == [{"classification"}, {"mood", "classification"}, {"mood"}]
    # The same, by hand, from the folder's tensors.
    from safetensors.torch import load_file

    tensors = load_file(own / TASKS / "mood" / WEIGHTS)
    task = bundle.task("mood")
    reconstruction = FeatureReconstruction(task.feature[0], config)
    reconstruction.load_state_dict(
        {k.removeprefix("reconstruction."): t for k, t in tensors.items() if k.startswith("reconstruction.")}
    )
    _, tail = split(build_network(task.network, task.network_config), task.split)
    tail.load_state_dict({k.removeprefix("tail."): t for k, t in tensors.items() if k.startswith("tail.")})
    with torch.no_grad():
        y_hat = reconstruction(torch.from_numpy(z[1:]).float(), task.feature[1:])
        scores = torch.softmax(tail.eval()(y_hat), 1)
    for answer, row in zip(answers[1:], scores, strict=True):
        assert [best.score for best in answer["mood"].top] == pytest.approx(
            row.sort(descending=True)[0].tolist(), abs=1e-6
        )


# Under a running server


@dataclass
class Running:
    pipeline: Pipeline
    watch: Keeper
    http: httpx.AsyncClient


async def _never() -> None:
    raise AssertionError("a bundle that is named has nothing to wait for")


@pytest.fixture
async def running(own: Path) -> AsyncIterator[Running]:
    settings = PipelineSettings(batch_wait_ms=0, deadline_ms=20_000)
    shelf = Shelf(load, 1 << 30)
    keeper = Keeper(shelf, Bundle.open_without_added(own))
    await keeper.begin(_never)
    pipeline = Pipeline(shelf, settings)
    app = build_app(lambda: pipeline, HttpSettings(), lambda: keeper, gate=Gate(given=TOKEN))
    transport, headers = httpx.ASGITransport(app), {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://cloud", headers=headers) as http:
        yield Running(pipeline, keeper, http)
    await pipeline.close()


async def test_a_task_comes_and_goes(running: Running, own: Path, mood: Path, packed: list[bytes]) -> None:
    pipeline = running.pipeline
    before = await pipeline.analyze(packed[0], ALL, "a")
    with pytest.raises(UnknownTaskError):
        await pipeline.analyze(packed[0], MOOD, "b")
    add_task(own, mood)
    told = await running.watch.look()
    assert [task.name for task in told.bundle.tasks] == ["classification", "mood"]
    assert told.refused == {}
    after = await pipeline.analyze(packed[0], ALL, "c")
    assert list(after.results) == ["classification", "mood"]
    assert after.results["classification"] == before.results["classification"]
    assert after.fingerprint == before.fingerprint
    # A repeat of an earlier request is the same request, though "every task" means more by now.
    assert await pipeline.analyze(packed[0], ALL, "a") == before
    remove_task(own, "mood")
    await running.watch.look()
    assert pipeline.infos()[0] == Bundle.open(own).info()
    with pytest.raises(UnknownTaskError):
        await pipeline.analyze(packed[0], MOOD, "d")
    assert (await pipeline.analyze(packed[0], ALL, "e")).results == before.results


async def test_a_look_at_nothing_new_loads_nothing(running: Running, own: Path, mood: Path) -> None:
    add_task(own, mood)
    await running.watch.look()
    async with running.pipeline.bundles.use_default() as served:
        pass
    for _ in range(3):
        await running.watch.look()
    async with running.pipeline.bundles.use_default() as after:
        assert after is served


async def test_a_task_of_the_same_name_takes_the_others_place(
    running: Running, own: Path, mood: Path, packed: list[bytes], tmp_path: Path
) -> None:
    add_task(own, mood)
    await running.watch.look()
    first = await running.pipeline.analyze(packed[0], MOOD, "a")
    remove_task(own, "mood")
    add_task(own, write_task(own, tmp_path / "other", seed=1))
    await running.watch.look()
    assert (await running.pipeline.analyze(packed[0], MOOD, "b")).results != first.results


async def test_a_request_that_runs_when_its_task_is_taken_out_is_answered(
    running: Running, own: Path, mood: Path, packed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_task(own, mood)
    await running.watch.look()
    gate, entered = threading.Event(), threading.Event()
    answer = CloudModel.answer

    def gated(self: CloudModel, *arguments: Any) -> Any:
        entered.set()
        assert gate.wait(30)
        return answer(self, *arguments)

    monkeypatch.setattr(CloudModel, "answer", gated)
    first = asyncio.create_task(running.pipeline.analyze(packed[0], MOOD, "works"))
    await asyncio.to_thread(entered.wait, 30)
    second = asyncio.create_task(running.pipeline.analyze(packed[1], MOOD, "waits"))
    await until(lambda: running.pipeline.waiting == 1)
    remove_task(own, "mood")
    await running.watch.look()
    third = asyncio.create_task(running.pipeline.analyze(packed[2], ALL, "comes-after"))
    gate.set()
    assert [list((await one).results) for one in (first, second)] == [["mood"], ["mood"]]
    assert list((await third).results) == ["classification"]


@pytest.mark.parametrize(("damage", "text"), [*DAMAGES[:2], *WEIGHT_DAMAGES[1:3]])
async def test_a_folder_that_cannot_be_loaded_is_logged_once(
    running: Running,
    own: Path,
    mood: Path,
    tmp_path: Path,
    packed: list[bytes],
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], Any],
    text: str,
) -> None:
    add_task(own, mood)
    await running.watch.look()
    damage(shutil.copytree(write_task(own, tmp_path / "bad", "bad"), own / TASKS / "bad"))
    add_task_by_hand = shutil.copytree(write_task(own, tmp_path / "good", "good"), own / TASKS / "good")
    for _ in range(3):
        told = await running.watch.look()
    assert list(told.refused) == ["bad"]
    lines = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(lines) == 1
    assert "bad" in lines[0]
    analysis = await running.pipeline.analyze(packed[0], ALL, "a")
    assert list(analysis.results) == ["classification", "good", "mood"]
    # It is loaded as soon as it is mended.
    shutil.rmtree(own / TASKS / "bad")
    add_task(own, tmp_path / "bad")
    assert (await running.watch.look()).refused == {}
    assert add_task_by_hand.is_dir()
    assert len(running.pipeline.infos()[0].tasks) == 4


async def test_a_task_that_fails_for_a_reason_that_passes_is_tried_again(
    running: Running, own: Path, mood: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_task(own, mood)
    with monkeypatch.context() as patched:
        patched.setattr(CloudModel, "with_added", lambda self, added: 1 / 0)
        assert "ZeroDivisionError" in (await running.watch.look()).refused["mood"]
    assert (await running.watch.look()).refused == {}
    assert len(running.pipeline.infos()[0].tasks) == 2


async def test_the_admin_call_looks_again_at_what_was_refused(
    running: Running, own: Path, mood: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_task(own, mood)
    with monkeypatch.context() as patched:  # the disk gave other bytes than it holds
        patched.setattr("shared.bundle.read_checked", lambda *a: _raise(BundleDamagedError("unreadable")))
        assert "unreadable" in (await running.watch.look()).refused["mood"]
    assert list((await running.watch.look()).refused) == ["mood"]
    answer = await running.http.post("/admin/reload")
    assert answer.json()["refused"] == {}
    assert len(running.pipeline.infos()[0].tasks) == 2


def _raise(error: Exception) -> None:
    raise error


async def test_a_served_task_that_is_damaged_on_the_disk_is_served_on(
    running: Running, own: Path, mood: Path, packed: list[bytes]
) -> None:
    add_task(own, mood)
    await running.watch.look()
    first = await running.pipeline.analyze(packed[0], MOOD, "a")
    flip(own / TASKS / "mood" / TASK)
    assert list((await running.watch.look()).refused) == ["mood"]
    assert (await running.pipeline.analyze(packed[0], MOOD, "b")).results == first.results
    # Nor does a disk that is away for a while take anything out.
    own.rename(own.with_name("away"))
    assert "no bundle" in (await running.watch.look()).refused[TASKS]
    assert (await running.pipeline.analyze(packed[0], MOOD, "c")).results == first.results
    own.with_name("away").rename(own)
    assert list((await running.watch.look()).refused) == ["mood"]


async def test_a_look_that_is_given_up_hides_nothing_from_the_next(
    running: Running, own: Path, mood: Path
) -> None:
    add_task(own, mood)
    given_up = asyncio.create_task(running.watch.look())
    await asyncio.sleep(0)  # it has begun, in its thread
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    assert len((await running.watch.look()).bundle.tasks) == 2
    assert len(running.pipeline.infos()[0].tasks) == 2


async def test_the_watch_outlives_an_error_that_nobody_thought_of(
    running: Running, own: Path, mood: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ticks = asyncio.Queue[None]()
    ran = asyncio.create_task(running.watch.run(ticks.get))
    waiting = ticks._getters  # type: ignore[attr-defined]

    async def tick() -> None:
        ticks.put_nowait(None)
        await until(lambda: ticks.empty() and bool(waiting))

    with monkeypatch.context() as patched:
        patched.setattr("cloud.task_watch.task_folders", lambda _: 1 / 0)
        await tick()
    assert "ZeroDivisionError" in caplog.text
    add_task(own, mood)
    await tick()
    assert len(running.pipeline.infos()[0].tasks) == 2
    ran.cancel()


async def test_tasks_that_cannot_be_listed_end_nothing(
    running: Running, own: Path, mood: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(own / TASKS, ignore_errors=True)
    (own / TASKS).touch()
    for _ in range(3):
        await running.watch.look()
    assert "cannot read" in running.watch.refused[TASKS]
    assert caplog.text.count("cannot read") == 1
    with monkeypatch.context() as patched:
        patched.setattr("cloud.task_watch.task_folders", lambda _: 1 / 0)
        await running.watch.look()
    assert "ZeroDivisionError" in running.watch.refused[TASKS]
    (own / TASKS).unlink()
    add_task(own, mood)
    await running.watch.look()
    assert running.watch.refused == {}
    assert len(running.pipeline.infos()[0].tasks) == 2


async def test_the_admin_call_needs_its_token_and_takes_up_what_is_there(
    running: Running, own: Path, mood: Path, tmp_path: Path
) -> None:
    add_task(own, mood)
    shutil.copytree(mood, own / TASKS / "temper")
    for wrong in ("", "Bearer nope", f"Basic {TOKEN}"):
        answer = await running.http.post("/admin/reload", headers={"Authorization": wrong})
        problem(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
    assert len(running.pipeline.infos()[0].tasks) == 1
    answer = await running.http.post("/admin/reload")
    assert answer.status_code == 200, answer.text
    assert [task["name"] for task in answer.json()["bundle"]["tasks"]] == ["classification", "mood"]
    assert "holds the task 'mood'" in answer.json()["refused"]["temper"]
    described = (await running.http.get("/v1/bundles")).json()
    assert described[0]["tasks"] == answer.json()["bundle"]["tasks"]


def test_a_token_that_is_none(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("short\n")
    serve = ("cloud", "serve", "--bundle", tiny_bundle, "--grpc-port", "0", "--http-port", "0")
    assert "16 or more" in refused(*serve, "--token-file", tmp_path / "token", status=2)
    assert "cannot read" in refused(*serve, "--token-file", tmp_path / "none", status=2)
    assert TOKEN not in repr(AuthSettings(token=TOKEN))


@dataclass
class Client:
    """One of those that keep sending while the tasks change: which picture it sent, and what came back, in order."""

    ask: Callable[[bytes, str], Awaitable[Analysis]]
    answers: list[tuple[int, Analysis]] = field(default_factory=list)
    stopped: bool = False

    async def run(self, packed: list[bytes], name: str) -> None:
        """Raises whatever a request is refused with."""
        while not self.stopped:
            number = len(self.answers)
            which = number % len(packed)
            self.answers.append((which, await self.ask(packed[which], f"{name}.{number}")))

    @property
    def tasks(self) -> list[str]:
        """Of the last answer."""
        return list(self.answers[-1][1].results) if self.answers else []


@asynccontextmanager
async def clients(grpc_address: str, http_address: str) -> AsyncIterator[list[Client]]:
    """gRPC calls, a gRPC stream, and HTTP from threads of their own."""
    async with AsyncExitStack() as stack:
        stub = AnalyzerStub(await stack.enter_async_context(grpc.aio.insecure_channel(grpc_address)))
        stream = stub.AnalyzeStream()

        async def call(data: bytes, request_id: str) -> Analysis:
            return convert.analysis_of(
                await stub.Analyze(pb.AnalyzeRequest(bitstream=data, request_id=request_id), timeout=60)
            )

        async def stream_call(data: bytes, request_id: str) -> Analysis:
            await stream.write(pb.AnalyzeRequest(bitstream=data, request_id=request_id))
            answer = await stream.read()
            assert isinstance(answer, pb.AnalyzeStreamResponse)
            assert answer.WhichOneof("outcome") == "answer", answer
            return convert.analysis_of(answer.answer)

        async def post(data: bytes, request_id: str) -> Analysis:
            headers = STREAM | {"X-Request-Id": request_id}
            answer = await asyncio.to_thread(
                httpx.post, f"http://{http_address}/analyze", content=data, headers=headers, timeout=60
            )
            assert answer.status_code == 200, answer.text
            return Analysis.model_validate(answer.json())

        yield [Client(ask) for ask in (call, call, stream_call, post, post)]
        await stream.done_writing()


async def test_a_running_server_takes_tasks_up_and_lets_them_go_and_loses_no_request(
    own: Path, mood: Path, packed: list[bytes]
) -> None:
    # One picture a batch: then the same picture has the same answer to the last bit, whoever else is asking.
    serve = ("cloud", "serve", "--bundle", own, "--grpc-port", "0", "--http-port", "0", "--batch-max", "1")
    damaged = shutil.copytree(write_task(own, own.parent / "bad", "bad"), own / TASKS / "bad")
    flip(damaged / TASK)
    with server(*serve) as cloud:
        ports = await asyncio.to_thread(cloud.event, "listening")
        await asyncio.to_thread(cloud.event, "ready")  # a damaged task does not keep it from starting
        shutil.rmtree(damaged)
        async with (
            grpc.aio.insecure_channel(ports["grpc"]) as channel,
            clients(ports["grpc"], ports["http"]) as asking,
        ):
            stub = AnalyzerStub(channel)
            runs = [asyncio.create_task(one.run(packed, f"c{i}")) for i, one in enumerate(asking)]

            async def all_get(tasks: list[str]) -> None:
                """Until every client's last answer has these tasks; a client that fails ends the wait."""
                async with asyncio.timeout(120):
                    while any(one.tasks != tasks for one in asking) and not any(run.done() for run in runs):
                        await asyncio.wait(runs, timeout=0.01)

            async def described() -> list[str]:
                [bundle] = convert.bundles_of(await stub.Describe(pb.DescribeRequest()))
                return [task.name for task in bundle.tasks]

            await all_get(["classification"])
            assert await described() == ["classification"]
            done = await asyncio.to_thread(run_here, "task", "add", own, mood)
            assert done.returncode == 0, done.stderr
            await all_get(["classification", "mood"])
            assert await described() == ["classification", "mood"]
            done = await asyncio.to_thread(run_here, "task", "remove", own, "mood")
            assert done.returncode == 0, done.stderr
            await all_get(["classification"])
            for one in asking:
                one.stopped = True
            await asyncio.gather(*runs)
        assert await asyncio.to_thread(cloud.stop) == 0
    results: dict[tuple[int, str], TaskResult] = {}
    for one in asking:
        seen = [tuple(answer.results) for _, answer in one.answers]
        changes = [tasks for tasks, last in zip(seen, [None, *seen], strict=False) if tasks != last]
        assert changes == [("classification",), ("classification", "mood"), ("classification",)]
        for which, answer in one.answers:
            for task, result in answer.results.items():
                assert results.setdefault((which, task), result) == result
    assert len(results) == 2 * len(packed)


async def test_a_task_answers_bytes_that_were_archived_before_it(
    own: Path, mood: Path, packed: list[bytes], tmp_path: Path
) -> None:
    archive = Archive(tmp_path / "kept", 8 << 20, 86_400.0)
    for i, data in enumerate(packed):
        assert archive.append("door", datetime.now(UTC), f"n{i}", data)
    archive.close()
    out = tmp_path / "out.jsonl"
    command = ["cloud", "replay", "--archive", tmp_path / "kept", "--bundle", own, "--out", out]
    command += ["--task", "mood", "--from", "2000-01-01", "--to", "2999-01-01"]
    assert "unknown task 'mood'" in await asyncio.to_thread(lambda: refused(*command, status=2))
    add_task(own, mood)
    (own / "tasks" / "another").mkdir()  # damaged, and nothing to this question
    done = await asyncio.to_thread(run_here, *command)
    assert done.returncode == 0, done.stderr
    (own / "tasks" / "another").rmdir()
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["request_id"] for line in lines] == [f"n{i}" for i in range(8)]
    settings = PipelineSettings(deadline_ms=20_000)
    bundle = Bundle.open(own)
    loaded = await asyncio.to_thread(load, bundle)
    pipeline = Pipeline(OneBundle(bundle, loaded.model, loaded.encoder), settings)
    for i, line in enumerate(lines):
        [result] = (await pipeline.analyze(packed[i], MOOD, f"n{i}")).results.values()
        assert [best["label"] for best in line["result"]["top"]] == [best.label for best in result.top]
        assert [best["score"] for best in line["result"]["top"]] == pytest.approx(
            [best.score for best in result.top], abs=1e-5
        )
    await pipeline.close()
