"""Metrics of the kinds against independent implementations, and that counting apart is counting together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
metrics = pytest.importorskip("sklearn.metrics")
neighbors = pytest.importorskip("sklearn.neighbors")

from shared.errors import DataError  # noqa: E402 - after the parts that may be missing
from shared.kinds import KINDS  # noqa: E402
from train.kinds import TRAINING_KINDS  # noqa: E402
from train.kinds.label_form import IGNORE  # noqa: E402
from train.kinds.multilabel import average_precision, present  # noqa: E402
from train.kinds.training_kind import MapKind  # noqa: E402
from train.rooms import SEMANTIC_CLASSES  # noqa: E402


def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def counted(kind: str, predicted: np.ndarray, truth: np.ndarray, pieces: int = 1) -> dict[str, float]:
    metric = TRAINING_KINDS[kind].metric(truth.shape[1] if truth.ndim == 2 else 4)
    for some, its in zip(np.array_split(predicted, pieces), np.array_split(truth, pieces), strict=True):
        metric.add(some, its)
    return metric.values()


def test_every_kind_has_its_file() -> None:
    assert TRAINING_KINDS.keys() == KINDS.keys()


def test_depth_against_sklearn() -> None:
    truth = rng().uniform(0.5, 8, (3, 4, 5)).astype(np.float32)
    predicted = (truth * rng().uniform(0.6, 1.6, truth.shape)).astype(np.float32)
    truth[rng().random(truth.shape) < 0.3] = 0
    known = truth > 0
    wanted, made = truth[known], predicted[known]
    values = counted("depth", predicted, truth)
    assert values["abs_rel"] == pytest.approx(metrics.mean_absolute_percentage_error(wanted, made), rel=1e-5)
    assert values["rmse_m"] == pytest.approx(metrics.root_mean_squared_error(wanted, made), rel=1e-5)
    ratios = [max(a / b, b / a) for a, b in zip(made.tolist(), wanted.tolist(), strict=True)]
    assert values["delta_1.25"] == sum(ratio < 1.25 for ratio in ratios) / len(ratios)


def test_depth_that_cannot_be() -> None:
    truth = np.ones((1, 1, 2))
    assert counted("depth", np.array([[[-3.0, 1.0]]]), truth)["delta_1.25"] == 0.5
    with pytest.raises(DataError, match="not numbers"):
        counted("depth", np.array([[[np.nan, 1.0]]]), truth)
    with pytest.raises(DataError, match="nothing to measure"):
        counted("depth", truth, np.zeros((1, 1, 2)))


@pytest.mark.parametrize("steps", [4, 10_000])
def test_average_precision_against_sklearn(steps: int) -> None:
    """With few distinct scores there are ties."""
    random = rng()
    scores = random.integers(0, steps, (60, 7)) / steps
    truth = (random.random((60, 7)) < 0.3).astype(np.uint8)
    truth[:, 6] = 0
    expected = [metrics.average_precision_score(truth[:, k], scores[:, k]) for k in range(6)]
    assert [average_precision(scores[:, k], truth[:, k]) for k in range(6)] == pytest.approx(expected)
    assert average_precision(scores[:, 6], truth[:, 6]) is None
    assert counted("multilabel", scores, truth)["map"] == pytest.approx(np.mean(expected))
    unknown = random.random((60, 7)) < 0.2
    masked = np.where(unknown, IGNORE, truth)
    expected = [
        metrics.average_precision_score(truth[~unknown[:, k], k], scores[~unknown[:, k], k]) for k in range(6)
    ]
    assert counted("multilabel", scores, masked)["map"] == pytest.approx(np.mean(expected), rel=1e-5)


def test_embedding_against_sklearn() -> None:
    truth = rng().normal(size=(40, 6))
    predicted = truth + np.random.default_rng(7).normal(size=truth.shape) * 0.8  # not the truth's own draws
    values = counted("embedding", predicted, truth)
    pairs = metrics.pairwise.cosine_similarity(predicted, truth)
    assert values["cosine"] == pytest.approx(np.diagonal(pairs).mean(), abs=1e-6)
    nearest = neighbors.NearestNeighbors(n_neighbors=1, metric="cosine").fit(truth)
    found = nearest.kneighbors(predicted, return_distance=False)[:, 0]
    assert values["recall_at_1"] == (found == np.arange(40)).mean()
    assert 0.2 < values["recall_at_1"] < 1  # otherwise it would prove little
    assert counted("embedding", truth * 3, truth) == {"cosine": pytest.approx(1), "recall_at_1": 1}


CASES: dict[str, Any] = {
    "classification": (lambda r: r.dirichlet(np.ones(4), 12), lambda r: r.integers(0, 4, 12)),
    "normals": (lambda r: r.normal(size=(12, 2, 2, 3)), lambda r: r.normal(size=(12, 2, 2, 3))),
    "segmentation": (lambda r: r.integers(0, 4, (12, 2, 2)), lambda r: r.integers(0, 4, (12, 2, 2))),
    "depth": (lambda r: r.uniform(1, 2, (12, 2, 2)), lambda r: r.uniform(1, 2, (12, 2, 2))),
    "embedding": (lambda r: r.normal(size=(12, 3)), lambda r: r.normal(size=(12, 3))),
    "multilabel": (lambda r: r.random((12, 4)), lambda r: r.integers(0, 2, (12, 4))),
}


@pytest.mark.parametrize("kind", CASES)
def test_counted_apart_and_merged_is_counted_together(kind: str) -> None:
    make_predicted, make_truth = CASES[kind]
    predicted, truth = make_predicted(rng()), make_truth(np.random.default_rng(6))
    whole = counted(kind, predicted, truth)
    assert counted(kind, predicted, truth, pieces=3) == pytest.approx(whole)
    first, second = (TRAINING_KINDS[kind].metric(4) for _ in range(2))
    first.add(predicted[:5], truth[:5])
    second.add(predicted[5:], truth[5:])
    first.merge(second)
    assert first.values() == pytest.approx(whole)
    assert TRAINING_KINDS[kind].main.key in whole


def outputs(kind: str, seed: int) -> Any:
    shape = {"normals": (4, 3, 6, 6), "segmentation": (4, 5, 6, 6), "depth": (4, 1, 6, 6)}.get(kind, (4, 5))
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return made.abs() + 0.1 if kind == "depth" else made


@pytest.mark.parametrize("kind", TRAINING_KINDS)
def test_a_teacher_is_at_no_distance_from_itself_and_the_gradient_leads_to_it(kind: str) -> None:
    known, wanted = TRAINING_KINDS[kind], outputs(kind, 1)
    assert known.teacher_distance(wanted, wanted).tolist() == pytest.approx([0] * 4, abs=1e-5)
    out = outputs(kind, 2).requires_grad_()
    distance = known.teacher_distance(out, wanted)
    assert distance.shape == (4,)
    assert (distance > 0.01).all()
    distance.sum().backward()
    assert known.teacher_distance(out - 0.05 * out.grad, wanted).sum() < distance.sum()


@pytest.mark.parametrize("kind", [kind for kind, known in TRAINING_KINDS.items() if known.form is not None])
def test_a_network_learns_the_labels_and_ignores_what_has_none(kind: str) -> None:
    known = TRAINING_KINDS[kind]
    out, wanted = outputs(kind, 2).requires_grad_(), outputs(kind, 1)
    truth = known.as_labels(wanted)
    if kind == "normals":
        truth = np.rint(truth * 20).astype(np.int8)
    labels = torch.from_numpy(truth)
    loss = known.label_loss(out, labels)
    loss.backward()
    assert float(known.label_distance(out, labels).mean().detach()) == pytest.approx(loss.item(), rel=1e-4)
    assert known.label_loss(out - 0.5 * out.grad, labels) < loss
    if known.form.unlabelled is None:
        return
    nothing = torch.full_like(labels, known.form.unlabelled)
    assert known.label_loss(out, nothing) == 0
    half = labels.clone()
    half[:2] = known.form.unlabelled
    rest = known.label_loss(out[2:], labels[2:])
    assert known.label_loss(out, half).item() == pytest.approx(rest.item(), rel=1e-5)


def test_an_embedding_has_no_labels() -> None:
    with pytest.raises(DataError, match="no labels"):
        TRAINING_KINDS["embedding"].label_loss(torch.zeros(1, 2), torch.zeros(1))


def test_what_is_in_a_room() -> None:
    maps = np.zeros((2, 3, 3), np.uint8)
    maps[0, 1, 1] = 4
    assert [np.flatnonzero(row).tolist() for row in present(maps)] == [[0, 4], [0]]
    assert present(maps).shape == (2, len(SEMANTIC_CLASSES))


@pytest.mark.parametrize("kind", TRAINING_KINDS)
def test_maps_alone_can_be_painted(kind: str) -> None:
    assert isinstance(TRAINING_KINDS[kind], MapKind) == KINDS[kind].mapped


@pytest.mark.parametrize("kind", [kind for kind in TRAINING_KINDS if KINDS[kind].mapped])
def test_painted(kind: str) -> None:
    known = TRAINING_KINDS[kind]
    painted = known.painted(known.as_labels(outputs(kind, 1)))
    assert (painted.shape, painted.dtype) == ((4, 6, 6, 3), np.uint8)
    assert painted.std() > 0
