"""The metrics against scikit-learn, against naive code, and against cases that were counted by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score, top_k_accuracy_score

from shared.errors import DataError
from train.kinds.classification import TopClasses
from train.kinds.normals import AngularError, angles
from train.kinds.segmentation import Confusion

MANY = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def parts(size: int, random: np.random.Generator) -> list[slice]:
    """0..size cut at two places."""
    cuts = [0, *sorted(random.integers(0, size + 1, 2).tolist()), size]
    return [slice(a, b) for a, b in pairwise(cuts)]


@MANY
@given(seed=seeds, size=st.integers(1, 60), classes=st.integers(2, 9))
def test_top1_and_top5_are_scikit_learns(seed, size, classes):
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, size)
    predicted = random.dirichlet(np.ones(classes), size)
    metric, other = TopClasses(), TopClasses()
    for i, part in enumerate(parts(size, random)):
        (metric, other)[i % 2].add(predicted[part], truth[part])
    metric.merge(other)
    assert metric.values()["top1"] == pytest.approx(accuracy_score(truth, predicted.argmax(1)))
    if classes > 5:
        wanted = top_k_accuracy_score(truth, predicted, k=5, labels=np.arange(classes))
        assert metric.values()["top5"] == pytest.approx(wanted)


def test_calibration_error_compares_scores_with_how_often_they_are_right():
    """Half of what has the score 0.9 is right, and all of what has 0.7: (10 x 0.4 + 10 x 0.3) / 20."""
    sure, unsure = np.tile([0.9, 0.1], (10, 1)), np.tile([0.3, 0.7], (10, 1))
    metric = TopClasses()
    metric.add(sure, np.repeat([0, 1], 5))
    metric.add(unsure, np.ones(10, int))
    assert metric.values()["calibration_error"] == pytest.approx(0.35)
    honest = TopClasses()
    honest.add(np.tile([0.8, 0.2], (10, 1)), np.array([0] * 8 + [1] * 2))
    honest.add(np.tile([1.0, 0.0], (10, 1)), np.zeros(10, int))
    assert honest.values()["calibration_error"] == pytest.approx(0)


@MANY
@given(seed=seeds, size=st.integers(1, 200), present=st.integers(1, 6), ignored=st.sampled_from([0, 0.3]))
def test_miou_and_accuracy_are_scikit_learns(seed, size, present, ignored):
    """Of six classes only `present` occur: the rest must not count in the mean."""
    random = np.random.default_rng(seed)
    predicted, truth = random.integers(0, present, (2, size))
    truth[random.random(size) < ignored] = 255
    counted = truth != 255
    metric, other = Confusion(6), Confusion(6)
    for i, part in enumerate(parts(size, random)):
        (metric, other)[i % 2].add(predicted[part].astype(np.int64), truth[part].astype(np.uint8))
    metric.merge(other)
    if not counted.any():
        with pytest.raises(DataError, match="nothing to measure"):
            metric.values()
        return
    figures = metric.values()
    # scikit-learn takes the mean over the classes that occur in either.
    own = jaccard_score(truth[counted], predicted[counted], average="macro")
    assert figures["miou"] == pytest.approx(own)
    assert figures["pixel_accuracy"] == pytest.approx(accuracy_score(truth[counted], predicted[counted]))
    table = confusion_matrix(truth[counted], predicted[counted], labels=range(6))
    either = table.sum(0) + table.sum(1) - np.diagonal(table)
    assert np.array_equal(np.isnan(metric.iou()), either == 0)


def test_miou_counted_by_hand():
    metric = Confusion(4)
    metric.add(np.array([[0, 0, 1], [1, 2, 2]]), np.array([[0, 1, 1], [1, 0, 255]], np.uint8))
    # Class 0: 1 of 3; class 1: 2 of 3; class 2 is predicted once and wrong: 0 of 1; class 3 occurs nowhere.
    assert metric.iou()[:3] == pytest.approx([1 / 3, 2 / 3, 0])
    assert metric.values() == pytest.approx({"miou": 1 / 3, "pixel_accuracy": 3 / 5})


@pytest.mark.parametrize("wrong", [4, 254])
def test_a_class_that_there_is_not_is_an_error(wrong):
    with pytest.raises(DataError, match=r"labels hold classes 0\.\."):
        Confusion(4).add(np.zeros(2, np.int64), np.array([0, wrong], np.uint8))
    with pytest.raises(DataError, match="predictions hold"):
        Confusion(4).add(np.array([0, wrong]), np.zeros(2, np.uint8))


def naive_degrees(a: np.ndarray, b: np.ndarray) -> float:
    a, b = [float(x) for x in a], [float(x) for x in b]
    cosine = sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


@MANY
@given(seed=seeds, size=st.integers(1, 60), spread=st.sampled_from([0.05, 0.5, 5.0]))
def test_angular_error_is_the_naive_one(seed, size, spread):
    random = np.random.default_rng(seed)
    truth = random.normal(size=(size, 3))
    predicted = (truth + spread * random.normal(size=(size, 3))) * random.uniform(0.1, 9, (size, 1))
    truth[random.random(size) < 0.2] = 0  # nobody knows these
    known = np.flatnonzero(truth.any(1))
    metric, other = AngularError(), AngularError()
    for i, part in enumerate(parts(size, random)):
        (metric, other)[i % 2].add(predicted[part].astype(np.float32), truth[part].astype(np.float32))
    metric.merge(other)
    if not len(known):
        with pytest.raises(DataError, match="nothing to measure"):
            metric.values()
        return
    expected = np.array([naive_degrees(predicted[i], truth[i]) for i in known])
    figures = metric.values()
    assert figures["mean_deg"] == pytest.approx(expected.mean(), abs=1e-4)
    assert figures["median_deg"] == pytest.approx(np.median(expected), abs=AngularError.RESOLUTION / 2 + 1e-4)
    for limit in (11.25, 22.5, 30):
        assert figures[f"within_{limit:g}"] == pytest.approx((expected < limit).mean())


def test_angles_counted_by_hand():
    """0, 90 and 180 degrees, a prediction that points nowhere, and a pixel left out by the mask."""
    truth = np.tile(np.array([0, 0, 2.0]), (5, 1))
    predicted = np.array([[0, 0, 7.0], [3, 0, 0], [0, 0, -1], [0, 0, 0], [0, 0, -1]])
    metric = AngularError()
    metric.add(predicted, truth, valid=np.array([True, True, True, True, False]))
    figures = metric.values()
    assert figures["mean_deg"] == pytest.approx(90)
    assert figures["median_deg"] == pytest.approx(90, abs=0.01)
    assert figures["within_11.25"] == figures["within_30"] == 0.25


def test_small_angles_survive_float32():
    turn = np.radians(0.02)
    made = angles(np.array([math.sin(turn), 0, math.cos(turn)], np.float32), np.array([0, 0, 1], np.float32))
    assert made == pytest.approx(0.02, rel=1e-3)


def test_predictions_that_are_not_numbers_are_an_error():
    with pytest.raises(DataError, match="not numbers"):
        TopClasses().add(np.full((2, 3), np.nan), np.ones(2, int))
    with pytest.raises(DataError, match="not numbers"):
        AngularError().add(np.full((2, 3), np.nan), np.ones((2, 3)))


@pytest.mark.parametrize("metric", [TopClasses(), AngularError(), Confusion(3)])
def test_nothing_counted_is_an_error(metric):
    with pytest.raises(DataError, match="nothing to measure"):
        metric.values()
