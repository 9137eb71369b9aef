"""Many bundles under a bound on their memory: loaded when they are asked for, unloaded when nobody needs them."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cloud.batch_settings import BatchSettings, pace_of, unmatched
from cloud.engine.batcher import Pace
from cloud.engine.load import Loaded, load
from cloud.pipeline import Pipeline
from cloud.settings import PipelineSettings
from cloud.shelf.memory import bytes_held
from cloud.shelf.shelf import Shelf
from cloud.shelf.stock import Stock
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.errors import (
    BundleDamagedError,
    BundleMismatchError,
    DeadlineError,
    NotReadyError,
    UnknownBundleError,
)
from shared.types import Analysis, TaskQuery, Wanted
from support.service import png, until
from support.shelves import NUMBERS, ShelfLoads, variant, variants

ALL = Wanted()
SETTINGS = PipelineSettings(batch_wait_ms=0, deadline_ms=20_000)


@dataclass
class Kept:
    """A shelf and its pipeline. bundles: those on the shelf, the oldest first. size: of one, loaded."""

    shelf: Shelf
    pipeline: Pipeline
    loads: ShelfLoads
    bundles: list[Bundle]
    packed: list[bytes]
    size: int

    async def ask(self, which: int, name: str, deadline_s: float | None = None) -> Analysis:
        return await self.pipeline.analyze(self.packed[which], ALL, name, deadline_s)

    @property
    def loaded(self) -> list[str]:
        return [str(state.name) for state in self.shelf.states() if state.state == "loaded"]


@pytest.fixture(scope="module")
def ten(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    folders = variants(tiny_bundle, tmp_path_factory.mktemp("shelf") / "bundles", 10)
    return [Bundle.open_without_added(folder) for folder in folders]


@pytest.fixture(scope="module")
def ten_packed(ten: list[Bundle]) -> list[bytes]:
    return [Encoder(bundle).encode(png(0)).data for bundle in ten]


async def filled(shelf: Shelf, bundles: list[Bundle]) -> None:
    for bundle in bundles:
        await shelf.put(bundle.path.name, bundle)


@pytest.fixture
async def kept(ten: list[Bundle], ten_packed: list[bytes]) -> AsyncIterator[Kept]:
    """Ten bundles, and room for four."""
    loads = ShelfLoads()
    size = Stock(loads(ten[0])).bytes
    loads.models.clear()
    shelf = Shelf(loads, 4 * size + size // 2, waiting_max=4)
    await filled(shelf, ten)
    pipeline = Pipeline(shelf, SETTINGS)
    yield Kept(shelf, pipeline, loads, ten, ten_packed, size)
    for model in loads.models:
        model.gate.set()
    await pipeline.close()


def test_memory_is_counted_once(ten: list[Bundle]) -> None:
    numbers = np.zeros(1000, np.uint8)
    assert bytes_held({"a": numbers, "b": [numbers[:10], numbers], "c": len}) == 1000
    loads = ShelfLoads()
    whole = Stock(loads(ten[0])).bytes
    loads.models[0].numbers = np.zeros(0, np.uint8)
    assert Stock(Loaded(loads.models[0], Encoder(ten[0]))).bytes == whole - NUMBERS  # type: ignore[arg-type]


async def test_ten_real_bundles_under_a_budget_of_four(ten: list[Bundle], ten_packed: list[bytes]) -> None:
    """With torch: each answers its own bytes, and no more than four are in memory."""
    size = Stock(load(ten[0])).bytes
    shelf = Shelf(load, 4 * size + size // 2)
    await filled(shelf, ten)
    pipeline = Pipeline(shelf, SETTINGS)
    answers = []
    for which in (*range(10), 3, 9):
        answers.append(await pipeline.analyze(ten_packed[which], ALL, f"n{len(answers)}"))
        assert answers[-1].bundle == ten[which].manifest.name
        assert answers[-1].results == answers[0].results  # the networks are the same
        assert shelf.bytes <= 4 * size + size // 2
    assert sum(state.state == "loaded" for state in shelf.states()) == 4
    await pipeline.close()


async def test_the_least_recently_used_make_room(kept: Kept) -> None:
    # All were loaded to be checked; of those that nobody has used, the last that came were unloaded.
    assert kept.loads.names == [f"b{i}" for i in range(10)]
    assert kept.loaded == ["b0", "b1", "b2", "b3"]
    kept.loads.models.clear()
    for turn, which in enumerate((2, 0, 3, 1, 2, 7, 8)):
        await kept.ask(which, f"a{turn}")
        assert kept.shelf.bytes <= 4.5 * kept.size
    assert kept.loads.names == ["b7", "b8"]
    assert kept.loaded == ["b1", "b2", "b7", "b8"]
    counts = {state.name: (state.requests, state.loads) for state in kept.shelf.states()}
    assert (counts["b2"], counts["b8"], counts["b9"]) == ((2, 1), (1, 2), (0, 1))


async def test_what_is_unloaded_leaves_memory(kept: Kept) -> None:
    gone = weakref.ref(kept.loads.models[0])
    kept.loads.models.clear()
    gc.disable()  # by its last reference, not when a collector comes by
    try:
        kept.shelf.unload(kept.bundles[0].manifest.fingerprint)
        await until(lambda: gone() is None)
    finally:
        gc.enable()


async def test_all_at_once(kept: Kept) -> None:
    """Forty requests to ten bundles: all are answered by their own, and never more than four are in memory."""
    seen: list[int] = []

    async def one(number: int) -> Analysis:
        answer = await kept.ask(number % 10, f"n{number}")
        seen.append(kept.shelf.bytes)
        return answer

    answers = await asyncio.gather(*(one(number) for number in range(40)))
    assert [answer.bundle for answer in answers] == [f"b{number % 10}" for number in range(40)]
    assert max(seen) <= 4.5 * kept.size
    assert {state.running for state in kept.shelf.states()} == {0}


async def test_a_bundle_in_use_is_unloaded_once_its_requests_are_done(kept: Kept) -> None:
    for which in range(4):
        kept.loads.models[which].gate.clear()
    running = [asyncio.create_task(kept.ask(which, f"n{which}")) for which in range(4)]
    await asyncio.to_thread(kept.loads.models[0].entered.wait, 30)
    fifth = asyncio.create_task(kept.ask(5, "fifth"))
    await until(lambda: len(kept.loaded) == 3)  # b0 was used first, and is to go
    again = asyncio.create_task(kept.ask(0, "again"))
    await asyncio.sleep(0)
    assert len(kept.loads.models) == 10  # nothing is loaded before there is room
    assert not fifth.done()
    for model in kept.loads.models[:4]:
        model.gate.set()
    assert [(await one).bundle for one in (*running, fifth, again)] == ["b0", "b1", "b2", "b3", "b5", "b0"]
    assert kept.loads.names[10:] == ["b5", "b0"]


async def test_a_replaced_bundle_answers_what_it_began(kept: Kept, tiny_bundle: Path, tmp_path: Path) -> None:
    old = kept.loads.models[0]
    old.gate.clear()
    running = asyncio.create_task(kept.ask(0, "running"))
    await asyncio.to_thread(old.entered.wait, 30)
    waiting = asyncio.create_task(kept.ask(0, "waiting"))
    await until(lambda: kept.pipeline.waiting == 1)
    await kept.shelf.put("b0", Bundle.open_without_added(variant(tiny_bundle, tmp_path / "next", 50)))
    with pytest.raises(BundleMismatchError, match=kept.bundles[0].fingerprint.hex()):
        await kept.ask(0, "later")
    old.gate.set()
    assert [(await one).bundle for one in (running, waiting)] == ["b0", "b0"]
    [state] = [state for state in kept.shelf.states() if state.folder == "b0"]
    assert (state.name, state.requests) == ("next", 2)  # the counts are the folder's


async def test_a_bundle_that_cannot_be_used_changes_nothing(
    kept: Kept, tiny_bundle: Path, tmp_path: Path
) -> None:
    before = kept.shelf.states()
    other = Bundle.open_without_added(variant(tiny_bundle, tmp_path / "other", 50))
    kept.loads.fail = BundleDamagedError("torn")
    with pytest.raises(BundleDamagedError, match="torn"):
        await kept.shelf.put("b0", other)
    kept.loads.fail = None
    with pytest.raises(BundleDamagedError, match=r"in twin has the fingerprint .* of the one in b1"):
        await kept.shelf.put("twin", kept.bundles[1])
    assert kept.shelf.states() == before
    assert (await kept.ask(0, "a")).bundle == "b0"


async def test_a_bundle_that_cannot_be_loaded_now(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    kept.loads.fail = MemoryError("no more")
    for number in range(3):  # and is not tried for each request
        with pytest.raises(NotReadyError, match="bundle b7 cannot be loaded now"):
            await kept.ask(7, f"n{number}")
    assert caplog.text.count("MemoryError: no more") == 1
    [state] = [state for state in kept.shelf.states() if state.name == "b7"]
    assert (state.state, state.reason) == ("on disk", "unexpected MemoryError: no more")
    kept.loads.fail = None
    await kept.shelf.load(kept.bundles[7].manifest.fingerprint)  # an operator need not wait
    assert (await kept.ask(7, "later")).bundle == "b7"


async def test_a_request_in_haste_does_not_end_the_loading_for_others(kept: Kept) -> None:
    kept.loads.models[0].gate.clear()
    for which in (1, 2, 3):
        await kept.ask(which, f"n{which}")
    running = asyncio.create_task(kept.ask(0, "running"))
    await asyncio.to_thread(kept.loads.models[0].entered.wait, 30)
    for which in (1, 2, 3):
        kept.shelf.unload(kept.bundles[which].manifest.fingerprint)
    kept.shelf._bytes_max = kept.size  # the next waits until the only one in memory is done
    patient = asyncio.create_task(kept.ask(5, "patient"))
    with pytest.raises(DeadlineError):
        await kept.ask(5, "haste", deadline_s=0.01)
    kept.loads.models[0].gate.set()
    assert (await patient).bundle == "b5"
    assert kept.loads.names.count("b5") == 2  # once to be checked
    await running


async def test_no_more_than_so_many_wait_for_a_bundle(kept: Kept) -> None:
    kept.shelf._bytes_max = kept.size
    kept.loads.models[0].gate.clear()
    running = asyncio.create_task(kept.ask(0, "running"))
    await asyncio.to_thread(kept.loads.models[0].entered.wait, 30)
    waiting = [asyncio.create_task(kept.ask(5, f"n{number}")) for number in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(NotReadyError, match="4 requests wait for bundle b5"):
        await kept.ask(5, "too-many")
    kept.loads.models[0].gate.set()
    assert {(await one).bundle for one in waiting} == {"b5"}
    await running


async def test_the_default(ten: list[Bundle]) -> None:
    newest, named, marked, missing = (
        Shelf(ShelfLoads(), 1 << 30, default)
        for default in ("", "b1", ten[2].manifest.fingerprint[:8], "nobody")
    )
    for shelf, name in ((newest, "b3"), (named, "b1"), (marked, "b2")):
        await filled(shelf, ten[:4])
        async with shelf.use_default() as served:
            assert served.bundle.manifest.name == name
        assert shelf.infos()[0].name == name
        assert [state.name for state in shelf.states() if state.default] == [name]
    await filled(missing, ten[:1])
    with pytest.raises(NotReadyError, match="bundle nobody is not here"):
        async with missing.use_default():
            pass
    assert [info.name for info in missing.infos()] == ["b0"]


async def test_an_image_is_answered_by_the_default(kept: Kept) -> None:
    assert (await kept.pipeline.analyze_image(png(0), ALL, "a")).bundle == "b9"
    with pytest.raises(UnknownBundleError, match="there are: "):
        kept.shelf.bundle("00000000")
    with pytest.raises(UnknownBundleError):
        kept.shelf.bundle(kept.bundles[0].manifest.fingerprint[:7])


async def test_tasks_are_each_bundles_own(ten: list[Bundle], ten_packed: list[bytes], tmp_path: Path) -> None:
    from cloud.task_folders import add_task
    from support.tasks import write_task

    own = [Bundle.open_without_added(variant(ten[0].path, tmp_path / f"own{i}", 60 + i)) for i in range(2)]
    shelf = Shelf(load, 1 << 30)
    await filled(shelf, own)
    pipeline = Pipeline(shelf, SETTINGS)
    packed = [Encoder(bundle).encode(png(0)).data for bundle in own]
    add_task(own[0].path, write_task(own[0].path, tmp_path / "mood"))
    assert await shelf.look() == {"own0": {}, "own1": {}}
    mood = Wanted(tasks=(TaskQuery(name="mood"),))
    before = await pipeline.analyze(packed[0], mood, "a")
    shelf.unload(own[0].manifest.fingerprint)  # and back, with its task
    assert (await pipeline.analyze(packed[0], mood, "b")).results == before.results
    assert list((await pipeline.analyze(packed[1], ALL, "c")).results) == ["classification"]
    assert {info.name: len(info.tasks) for info in shelf.infos()} == {"own0": 2, "own1": 1}
    await pipeline.close()


async def test_each_bundle_has_batches_of_its_own(kept: Kept) -> None:
    """b0 sends each image by itself, b1 waits for three, b2 goes by what holds for all: two."""
    own = {
        "b0": BatchSettings(batch_max=1),
        kept.bundles[1].manifest.fingerprint[:8]: BatchSettings(batch_max=3, batch_wait_ms=20_000),
    }
    pipeline = Pipeline(kept.shelf, PipelineSettings(batch_max=2, batch_wait_ms=20_000, bundles=own))
    asked = [
        pipeline.analyze(kept.packed[which], ALL, f"n{which}.{i}")
        for which, count in enumerate((3, 3, 4))
        for i in range(count)
    ]
    async with asyncio.timeout(20):
        await asyncio.gather(*asked)
    await pipeline.close()
    batches = {model.bundle.manifest.name: model.batches for model in kept.loads.models}
    assert [batches[name] for name in ("b0", "b1", "b2")] == [[1, 1, 1], [3], [2, 2]]


def test_the_most_exact_name_of_a_bundle_counts(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open_without_added(variant(tiny_bundle, tmp_path / "folder", 1, "name"))
    mark = bundle.manifest.fingerprint
    own = {
        mark[:8]: BatchSettings(batch_max=1),
        "name": BatchSettings(batch_max=3, batch_wait_ms=30),
        "folder": BatchSettings(batch_max=2, batch_wait_ms=20),
        mark[:7]: BatchSettings(batch_wait_ms=7),
        "other": BatchSettings(batch_wait_ms=8),
    }
    assert pace_of(bundle, Pace(16, 2), own) == Pace(1, 20)
    assert pace_of(bundle, Pace(16, 2), {}) == Pace(16, 2)
    assert unmatched(own, [bundle]) == [mark[:7], "other"]
