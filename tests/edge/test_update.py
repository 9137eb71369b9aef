"""A running edge follows what its cloud wants, and stays on what it runs where that cannot be had."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

import edge.update
from edge.fetch import Source
from edge.settings import CloudLink, EdgeSettings, UpdateSettings
from edge.trust import load
from edge.update import Updater, first_bundle, source_of
from shared.bundle import EDGE, Bundle
from shared.encoder import Encoder
from shared.errors import BundleUnsignedError, CloudUnreachableError, RequestError
from shared.signing import sign
from support.downloads import BreakingLink, serving
from support.keys import write_keys
from support.levels import write_levels
from support.processes import refused, run_here, server
from support.service import png
from support.shelves import variant, variants


@pytest.fixture(scope="module")
def levels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_levels(tmp_path_factory.mktemp("levels") / "levels")


@pytest.fixture
def new(levels: Path, tmp_path: Path) -> Path:
    return variant(levels, tmp_path / "new", 1)


class Cloud:
    """What a cloud wants, and what it was told."""

    def __init__(self, wanted: str) -> None:
        self.wants: str | Exception = wanted
        self.told: list[tuple[str, str, str]] = []

    async def wanted(self, camera: str, running: str, trouble: str) -> str:
        self.told.append((camera, running, trouble))
        if isinstance(self.wants, Exception):
            raise self.wants
        return self.wants


def mark(folder: Path) -> str:
    return Bundle.open(folder).manifest.fingerprint


def updater(
    cloud: Cloud, levels: Path, address: str, folder: Path, key: Path | None = None, accepts: Any = None
) -> Any:
    """An updater, and the encoders that it swapped in."""
    folder.mkdir(exist_ok=True)
    swapped: list[Encoder] = []
    settings = UpdateSettings(url=f"http://{address}", folder=folder, require_signature=key)
    source = Source(f"http://{address}")
    bundle = Bundle.open(levels)
    made = Updater(settings, cloud, "door", bundle, swapped.append, lambda: source, accepts=accepts)
    return made, swapped


async def test_it_takes_what_is_wanted_and_goes_back(levels: Path, new: Path, tmp_path: Path) -> None:
    cloud, kept = Cloud(mark(new)), tmp_path / "kept"
    kept.mkdir()
    given_up = kept / f".{'0' * 64}.{'a' * 64}.part"
    given_up.write_bytes(b"of a bundle that is wanted no more")
    async with serving(levels, new) as (address, _):
        made, swapped = updater(cloud, levels, address, kept)
        await made.look()
        assert not given_up.exists()
        await made.look()
        assert [encoder.bundle.manifest.name for encoder in swapped] == ["new"]
        cloud.wants = mark(levels)
        await made.look()
        assert swapped[-1].bundle.manifest.fingerprint == mark(levels)
    cloud.wants = mark(new)
    await made.look()  # without the cloud's HTTP: it is here already
    assert (made.running, made.trouble) == (mark(new), "")
    assert [running[:8] for _, running, _ in cloud.told] == [
        mark(one)[:8] for one in (levels, new, new, levels)
    ]
    begun = first_bundle(EdgeSettings(bundle=levels, update=UpdateSettings(folder=kept)))
    assert begun.path == kept / mark(new)


async def test_each_failure_leaves_the_box_on_what_it_runs(
    levels: Path, new: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cloud, kept = Cloud(mark(new)), tmp_path / "kept"
    async with serving(levels, new) as (address, _), BreakingLink(address).open() as link:
        made, swapped = updater(cloud, levels, link.address, kept)
        link.left = iter([5000, 7000])
        for _ in range(2):
            await made.look()
            assert "could not be downloaded" in made.trouble
        assert caplog.text.count("stays on bundle") >= 1
        cloud.wants = CloudUnreachableError("nobody there")
        await made.look()
        assert made.trouble == "nobody there"
        cloud.wants = "../../etc"
        await made.look()
        assert "a fingerprint has 8 to 64 digits" in made.trouble
        cloud.wants = "0" * 64
        await made.look()
        assert "no bundle with the fingerprint" in made.trouble
        assert swapped == []
        assert made.running == mark(levels)
        assert [path for path in kept.iterdir() if path.is_dir()] == []
        cloud.wants = mark(new)
        await made.look()
    assert [trouble for *_, trouble in cloud.told if trouble][-1] == cloud.told[-1][2]
    assert (made.running, made.trouble, len(swapped)) == (mark(new), "", 1)


async def test_a_bundle_that_the_settings_do_not_go_with(
    levels: Path, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud, kept = Cloud(mark(new)), tmp_path / "kept"
    loaded: list[Path] = []

    def counted(bundle: Bundle, *more: Any, **named: Any) -> Encoder:
        loaded.append(bundle.path)
        return load(bundle, *more, **named)

    monkeypatch.setattr(edge.update, "load", counted)
    async with serving(levels, new) as (address, _):
        settings = {"quality": 7}

        def accepts(bundle: Bundle) -> None:
            if "quality" in settings:
                raise RequestError(f"[sources.door] bundle {bundle.manifest.name} has no quality 7")

        made, swapped = updater(cloud, levels, address, kept, accepts=accepts)
        for _ in range(3):
            await made.look()
        assert (made.running, swapped) == (mark(levels), [])
        assert "[sources.door] bundle new has no quality 7" in cloud.told[-1][2]
        assert not (kept / "current").exists()
        assert loaded == []  # a look each minute costs no more than a manifest
        settings.clear()
        await made.look()  # it is taken as soon as the settings go with it
        assert (made.running, len(swapped), loaded) == (mark(new), 1, [kept / mark(new)])


async def test_a_wrong_key_is_no_download_a_minute(levels: Path, new: Path, tmp_path: Path) -> None:
    write_keys(tmp_path, "key", "pub")
    cloud, kept = Cloud(mark(new)), tmp_path / "kept"
    async with serving(levels, new) as (address, _), BreakingLink(address).open() as link:
        made, swapped = updater(cloud, levels, link.address, kept, tmp_path / "pub.pem")
        await made.look()
        assert "is not signed" in made.trouble
        passed = link.passed
        await made.look()
        assert (link.passed, swapped) == (passed, [])
        assert "is not signed" in cloud.told[-1][2]
        assert list(kept.iterdir()) == []
    with pytest.raises(BundleUnsignedError):  # what it begins with has to be signed as well
        load(Bundle.open(levels), public_key=tmp_path / "pub.pem")


async def test_what_was_downloaded_and_has_become_bad(levels: Path, new: Path, tmp_path: Path) -> None:
    cloud, kept = Cloud(mark(new)), tmp_path / "kept"
    async with serving(levels, new) as (address, _):
        made, _ = updater(cloud, levels, address, kept)
        await made.look()
        (kept / mark(new) / EDGE).write_bytes(b"torn")
        settings = EdgeSettings(bundle=levels, update=UpdateSettings(folder=kept))
        assert first_bundle(settings).path == levels
        again, swapped = updater(cloud, levels, address, kept)
        await again.look()
        assert len(swapped) == 1
    assert first_bundle(settings).path == kept / mark(new)
    (kept / "current").write_text("../..")
    assert first_bundle(settings).path == levels


def test_the_token_goes_with_a_download(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0123456789abcdef0123456789abcdef")
    source = source_of(CloudLink(token_file=tmp_path / "token"), "http://cloud")
    assert source.headers == {"Authorization": "Bearer 0123456789abcdef0123456789abcdef"}


def test_settings_that_make_no_sense(levels: Path, tmp_path: Path) -> None:
    serve = ("edge", "serve", "--bundle", levels, "--port", "0")
    assert "folder is not set" in refused(*serve, "--update-from", "http://cloud", status=2)
    assert "begins with http" in refused(*serve, "--update-from", "cloud", "--bundles", tmp_path, status=2)
    told = refused(*serve, "--update-from", "http://cloud", "--bundles", tmp_path, status=2)
    assert "needs a name" in told


async def test_a_rollout_reaches_a_running_edge_and_is_taken_back(tiny_bundle: Path, tmp_path: Path) -> None:
    """Real processes and commands: forward to one camera, back, and no request is lost meanwhile."""
    folder = tmp_path / "bundles"
    [old, _] = variants(tiny_bundle, folder, 2)
    shutil.copytree(old, tmp_path / "old")
    write_keys(tmp_path, "key", "pub")
    for bundle in (*folder.iterdir(), tmp_path / "old"):
        sign(Bundle.open(bundle), tmp_path / "key.pem")
    ports = ("--grpc-port", "0", "--http-port", "0")
    with server("cloud", "serve", "--bundles", folder, *ports) as cloud:
        at = await asyncio.to_thread(cloud.event, "listening")
        await asyncio.to_thread(cloud.event, "ready")
        url = f"http://{at['http']}"
        (tmp_path / "edge.toml").write_text("[update]\npoll_ms = 50\n")
        box = (
            "edge",
            "serve",
            "--config",
            tmp_path / "edge.toml",
            "--bundle",
            tmp_path / "old",
            "--port",
            "0",
        )
        box += (
            "--cloud",
            at["grpc"],
            "--camera",
            "door",
            "--update-from",
            url,
            "--bundles",
            tmp_path / "kept",
        )
        with server(*box, "--require-signature", tmp_path / "pub.pem") as edge:
            local = (await asyncio.to_thread(edge.event, "listening"))["http"]
            await asyncio.to_thread(edge.event, "ready")
            async with httpx.AsyncClient(base_url=f"http://{local}", timeout=60) as http:

                async def until_answered_by(name: str) -> None:
                    headers = {"Content-Type": "image/png", "X-Session": "s"}
                    async with asyncio.timeout(90):
                        while True:
                            answer = await http.post("/analyze", content=png(0), headers=headers)
                            assert answer.status_code == 200, answer.text
                            if answer.json()["bundle"] == name:
                                return

                async def rollout(*arguments: str) -> str:
                    command = ("cloud", "rollout", *arguments, "--cloud", url)
                    done = await asyncio.to_thread(run_here, *command)
                    assert done.returncode == 0, done
                    return done.stdout

                await until_answered_by("b0")
                assert "nothing is being rolled out" in await rollout()
                told = await rollout("b1", "--to", "do*")
                assert "to do* since" in told
                await until_answered_by("b1")
                figures = (await rollout()).splitlines()
                assert len(figures) == 4
                await rollout("--back")
                await until_answered_by("b0")
                assert "was taken back: an operator" in await rollout()
            assert await asyncio.to_thread(edge.stop) == 0
        assert await asyncio.to_thread(cloud.stop) == 0
    assert refused("cloud", "rollout", "b1", "--to", "5", "--back", status=2)
    assert "needs a bundle and --to" in refused("cloud", "rollout", "b1", status=2)
