"""From a tail's output to results: against numpy, image by image."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shared.kinds import KINDS
from shared.kinds.classification import ClassificationResult
from shared.kinds.depth import DepthResult
from shared.kinds.embedding import EmbeddingResult
from shared.kinds.multilabel import MultilabelResult
from shared.kinds.normals import Facing, NormalsResult, normals_rgb
from shared.kinds.segmentation import SegmentationResult
from shared.maps import MapArray, MapPng, unpack
from shared.types import Maps, TaskQuery

torch = pytest.importorskip("torch")

from cloud.engine.kinds import POSTPROCESS  # noqa: E402 - brings torch

LABELS = ("wall", "floor", "lamp", "bed", "plant")
WAYS = ("right", "left", "up", "down", "towards", "away")  # +x -x +y -y +z -z


def results_of(
    kind: str, output: Any, labels: tuple[str, ...], queries: Sequence[TaskQuery], **options: Any
) -> Sequence[Any]:
    return POSTPROCESS[kind].results(output, labels, queries, options)


def query(maps: Maps = "none", top_k: int = 5) -> TaskQuery:
    return TaskQuery(name="a", maps=maps, top_k=top_k)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


def pixels(found: MapPng | MapArray | None) -> np.ndarray:
    assert isinstance(found, MapPng)
    with Image.open(io.BytesIO(found.file())) as picture:
        return np.asarray(picture)


@pytest.mark.parametrize("tail", [(), (1, 1)])
def test_classification(tail: tuple[int, ...]) -> None:
    logits = noise(4, 5)
    queries = [query(top_k=k) for k in (1, 3, 5, 100)]
    results = results_of("classification", torch.from_numpy(logits).reshape(4, 5, *tail), LABELS, queries)
    for row, result, k in zip(logits, results, (1, 3, 5, 5), strict=True):
        assert isinstance(result, ClassificationResult)
        order = np.argsort(-row)[:k]
        assert [best.index for best in result.top] == order.tolist()
        assert [best.label for best in result.top] == [LABELS[i] for i in order]
        assert [best.score for best in result.top] == pytest.approx(np.exp(row)[order] / np.exp(row).sum())


def test_normals() -> None:
    output = noise(3, 3, 6, 10) * 7
    output[1] += np.array([0, 40, 0], np.float32)[:, None, None]  # nearly all up
    results = results_of("normals", torch.from_numpy(output), (), [query(), query("png"), query("arrays")])
    for one, result in zip(output, results, strict=True):
        assert isinstance(result, NormalsResult)
        unit = (one / np.linalg.norm(one, axis=0)).reshape(3, -1)
        assert result.mean == pytest.approx(unit.mean(1), abs=1e-6)
        axis = np.abs(unit).argmax(0)
        faces = 2 * axis + (np.take_along_axis(unit, axis[None], 0)[0] < 0)
        expected = {way: (faces == i).mean() for i, way in enumerate(WAYS)}
        assert result.facing.model_dump() == pytest.approx(expected)
    none, png, array = results
    assert none.map is None
    assert np.array_equal(pixels(png.map), normals_rgb(output[1].transpose(1, 2, 0)))
    assert isinstance(array.map, MapArray)
    assert array.map.shape == (6, 10, 3)
    unit = output[2] / np.linalg.norm(output[2], axis=0)
    assert np.abs(unpack(array.map) / 127 - unit.transpose(1, 2, 0)).max() < 0.51 / 127


def test_the_axes_are_those_of_the_rooms() -> None:
    """+x right, +y up, +z towards the camera."""
    faces = torch.eye(3).repeat(1, 2).reshape(1, 3, 1, 6) * torch.tensor([2.0, 2, 2, -2, -2, -2])
    [result] = results_of("normals", faces, (), [query()])
    assert result.mean == pytest.approx((0, 0, 0))
    for i, way in enumerate(("right", "up", "towards", "left", "down", "away")):
        [result] = results_of("normals", faces[:, :, :, i : i + 1], (), [query()])
        assert result.facing.model_dump() == dict.fromkeys(Facing.model_fields, 0) | {way: 1}


def test_what_is_no_normal_faces_nowhere() -> None:
    output = torch.tensor([[0, 0, 0], [float("nan"), 1, 1], [float("inf"), 1, 1], [0, 0, -3.0]])
    [result] = results_of("normals", output.T.reshape(1, 3, 2, 2), (), [query("arrays")])
    assert result.mean == (0, 0, -0.25)
    assert result.facing.away == 0.25
    assert sum(result.facing.model_dump().values()) == 0.25
    assert unpack(result.map).reshape(-1, 3).tolist() == [[0, 0, 0]] * 3 + [[0, 0, -127]]


def test_segmentation() -> None:
    output = noise(3, 5, 8, 4)
    output[:, 2] -= 100  # no lamps
    output[2, 4] += 100  # plants alone
    results = results_of(
        "segmentation", torch.from_numpy(output), LABELS, [query("png"), query("arrays"), query()]
    )
    for one, result in zip(output, results, strict=True):
        assert isinstance(result, SegmentationResult)
        shares = np.bincount(one.argmax(0).ravel(), minlength=5) / 32
        assert {area.index: area.share for area in result.areas} == {
            k: share for k, share in enumerate(shares) if share
        }
        assert all(area.label == LABELS[area.index] for area in result.areas)
        listed = [area.share for area in result.areas]
        assert listed == sorted(listed, reverse=True)
    png, array, none = results
    assert np.array_equal(pixels(png.map), output[0].argmax(0))
    assert np.array_equal(unpack(array.map), output[1].argmax(0))
    assert none.map is None
    assert [(area.label, area.share) for area in none.areas] == [("plant", 1.0)]


def test_every_kind_has_its_file() -> None:
    assert POSTPROCESS.keys() == KINDS.keys()


def test_depth() -> None:
    output = np.abs(noise(4, 1, 6, 10)) * 3
    output[1, 0, :3] = -1  # half of it unknown
    output[2, 0, 0, :4] = [0, np.nan, np.inf, -np.inf]
    output[3] = 0
    queries = [query("png"), query("arrays"), query("arrays"), query("arrays")]
    results = results_of("depth", torch.from_numpy(output), (), queries)
    for one, result in zip(output[:3, 0], results, strict=False):
        assert isinstance(result, DepthResult)
        known = np.sort(one[np.isfinite(one) & (one > 0)])
        assert (result.min_m, result.max_m) == (known[0], known[-1])
        assert result.median_m == known[(len(known) - 1) // 2]
        assert result.known == pytest.approx(len(known) / 60)
    nothing = results[3]
    assert (nothing.min_m, nothing.median_m, nothing.max_m, nothing.known) == (0, 0, 0, 0)
    assert np.abs(pixels(results[0].map) / 1000 - output[0, 0]).max() <= 0.00051
    assert np.array_equal(unpack(results[1].map), np.maximum(output[1, 0], 0))
    assert unpack(results[2].map)[0, :4].tolist() == [0, 0, 0, 0]
    assert unpack(results[2].map).dtype == np.float32


@pytest.mark.parametrize("tail", [(), (1, 1)])
def test_embedding(tail: tuple[int, ...]) -> None:
    vectors = noise(3, 7)
    vectors[2, 0] = np.nan
    output = torch.from_numpy(vectors).reshape(3, 7, *tail)
    plain = results_of("embedding", output, (), [query()] * 3)
    length_1 = results_of("embedding", output, (), [query()] * 3, normalised=True)
    for one, raw, unit in zip(np.nan_to_num(vectors), plain, length_1, strict=True):
        assert isinstance(raw, EmbeddingResult)
        assert (raw.normalised, unit.normalised) == (False, True)
        assert raw.array() == pytest.approx(one)
        assert unit.array() == pytest.approx(one / np.linalg.norm(one))
    [nothing] = results_of("embedding", torch.zeros(1, 3), (), [query()], normalised=True)
    assert nothing.vector == (0, 0, 0)


def test_multilabel() -> None:
    logits = noise(2, 5) * 4
    results = results_of("multilabel", torch.from_numpy(logits), LABELS, [query(top_k=2), query()])
    for row, result, k in zip(logits, results, (2, 5), strict=True):
        assert isinstance(result, MultilabelResult)
        order = np.argsort(-row)[:k]
        assert [one.label for one in result.top] == [LABELS[i] for i in order]
        assert [one.score for one in result.top] == pytest.approx(1 / (1 + np.exp(-row[order])))


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("classification", [(5,), (5, 1, 1)], {(4,): "4 outputs for 5 labels", (5, 2, 1): "10 outputs"}),
        ("multilabel", [(5,)], {(6,): "6 outputs for 5 labels"}),
        ("embedding", [(9,), (9, 1, 1)], {(3, 4, 1): "no vector", (70_000,): "70000 numbers"}),
        ("normals", [(3, 8, 8), (3, 4, 4)], {(3,): "no map", (3, 9, 9): "no map", (1, 8, 8): "1 channels"}),
        ("depth", [(1, 8, 8)], {(1,): "no map", (1, 9, 9): "no map", (2, 8, 8): "2 channels"}),
        (
            "segmentation",
            [(5, 8, 8)],
            {(5,): "no map", (4, 8, 8): "4 channels of a map of segmentation, not 5"},
        ),
    ],
)
def test_outputs_that_fit_and_do_not(
    kind: str, good: list[tuple[int, ...]], bad: dict[tuple[int, ...], str]
) -> None:
    for shape in good:
        POSTPROCESS[kind].check_output(shape, LABELS, (8, 8))
    for shape, why in bad.items():
        with pytest.raises(ValueError, match=why):
            POSTPROCESS[kind].check_output(shape, LABELS, (8, 8))
