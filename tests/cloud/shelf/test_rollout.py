"""A bundle rolled forward to some cameras, compared with the one before, and taken back when it does worse."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from cloud.faces.http_rollout import add_rollout
from cloud.pipeline import Pipeline
from cloud.settings import PipelineSettings
from cloud.shelf.keeper import Keeper
from cloud.shelf.plan import PlanFile, parse_to
from cloud.shelf.rollout import Rollout
from cloud.shelf.shelf import Shelf
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.errors import RequestError, UnknownBundleError, UnknownTaskError
from shared.process.auth import Gate
from shared.process.http import create_app
from shared.process.http_access import access_guard
from shared.process.tokens import TokenReader
from shared.types import TaskQuery, Wanted
from support.locked import token_for
from support.service import png, problem
from support.shelves import ShelfLoads, variants

NAMES = [f"camera-{number:02}" for number in range(20)]
OLD, NEW = "0a" * 32, "1b" * 32


def rolled(to: str, file: Path | None = None, errors_max: float = 0.05, requests_min: int = 4) -> Rollout:
    rollout = Rollout(PlanFile(file))
    rollout.begin(NEW, OLD, to, errors_max, requests_min)
    return rollout


def chosen(rollout: Rollout) -> set[str]:
    return {name for name in NAMES if rollout.wanted(name, OLD) == NEW}


def test_a_share_grows_by_the_cameras_that_it_had() -> None:
    shares = [chosen(rolled(f"{percent}%")) for percent in (5, 10, 30, 70, 100)]
    assert shares[4] == set(NAMES) == chosen(rolled("all"))
    for smaller, larger in pairwise(shares):
        assert smaller <= larger
    assert shares == [chosen(rolled(f"{percent}%")) for percent in (5, 10, 30, 70, 100)]
    many = [f"c{number}" for number in range(5000)]
    plan = rolled("10%").plan
    assert plan is not None
    assert 400 < sum(map(plan.chooses, many)) < 600


def test_patterns() -> None:
    assert chosen(rolled("camera-0?,camera-19")) == {*NAMES[:10], NAMES[19]}
    assert not rolled("all").plan.chooses("")  # type: ignore[union-attr] # nobody in particular
    for wrong in (
        "",
        " , ",
        "0%",
        "101%",
        "x%",
        "-5%",
        "nan%",
        "a b",
        "[a]",
        "x" * 65,
        ",".join(["a"] * 101),
    ):
        with pytest.raises(RequestError):
            parse_to(wrong)


def test_another_rollout_begins_while_one_is_judged_or_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = PlanFile(tmp_path / "plan.json")
    rollout, other = Rollout(plans), rolled("all").plan
    rollout.begin(NEW, OLD, "all", errors_max=0, requests_min=1)
    assert other is not None
    other = plans.change(lambda _: other.model_copy(update={"bundle": OLD, "base": NEW}))
    rollout.note("camera-00", bytes.fromhex(NEW)[:4], 30, 2.0, failed=True)
    assert rollout.plan is not None
    assert rollout.plan.back
    assert plans.plan == PlanFile(tmp_path / "plan.json").plan == other

    def meanwhile() -> float:
        rollout.take(other)
        return 0.0

    monkeypatch.setattr("cloud.shelf.rollout.time.time", meanwhile)
    assert [one.bundle for one in rollout.state().figures] == [OLD[:8], NEW[:8]]


def test_what_a_camera_should_run() -> None:
    rollout = rolled("camera-00")
    assert rollout.wanted("camera-00", OLD) == NEW
    assert rollout.wanted("camera-00", NEW) == ""
    assert rollout.wanted("camera-01", OLD) == ""
    assert rollout.wanted("camera-01", "2c" * 32) == ""  # of a third generation, which nobody moves
    assert rollout.wanted("camera-01", NEW) == OLD
    rollout.back()
    assert rollout.wanted("camera-00", NEW) == OLD
    assert rollout.wanted("camera-00", OLD) == ""
    with pytest.raises(RequestError, match="nothing is being rolled out"):
        rollout.back()
    assert Rollout().wanted("camera-00", OLD) == ""


def test_what_a_camera_says_is_one_line() -> None:
    rollout = rolled("all")
    rollout.wanted("camera-00", OLD, "a\nb\x1b[2J" + "c" * 1000)
    [trouble] = rollout.state().troubles.values()
    assert trouble == "a b [2J" + "c" * 493


def test_the_plan_outlives_the_process(tmp_path: Path) -> None:
    file = tmp_path / "rollout.json"
    rolled("10%", file)
    again = Rollout(PlanFile(file))
    assert chosen(again) == chosen(rolled("10%"))
    again.back("for a reason")
    state = Rollout(PlanFile(file)).state()
    assert (state.plan and state.plan.reason, state.kept) == ("for a reason", True)
    file.write_text('{"bundle": 3}')
    with pytest.raises(RequestError, match="holds no rollout"):
        PlanFile(file)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rollout = rolled("all", tmp_path / "rollout.json")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cloud.shelf.plan.write_atomically", full)
    with pytest.raises(RequestError, match="No space left"):
        rollout.back()
    assert rollout.wanted("camera-00", OLD) == NEW
    for _ in range(4):  # what is automatic happens all the same
        rollout.note("camera-00", bytes.fromhex(NEW)[:4], 30, 1.0, failed=True)
    assert rollout.wanted("camera-00", NEW) == OLD


def test_it_returns_by_the_rise_of_errors_alone() -> None:
    old, new = bytes.fromhex(OLD)[:4], bytes.fromhex(NEW)[:4]
    rollout = rolled("camera-00", errors_max=0.1, requests_min=10)
    for number in range(20):  # one in five fails with either
        rollout.note("camera-01", old, 40, 2.0, failed=number % 5 == 0)
        rollout.note("camera-00", new, 30, 1.0, failed=number % 5 == 0)
        rollout.note("stranger", new, 30, 1.0, failed=True)  # was not chosen
    assert not rollout.plan.back  # type: ignore[union-attr]
    before, after = rollout.state().figures
    assert (before.bytes_mean, after.bytes_mean, before.p50_ms, after.p95_ms) == (40, 30, 2.0, 1.0)
    assert (before.requests, after.requests, after.errors) == (20, 20, 4)
    for _ in range(3):
        rollout.note("camera-00", new, 30, 1.0, failed=True)
    assert rollout.plan.back  # type: ignore[union-attr]
    assert "7 of its 23 requests failed, 4 of 20 with the bundle before" in rollout.plan.reason  # type: ignore[union-attr]


# Twenty cameras, and a server


@dataclass
class Camera:
    name: str
    running: str
    ran: list[str] = field(default_factory=list)


@dataclass
class Field:
    """A server with an old and a new bundle, and twenty cameras that run the old one."""

    keeper: Keeper
    pipeline: Pipeline
    loads: ShelfLoads
    packed: dict[str, bytes]
    old: str
    new: str
    cameras: list[Camera]
    asked: int = 0

    async def turn(self) -> int:
        """Each camera asks what to run, runs it, and sends an image; how many were not answered."""
        failed = 0
        for camera in self.cameras:
            camera.running = self.pipeline.wanted(camera.name, camera.running, "") or camera.running
            camera.ran.append(camera.running)
            self.asked += 1
            try:
                data, name = self.packed[camera.running], f"n{self.asked}"
                answer = await self.pipeline.analyze(data, Wanted(), name, camera=camera.name)
                assert self.keeper.shelf.bundle(camera.running).manifest.name == answer.bundle
            except ArithmeticError:
                failed += 1
        return failed

    def on_new(self) -> list[str]:
        return [camera.name for camera in self.cameras if camera.running == self.new]


@pytest.fixture
async def twenty(tiny_bundle: Path, tmp_path: Path) -> AsyncIterator[Field]:
    loads, rollout = ShelfLoads(), Rollout(PlanFile(tmp_path / "rollout.json"))
    shelf = Shelf(loads, 1 << 30)
    bundles = [Bundle.open(folder) for folder in variants(tiny_bundle, tmp_path / "bundles", 2)]
    for bundle in bundles:
        await shelf.put(bundle.path.name, bundle)
    pipeline = Pipeline(shelf, PipelineSettings(batch_wait_ms=0), observer=rollout, assigner=rollout)
    old, new = (bundle.manifest.fingerprint for bundle in bundles)
    packed = {bundle.manifest.fingerprint: Encoder(bundle).encode(png(0)).data for bundle in bundles}
    keeper = Keeper(shelf, tmp_path / "bundles", rollout=rollout)
    yield Field(keeper, pipeline, loads, packed, old, new, [Camera(name, old) for name in NAMES])
    await pipeline.close()


async def test_ten_percent_of_twenty_cameras_and_a_bad_bundle(twenty: Field) -> None:
    assert await twenty.turn() == 0
    await twenty.keeper.roll_out("b1", "10%", None, errors_max=0.05, requests_min=10)
    first = twenty.keeper.rollout.plan
    assert first is not None
    wanted = [name for name in NAMES if first.chooses(name)]
    assert 0 < len(wanted) <= 5
    assert await twenty.turn() == 0
    assert twenty.on_new() == wanted
    twenty.loads.models[1].fail = ZeroDivisionError("a bad bundle")
    failed = 0
    for _ in range(40 // len(wanted)):
        failed += await twenty.turn()
    assert twenty.on_new() == []
    plan = twenty.keeper.rollout.plan
    assert plan is not None
    assert plan.back
    assert "requests failed, 0 of" in plan.reason
    assert 1 <= failed <= 10 + len(wanted)
    # Those that were not chosen never ran it, and all are answered by the bundle before.
    assert {c.name for c in twenty.cameras if twenty.new in c.ran} == set(wanted)
    assert await twenty.turn() == 0
    before, after = twenty.keeper.rollout.state().figures
    assert (before.cameras, after.cameras, before.errors) == (20, 0, 0)
    assert after.errors == failed


async def test_forward_to_all_and_back(twenty: Field) -> None:
    await twenty.keeper.roll_out("b1", "camera-00", None, 0.05, 10)
    await twenty.turn()
    assert twenty.on_new() == ["camera-00"]
    await twenty.keeper.roll_out("b1", "all", None, 0.05, 10)
    await twenty.turn()
    assert len(twenty.on_new()) == 20
    before, after = twenty.keeper.rollout.state().figures
    assert (before.requests, after.requests, after.cameras) == (
        19,
        21,
        1,
    )  # the others said so before they took it
    agreement = twenty.keeper.rollout.state().agreement
    assert agreement
    assert {(one.switches, one.pairs) for one in agreement} == {
        (19, 0)
    }  # either side of each camera's switch
    twenty.keeper.rollout.back()
    await twenty.turn()
    assert twenty.on_new() == []


async def test_what_says_nothing_about_a_bundle_is_not_counted(twenty: Field) -> None:
    await twenty.keeper.roll_out(twenty.new[:8], "all", "b0", 0.0, 1)
    with pytest.raises(UnknownTaskError):
        await twenty.pipeline.analyze(
            twenty.packed[twenty.new], Wanted(tasks=(TaskQuery(name="nope"),)), "a", camera="camera-00"
        )
    assert [figures.requests for figures in twenty.keeper.rollout.state().figures] == [0, 0]


async def test_rollouts_that_make_no_sense(twenty: Field) -> None:
    with pytest.raises(UnknownBundleError):
        await twenty.keeper.roll_out("nobody", "all", None, 0.05, 10)
    with pytest.raises(RequestError, match="is the one that cameras would go back to"):
        await twenty.keeper.roll_out("b1", "all", "b1", 0.05, 10)
    with pytest.raises(RequestError, match="no share of cameras"):
        await twenty.keeper.roll_out("b1", "200%", None, 0.05, 10)
    assert twenty.keeper.rollout.plan is None
    twenty.keeper.shelf.remove("b0")
    with pytest.raises(RequestError, match="0 other bundles are served"):
        await twenty.keeper.roll_out("b1", "all", None, 0.05, 10)


async def test_a_token_of_some_cameras_sees_theirs_and_changes_nothing(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.json"
    bound = token_for(tokens, "acme", "admin", cameras=("acme-*",))
    whole = token_for(tokens, "ops", "admin")
    rollout = rolled("acme-1,other-1")
    for name in ("acme-1", "other-1"):
        rollout.wanted(name, OLD, f"{name} has no space")
    keeper = Keeper(Shelf(ShelfLoads(), 1 << 30), tmp_path, rollout=rollout)
    app = create_app("cloud", "", 4, 1 << 20, access_guard(Gate(TokenReader(tokens))))
    add_rollout(app, lambda: keeper)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://cloud") as http:
        http.headers["Authorization"] = f"Bearer {bound}"
        seen = (await http.get("/admin/rollout")).json()
        assert seen["troubles"] == {"acme-1": "acme-1 has no space"}
        assert seen["plan"]["cameras"] == ["acme-1"]
        problem(await http.post("/admin/rollout", params={"bundle": "new", "to": "acme-1"}), 403)
        problem(await http.post("/admin/rollout/back"), 403)
        assert rollout.plan is not None
        assert not rollout.plan.back
        http.headers["Authorization"] = f"Bearer {whole}"
        assert len((await http.get("/admin/rollout")).json()["troubles"]) == 2
        assert (await http.post("/admin/rollout/back")).status_code == 200
