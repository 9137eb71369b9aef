"""The kinds of answers, one file each, and the table of them. Whoever meets a kind by name asks the table."""

from __future__ import annotations

from typing import Any

from shared.kinds.classification import Classification
from shared.kinds.depth import Depth
from shared.kinds.embedding import Embedding
from shared.kinds.kind import Kind
from shared.kinds.multilabel import Multilabel
from shared.kinds.normals import Normals
from shared.kinds.segmentation import Segmentation

KINDS: dict[str, Kind[Any]] = {
    kind.name: kind
    for kind in (Classification(), Normals(), Segmentation(), Depth(), Embedding(), Multilabel())
}
