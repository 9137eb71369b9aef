"""Logits (B, K) -> the likeliest labels, each by a sigmoid of its own."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from cloud.engine.kinds.classification import top_scores
from cloud.engine.kinds.postprocess import Labels, Options, Postprocess, Shape, check_vector
from shared.kinds.multilabel import MultilabelResult
from shared.types import TaskQuery


class Multilabel(Postprocess):
    def check_output(self, shape: Shape, labels: Labels, image: tuple[int, int]) -> None:
        check_vector(shape, labels)

    def results(
        self, output: Tensor, labels: Labels, queries: Sequence[TaskQuery], options: Options
    ) -> list[MultilabelResult]:
        scores = output.flatten(1).float().sigmoid()
        return [MultilabelResult(top=top) for top in top_scores(scores, labels, queries)]
