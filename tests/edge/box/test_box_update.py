"""A box takes another bundle between two frames: what is spooled stays as it is, and what does not suit is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from cloud.archive.records import read
from edge.box.box import Box
from edge.capture.settings import SourceSettings
from edge.sinks.sinks import Sinks
from edge.spool.spool import Spool
from edge.trust import load
from shared.bundle import Bundle
from shared.errors import CloudUnreachableError
from shared.types import Analysis, BundleInfo, ByteCount, Times
from support.processes import run_here, server
from support.service import png, until
from support.shelves import variants


class TwoBundles:
    """A cloud that serves both. got: fingerprint that each bitstream says."""

    def __init__(self, fingerprints: list[str]) -> None:
        self.fingerprints, self.away = fingerprints, True
        self.got: list[str] = []

    async def analyze(self, request_id: str, bitstream: bytes, *_: Any) -> Analysis:
        self._check()
        self.got.append(bitstream[1:5].hex())
        sizes = ByteCount(b_v=0, b_z=0, total=len(bitstream), bits_per_pixel=0)
        about = {"bundle": "b", "fingerprint": self.got[-1], "quality": 0, "results": {}}
        return Analysis(request_id=request_id, bytes=sizes, times=Times(), **about)

    async def describe(self) -> list[BundleInfo]:
        self._check()
        about: dict[str, Any] = {"qualities": (0,), "default_quality": 0, "tasks": ()}
        return [BundleInfo(name="b", fingerprint=one, **about) for one in self.fingerprints]

    def _check(self) -> None:
        if self.away:
            raise CloudUnreachableError("nobody there")


async def test_what_is_spooled_stays_as_it_is(tiny_bundle: Path, tmp_path: Path) -> None:
    encoders = [load(Bundle.open(one)) for one in variants(tiny_bundle, tmp_path / "bundles", 2)]
    marks = [one.bundle.fingerprint.hex() for one in encoders]
    inbox = tmp_path / "in"
    inbox.mkdir()
    cloud = TwoBundles(marks)
    box = Box(encoders[0], Spool(tmp_path / "spool"), cloud, Sinks([]))
    try:
        await box.use({"door": SourceSettings(kind="folder", url=str(inbox), settle_ms=0)})
        for number, encoder in enumerate(encoders):
            box.swap(encoder)
            (inbox / f"{number}.png").write_bytes(png(number))
            await until(lambda count=number + 1: box.spool.depth == count)
        cloud.away = False
        await until(lambda: box.spool.depth == 0)
    finally:
        await box.close()
    assert sorted(cloud.got) == sorted(marks)


@pytest.mark.timeout(240)
async def test_a_rollout_reaches_a_box_and_is_taken_back(tiny_bundle: Path, tmp_path: Path) -> None:
    """Real processes and commands."""
    folder, inbox = tmp_path / "bundles", tmp_path / "in"
    [old, _] = variants(tiny_bundle, folder, 2)
    inbox.mkdir()
    cloud_file, box_file = tmp_path / "cloud.toml", tmp_path / "box.toml"
    cloud_file.write_text(
        f'[grpc]\nport = 0\n[http]\nport = 0\n[archive]\nfolder = "{tmp_path / "archive"}"\n'
    )
    with server("cloud", "serve", "--config", cloud_file, "--bundles", folder) as cloud:
        at = await asyncio.to_thread(cloud.event, "listening")
        await asyncio.to_thread(cloud.event, "ready")
        url = f"http://{at['http']}"
        box_file.write_text(
            f'camera = "box"\nbundle = "{old}"\n[cloud]\naddress = "{at["grpc"]}"\n[http]\nport = 0\n'
            f'[spool]\nfolder = "{tmp_path / "spool"}"\n'
            f'[update]\nurl = "{url}"\nfolder = "{tmp_path / "kept"}"\npoll_ms = 50\n'
            f'[sources.door]\nkind = "folder"\nurl = "{inbox}"\nafter = "delete"\nsettle_ms = 0\n'
        )
        with server("edge", "run", "--config", box_file) as box:
            local = (await asyncio.to_thread(box.event, "listening"))["http"]
            await asyncio.to_thread(box.event, "ready")
            async with httpx.AsyncClient(base_url=f"http://{local}", timeout=60) as http:

                async def until_it_runs(name: str, number: int) -> None:
                    async with asyncio.timeout(100):
                        while (await http.get("/status")).json()["bundle"] != name:
                            await asyncio.sleep(0.05)
                        (inbox / f"{number}.png").write_bytes(png(number))
                        while list(inbox.iterdir()):
                            await asyncio.sleep(0.05)

                async def rollout(*arguments: str) -> None:
                    done = await asyncio.to_thread(run_here, "cloud", "rollout", *arguments, "--cloud", url)
                    assert done.returncode == 0, done

                await until_it_runs("b0", 0)
                await rollout("b1", "--to", "box")
                await until_it_runs("b1", 1)
                assert (await http.get("/status")).json()["update_trouble"] == ""
                await rollout("--back")
                await until_it_runs("b0", 2)
            assert await asyncio.to_thread(box.stop) == 0
        assert await asyncio.to_thread(cloud.stop) == 0
    marks = [one.data[1:5].hex() for one in read(tmp_path / "archive")]
    both = [Bundle.open(one).fingerprint.hex() for one in (folder / "b0", folder / "b1")]
    assert marks == [both[0], both[1], both[0]]
