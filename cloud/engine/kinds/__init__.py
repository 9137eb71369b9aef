"""From a tail's output to results: one file per kind of answer, and the table of them."""

from __future__ import annotations

from cloud.engine.kinds.classification import Classification
from cloud.engine.kinds.depth import Depth
from cloud.engine.kinds.embedding import Embedding
from cloud.engine.kinds.multilabel import Multilabel
from cloud.engine.kinds.normals import Normals
from cloud.engine.kinds.postprocess import Postprocess
from cloud.engine.kinds.segmentation import Segmentation

POSTPROCESS: dict[str, Postprocess] = {
    "classification": Classification(),
    "normals": Normals(),
    "segmentation": Segmentation(),
    "depth": Depth(),
    "embedding": Embedding(),
    "multilabel": Multilabel(),
}
