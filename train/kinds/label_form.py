"""How the labels of a task lie in an array.

Legend: B images, H x W pixels, K names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.image import UNLABELLED_CLASS

IGNORE = UNLABELLED_CLASS  # the class of a pixel, or the value of one of several labels, that nobody labelled


@dataclass(frozen=True)
class LabelForm:
    """How labels lie in an array: dtype, and whether each pixel or each image has one.

    several: an image has a value for each of K names. unlabelled: the value of a pixel, or of one of several labels,
    that nobody labelled. named: the names are classes, which a network's labels have to be, too.
    """

    name: str
    dtype: str
    per_pixel: bool = False
    components: int = 0  # of a vector a pixel; 0: a single value
    unlabelled: int | None = None
    several: bool = False
    named: bool = True

    def shape(self, size: tuple[int, int], names: int) -> tuple[int, ...]:
        """The shape of one image's labels. size: H and W. names: K."""
        if not self.per_pixel:
            return (names,) if self.several else ()
        return (*size, self.components) if self.components else size

    def mirrored(self, labels: NDArray[Any], flip: NDArray[np.bool_]) -> NDArray[Any]:
        """Labels (B, ...) of images that `network_input` mirrors where `flip` (B,)."""
        if not self.per_pixel or not flip.any():
            return labels
        labels = labels.copy()
        labels[flip] = labels[flip][:, :, ::-1]
        if self.components:  # x points right, so it changes its sign
            labels[flip, :, :, 0] = -labels[flip, :, :, 0]
        return labels


CLASS = LabelForm("a class", "int64")  # (B,), one of K
CLASSES = LabelForm("several classes", "uint8", unlabelled=IGNORE, several=True)  # (B, K), 1 where it applies
CLASS_MAP = LabelForm("a map of classes", "uint8", per_pixel=True, unlabelled=IGNORE)  # (B, H, W)
VECTOR_MAP = LabelForm(
    "a map of vectors", "int8", True, components=3, unlabelled=0, named=False
)  # (B, H, W, 3), 127 n
METRE_MAP = LabelForm("a map of metres", "float32", True, unlabelled=0, named=False)  # (B, H, W)
