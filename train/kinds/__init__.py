"""Losses, metrics, labels and sheets: one file per kind of answer, and the table of them."""

from __future__ import annotations

from train.kinds.classification import Classification
from train.kinds.depth import Depth
from train.kinds.embedding import Embedding
from train.kinds.multilabel import Multilabel
from train.kinds.normals import Normals
from train.kinds.segmentation import Segmentation
from train.kinds.training_kind import TrainingKind

TRAINING_KINDS: dict[str, TrainingKind] = {
    "classification": Classification(),
    "normals": Normals(),
    "segmentation": Segmentation(),
    "depth": Depth(),
    "embedding": Embedding(),
    "multilabel": Multilabel(),
}
