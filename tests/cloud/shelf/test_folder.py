"""A folder of bundles that come, change and go while they are served."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloud.shelf.folder import BundleFolder
from cloud.shelf.keeper import Keeper
from cloud.shelf.shelf import Shelf
from shared.bundle import CLOUD, ENTROPY, MANIFEST, Bundle
from shared.errors import BundleMismatchError, NotReadyError
from support.service import until
from support.shelves import ShelfLoads, variant, variants


@dataclass
class Watched:
    """The folder of three bundles, b0 to b2, and what watches it."""

    path: Path
    shelf: Shelf
    folder: BundleFolder
    loads: ShelfLoads

    async def settle(self) -> None:
        """Two looks: what changes is taken when it no longer does."""
        await self.folder.look()
        await self.folder.look()

    @property
    def served(self) -> dict[str, str]:
        """Name of the bundle by its folder."""
        return {state.folder: str(state.name) for state in self.shelf.states()}


@pytest.fixture
def watched(tiny_bundle: Path, tmp_path: Path) -> Watched:
    path, loads = tmp_path / "bundles", ShelfLoads()
    variants(tiny_bundle, path, 3)
    shelf = Shelf(loads, 1 << 30)
    return Watched(path, shelf, BundleFolder(path, shelf), loads)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


def tear(file: Path) -> None:
    """Its last byte is gone; other copies of the file stay as they are."""
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data[:-1])


async def test_bundles_come_change_and_go(watched: Watched, tiny_bundle: Path) -> None:
    await watched.folder.look(first=True)
    assert watched.served == {"b2": "b2"}  # the newest, and the server is ready
    await watched.folder.look()
    assert watched.served == {"b0": "b0", "b1": "b1", "b2": "b2"}
    await watched.settle()
    assert len(watched.loads.models) == 3  # nothing changed, nothing is loaded
    variant(tiny_bundle, watched.path / "b3", 3)
    await watched.folder.look()
    assert "b3" not in watched.served  # it may still be being copied
    await watched.folder.look()
    assert watched.served["b3"] == "b3"
    shutil.rmtree(watched.path / "b1")
    variant(tiny_bundle, watched.path / ".later", 9, "later")
    (watched.path / "notes.txt").write_text("no bundle")
    await watched.settle()
    assert sorted(watched.served) == ["b0", "b2", "b3"]
    shutil.rmtree(watched.path / "b0")
    (watched.path / ".later").rename(watched.path / "b0")
    await watched.settle()
    assert watched.served["b0"] == "later"
    assert watched.folder.refused == {}


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda b: (b / MANIFEST).unlink(), "no manifest.json"),
        (lambda b: (b / MANIFEST).write_text("{"), "is not JSON"),
        (lambda b: tear(b / ENTROPY), "is not the file that the manifest lists"),
        (lambda b: tear(b / CLOUD), "is not the file that the manifest lists"),
    ],
)
async def test_a_bad_bundle_is_named_and_changes_nothing(
    tiny_bundle: Path,
    watched: Watched,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], object],
    text: str,
) -> None:
    from cloud.engine.load import load

    shutil.rmtree(watched.path / "b0")
    shutil.rmtree(watched.path / "b1")
    shelf = Shelf(load, 1 << 30)
    watched = Watched(watched.path, shelf, BundleFolder(watched.path, shelf), watched.loads)
    await watched.folder.look(first=True)
    bad = variant(tiny_bundle, watched.path / "bad", 7)
    damage(bad)
    for _ in range(3):
        await watched.folder.look()
    assert watched.served == {"b2": "b2"}
    [line] = errors(caplog)
    assert "bundle folder bad is not loaded" in line
    assert text in line
    states = {state.folder: state for state in watched.folder.states()}
    assert (states["bad"].state, states["b2"].state) == ("refused", "loaded")
    assert text in str(states["bad"].reason)
    shutil.rmtree(bad)
    variant(tiny_bundle, bad, 7)
    await watched.settle()
    assert watched.served == {"b2": "b2", "bad": "bad"}
    assert watched.folder.refused == {}


async def test_a_bundle_that_becomes_bad_is_served_on(watched: Watched) -> None:
    await watched.settle()
    tear(watched.path / "b1" / MANIFEST)
    await watched.settle()
    assert watched.served == {"b0": "b0", "b1": "b1", "b2": "b2"}
    [state] = [state for state in watched.folder.states() if state.folder == "b1"]
    assert (state.state, "is not JSON" in str(state.reason)) == ("loaded", True)


async def test_a_disk_that_is_away_takes_nothing_off(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    await watched.settle()
    away = watched.path.rename(watched.path.with_name("away"))
    for _ in range(2):
        await watched.folder.look()
    assert "cannot read" in watched.folder.trouble
    watched.path.mkdir()  # the place where it is mounted
    for _ in range(2):
        await watched.folder.look()
    assert "there is no bundle in" in watched.folder.trouble
    assert len(watched.served) == 3
    assert len(errors(caplog)) == 2
    watched.path.rmdir()
    away.rename(watched.path)
    await watched.settle()
    assert (watched.folder.trouble, len(watched.loads.models)) == ("", 3)


async def test_of_two_with_one_fingerprint_the_first_is_served(watched: Watched) -> None:
    await watched.settle()
    shutil.copytree(watched.path / "b1", watched.path / "copy")
    await watched.settle()
    assert "copy" not in watched.served
    assert "of the one in b1, which is served" in watched.folder.refused["copy"]
    shutil.rmtree(watched.path / "b1")
    await watched.folder.look(again=True)
    assert watched.served["copy"] == "b1"


async def test_a_reason_that_passes_is_tried_again(watched: Watched) -> None:
    await watched.folder.look(first=True)
    watched.loads.fail = MemoryError("no more")
    await watched.settle()
    assert watched.folder.refused["b0"] == "unexpected MemoryError: no more"
    watched.loads.fail = None
    await watched.folder.look()
    assert len(watched.served) == 3


async def test_a_server_waits_for_its_first_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundles"
    folder.mkdir()
    ticks = asyncio.Queue[None]()
    keeper = Keeper(Shelf(ShelfLoads(), 1 << 30), folder)
    begun = asyncio.create_task(keeper.begin(ticks.get))
    waiting = ticks._getters  # type: ignore[attr-defined]
    await until(lambda: bool(waiting))
    variant(tiny_bundle, folder / "b0", 0)
    ticks.put_nowait(None)
    await begun
    looked = await keeper.look()
    assert (looked.bundle.name, looked.refused) == ("b0", {})
    assert keeper.troubles == {}
    (folder / "bad").mkdir()
    assert list((await keeper.look(again=True)).refused) == ["bad"]
    assert list(keeper.troubles) == ["bundles/bad"]


async def test_until_all_are_checked_a_camera_is_asked_to_come_again(watched: Watched) -> None:
    """A mismatch would be final for its edge, and its bundle may be the next to be loaded."""
    keeper = Keeper(watched.shelf, watched.path)
    await keeper.begin(asyncio.Event().wait)  # type: ignore[arg-type]
    mark = Bundle.open(watched.path / "b0").fingerprint
    with pytest.raises(NotReadyError, match="still loading its bundles"):
        async with watched.shelf.use(mark):
            pass
    await keeper.look()
    async with watched.shelf.use(mark) as served:
        assert served.bundle.manifest.name == "b0"
    with pytest.raises(BundleMismatchError):
        async with watched.shelf.use(b"none"):
            pass


async def test_the_named_default_is_checked_first(watched: Watched) -> None:
    shelf = Shelf(watched.loads, 1 << 30, "b1")
    folder = BundleFolder(watched.path, shelf, "b1")
    await folder.look(first=True)
    assert watched.loads.names == ["b1"]
    await folder.look()
    assert shelf.default.bundle == Bundle.open_without_added(watched.path / "b1")
