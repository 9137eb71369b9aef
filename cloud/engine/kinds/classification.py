"""Logits (B, K) -> the best classes of a softmax."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cloud.engine.kinds.postprocess import Labels, Options, Postprocess, Shape, check_vector
from shared.kinds.classification import ClassificationOptions, ClassificationResult, ClassScore
from shared.types import TaskQuery


class Classification(Postprocess):
    def check_output(self, shape: Shape, labels: Labels, image: tuple[int, int]) -> None:
        check_vector(shape, labels)

    def results(
        self, output: Tensor, labels: Labels, queries: Sequence[TaskQuery], options: Options
    ) -> list[ClassificationResult]:
        temperature = ClassificationOptions.model_validate(options).temperature
        scores = torch.softmax(output.flatten(1) / temperature, 1)
        return [ClassificationResult(top=top) for top in top_scores(scores, labels, queries)]


def top_scores(scores: Tensor, labels: Labels, queries: Sequence[TaskQuery]) -> list[tuple[ClassScore, ...]]:
    """The best labels of each row of scores (B, K), best first, as many as its query's top_k."""
    most = min(max(query.top_k for query in queries), len(labels))
    values, indices = scores.topk(most)
    return [
        tuple(
            ClassScore(label=labels[i], index=i, score=min(1.0, max(0.0, score)))
            for score, i in zip(row[: query.top_k], best[: query.top_k], strict=True)
        )
        for row, best, query in zip(values.tolist(), indices.tolist(), queries, strict=True)
    ]
