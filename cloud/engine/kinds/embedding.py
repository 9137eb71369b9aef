"""A vector (B, D) of any trailing axes of length 1 -> the same, L2-normalised if the task says so."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from cloud.engine.kinds.postprocess import Labels, Options, Postprocess, Shape
from shared.kinds.embedding import NUMBERS_MAX, EmbeddingOptions, EmbeddingResult
from shared.types import TaskQuery


class Embedding(Postprocess):
    def check_output(self, shape: Shape, labels: Labels, image: tuple[int, int]) -> None:
        if not 1 <= math.prod(shape) <= NUMBERS_MAX:
            raise ValueError(f"{math.prod(shape)} numbers; a vector has 1 to {NUMBERS_MAX}")
        if math.prod(shape) != shape[0]:
            raise ValueError(f"an output of {list(shape)} is no vector")

    def results(
        self, output: Tensor, labels: Labels, queries: Sequence[TaskQuery], options: Options
    ) -> list[EmbeddingResult]:
        normalised = EmbeddingOptions.model_validate(options).normalised
        # JSON has no other numbers than finite ones.
        vectors = output.flatten(1).float().nan_to_num()
        if normalised:
            vectors = vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1e-12)
        return [EmbeddingResult(normalised=normalised, vector=tuple(row)) for row in vectors.tolist()]
