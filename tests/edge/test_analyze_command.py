"""`isthmus edge analyze` in front of a real gRPC server: the capture time of each image goes there and comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from cloud.pipeline import Pipeline
from support.processes import run_here


def photo(path: Path, offset: str | None) -> Path:
    exif = Image.Exif()
    tags = exif.get_ifd(ExifTags.IFD.Exif)
    tags[ExifTags.Base.DateTimeOriginal] = "2026:11:22 13:00:00"
    if offset:
        tags[ExifTags.Base.OffsetTimeOriginal] = offset
    Image.new("RGB", (64, 64), "red").save(path, exif=exif.tobytes())
    return path


async def test_the_capture_time_of_each_image_is_sent(
    tmp_path: Path,
    tiny_bundle: Path,
    pipeline: Pipeline,
    make_grpc_server: Callable[..., AbstractAsyncContextManager[Any]],
) -> None:
    images = [photo(tmp_path / "zone.jpg", "+01:00"), photo(tmp_path / "bare.jpg", None)]
    async with make_grpc_server(lambda: pipeline) as (address, _):

        async def analyze(*options: str) -> str:
            command = ("edge", "analyze", *images, "--bundle", tiny_bundle, "--cloud", address, *options)
            done = await asyncio.to_thread(run_here, *command)
            assert done.returncode == 0, done.stderr
            return done.stdout

        zone, bare = map(json.loads, (await analyze("--json")).splitlines())
        assert (zone["captured_at"], zone["warnings"]) == ("2026-11-22T12:00:00Z", [])
        assert bare["captured_at"] is None
        assert "no zone" in bare["warnings"][0]
        assert "  warning: the EXIF capture time 2026:11:22 13:00:00 has no zone" in await analyze()
        zone, bare = map(json.loads, (await analyze("--json", "--captured-from", "none")).splitlines())
        assert zone["captured_at"] is bare["captured_at"] is None
        assert bare["warnings"] == []
