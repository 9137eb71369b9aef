"""POST /v1/inspect in process: answers as pictures, bits by cell, JPEG's bytes; and every problem."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from PIL import Image

from cloud.faces.http_face import build_app
from cloud.faces.http_page import PageParts
from cloud.page.fleet import Fleet
from cloud.page.inspection import JPEG_QUALITIES, Inspection
from cloud.pipeline import Pipeline
from cloud.settings import PipelineSettings
from cloud.shelf.shelf import Shelf
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.image import fit, read_image
from shared.process.config import HttpSettings
from support.archives import archive_at
from support.service import GatedModel, OneBundle, bomb, png, problem
from support.shelves import ShelfLoads, variants

PNG = {"Content-Type": "image/png"}


def client_of(pipeline: Pipeline) -> httpx.AsyncClient:
    app = build_app(lambda: pipeline, HttpSettings(image_bytes_max=400_000))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://cloud")


@pytest.fixture
async def http(pipeline: Pipeline) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(pipeline) as client:
        yield client


async def inspect(http: httpx.AsyncClient, data: bytes, query: str = "") -> Inspection:
    answer = await http.post(f"/v1/inspect{query}", content=data, headers=PNG)
    assert answer.status_code == 200, answer.text
    return Inspection.model_validate(answer.json())


async def test_an_inspection_is_the_analysis_and_more(http: httpx.AsyncClient, packed: list[bytes]) -> None:
    found = await inspect(http, png(0))
    assert found.analysis.bytes.total == len(packed[0])
    assert found.file_bytes == len(png(0))
    assert found.analysis.results["classification"].top[0].label == "red"  # type: ignore[attr-defined]
    assert found.views["classification"].lines[0].startswith("red")
    assert found.views["classification"].image is None
    assert {"read_ms", "front_ms", "code_ms", "decode_ms", "tails_ms"} <= set(
        found.analysis.times.model_dump(exclude_none=True)
    )


async def test_bits_by_cell_are_those_of_the_bytes(http: httpx.AsyncClient, encoder: Encoder) -> None:
    found = await inspect(http, png(3, 200))
    latent = encoder.encode(png(3, 200)).latent
    assert (found.bits.rows, found.bits.columns) == latent.grid
    assert len(found.bits.z) == found.bits.rows * found.bits.columns
    h_v, h_z = encoder.frames.bits(latent)
    assert found.bits.v == pytest.approx(h_v)
    assert sum(found.bits.z) == pytest.approx(h_z)
    payload = 8 * (found.analysis.bytes.b_v + found.analysis.bytes.b_z)
    assert found.bits.v + sum(found.bits.z) == pytest.approx(payload, abs=8, rel=0.01)


async def test_the_fitted_image_gives_the_same_bytes_as_the_file(http: httpx.AsyncClient) -> None:
    """So that a slider need not send a large file for every step."""
    first = await inspect(http, png(4, 300))
    assert first.image is not None
    again = await inspect(http, first.image.file(), "?fitted=true")
    assert again.image is None
    assert again.analysis.bytes == first.analysis.bytes
    assert again.bits == first.bits
    assert again.jpeg == first.jpeg


async def test_it_says_which_part_of_the_image_was_seen(http: httpx.AsyncClient) -> None:
    """As an analysis does; the fitted image that comes back is that part."""
    wide = Image.new("RGB", (128, 64), "red")
    out = io.BytesIO()
    wide.save(out, "PNG")
    found = await inspect(http, out.getvalue())
    same = await http.post("/analyze", content=out.getvalue(), headers=PNG)
    assert found.analysis.view is not None
    assert found.analysis.view.model_dump(mode="json") == same.json()["view"]
    assert found.image is not None
    assert (await inspect(http, found.image.file(), "?fitted=true")).analysis.view is None


async def test_jpeg_is_that_of_the_fitted_image(http: httpx.AsyncClient, bundle: Bundle) -> None:
    found = await inspect(http, png(5, 300))
    image = fit(read_image(png(5, 300)), bundle.manifest.preprocess)
    for size, (name, quality) in zip(found.jpeg, JPEG_QUALITIES, strict=True):
        out = io.BytesIO()
        image.save(out, "JPEG", quality=quality, optimize=True)
        assert (size.name, size.quality, size.bytes) == (name, quality, len(out.getvalue()))


async def test_the_archive_gets_no_inspection(
    tmp_path: Path, bundle: Bundle, encoder: Encoder, model: GatedModel, settings: PipelineSettings
) -> None:
    with archive_at(tmp_path) as archive:
        pipeline = Pipeline(OneBundle(bundle, model, encoder), settings, archive)
        async with client_of(pipeline) as http:
            await inspect(http, png(0))
            await http.post("/analyze", content=png(0), headers=PNG)
        await pipeline.close()
        assert archive.flush(30)
        assert archive.written == 1


@pytest.mark.parametrize(
    ("query", "body", "headers", "status", "text"),
    [
        ("", b"hello world", PNG, 415, "not an image"),
        ("", png(0), {"Content-Type": "text/html"}, 415, "text/html"),
        ("", png(0)[:2000], PNG, 400, "damaged"),
        ("", b"", PNG, 422, "empty"),
        ("", bomb(), PNG, 413, "megapixels"),
        ("", bytes(400_001), PNG, 413, "400000 bytes"),
        ("?quality=101", png(0), PNG, 422, "quality"),
        ("?quality=7", png(0), PNG, 422, "quality 7"),
        ("?fitted=true", png(0, 300), PNG, 422, "300 x 300 is not fitted"),
        ("?fitted=perhaps", png(0), PNG, 422, "fitted"),
        ("?bundle=00000000", png(0), PNG, 404, "no bundle with the fingerprint 00000000"),
        ("?bundle=../x", png(0), PNG, 422, "bundle"),
        ("?size=3", png(0), PNG, 422, "size"),
        ("?quality=50&quality=50", png(0), PNG, 422, "2 times"),
    ],
    ids=lambda value: "" if isinstance(value, bytes | dict) else None,
)
async def test_problems(
    http: httpx.AsyncClient, query: str, body: bytes, headers: dict[str, str], status: int, text: str
) -> None:
    answer = await http.post(f"/v1/inspect{query}", content=body, headers=headers)
    assert text in problem(answer, status)["detail"]


def test_maps_become_pictures_with_legends() -> None:
    """Of every kind that has a map: RGB, as large as the map."""
    import numpy as np

    from cloud.page.inspection import view, without_map
    from shared.kinds.depth import DepthResult, depth_png
    from shared.kinds.segmentation import ClassArea, SegmentationResult, classes_png, palette

    metres = np.full((4, 6), 2.0, np.float32)
    depth = DepthResult(min_m=2, median_m=2, max_m=2, known=1, map=depth_png(metres))
    seen = view(depth)
    assert seen.image is not None
    picture = Image.open(io.BytesIO(base64.b64decode(seen.image.base64)))
    assert (picture.mode, picture.size) == ("RGB", (6, 4))
    assert not hasattr(without_map(depth), "map") or without_map(depth).map is None  # type: ignore[attr-defined]

    classes = np.array([[0, 2], [2, 2]])
    areas = (ClassArea(label="wall", index=2, share=0.75), ClassArea(label="floor", index=0, share=0.25))
    seen = view(SegmentationResult(areas=areas, map=classes_png(classes, 3)))
    assert [entry.label for entry in seen.legend] == ["wall", "floor"]
    assert seen.legend[0].colour == tuple(palette(3)[2].tolist())
    assert seen.image is not None
    picture = Image.open(io.BytesIO(seen.image.file()))
    assert picture.getpixel((0, 1)) == seen.legend[0].colour


async def test_of_several_bundles_the_one_that_is_asked_for(
    tmp_path: Path, tiny_bundle: Path, settings: PipelineSettings
) -> None:
    """Each knows its own records again; an archive may hold those of both, and of one that is gone."""
    shelf = Shelf(ShelfLoads(), 1 << 40)
    for path in variants(tiny_bundle, tmp_path / "bundles", 2):
        await shelf.put(path.name, Bundle.open(path))
    fleet = Fleet()
    with archive_at(tmp_path / "archive") as archive:
        pipeline = Pipeline(shelf, settings, archive, observer=fleet)
        app = build_app(lambda: pipeline, HttpSettings(), page=PageParts(fleet, tmp_path / "archive"))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://cloud") as http:
            known = [info["fingerprint"] for info in (await http.get("/v1/bundles")).json()]
            assert len(known) == 2
            for mark in known:
                found = await inspect(http, png(0), f"?bundle={mark}")
                assert found.analysis.fingerprint == mark
                with Image.open(io.BytesIO(png(0))) as image:
                    encoded = Encoder(shelf.bundle(mark)).encode(image.convert("RGB"))
                archive.append("door", datetime.now(UTC), mark, encoded.data)
            assert (await inspect(http, png(0))).analysis.fingerprint == known[0]
            assert archive.flush(30)
            shelf.remove("b0")
            records = (await http.get("/v1/fleet/door/records")).json()
            assert sorted(bool(one["error"]) for one in records) == [False, True]
            assert {one["request_id"] for one in records if not one["error"]} == {known[0]}
        await pipeline.close()
