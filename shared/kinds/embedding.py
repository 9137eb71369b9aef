"""A vector for the whole image, by which images are compared: a network's last layer, or one made for the purpose."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat, field_serializer, field_validator

from shared.errors import RemoteError
from shared.frozen import Frozen
from shared.kinds.kind import Kind, Result

NUMBERS_MAX = 65_536  # of a vector
FIRST = 4  # numbers in a line


class EmbeddingOptions(Frozen):
    """normalised: vectors are divided by their L2 norm before they are returned."""

    normalised: bool = False


class VectorBytes(Frozen):
    """A vector's float32 numbers, little-endian."""

    dtype: Literal["float32"] = "float32"
    base64: str = Field(max_length=4 * -(-NUMBERS_MAX * 4 // 3))


Vector = tuple[FiniteFloat, ...] | VectorBytes


class EmbeddingResult(Result):
    kind: Literal["embedding"] = "embedding"
    normalised: bool = Field(description="whether the vector has been divided by its L2 norm")
    vector: Vector = Field(description="numbers, each a float32; or the same as bytes, if requested")

    @field_validator("vector")
    @classmethod
    def _float32(cls, vector: Vector) -> Vector:
        """The numbers as float32 holds them, so that every form of a vector is the same vector."""
        array = _numbers(vector)
        if not 1 <= len(array) <= NUMBERS_MAX:
            raise ValueError(f"a vector has 1 to {NUMBERS_MAX} numbers")
        if not np.isfinite(array).all():
            raise ValueError("a vector's numbers are finite, and fit a float32")
        return tuple(array.tolist()) if isinstance(vector, tuple) else vector

    @field_serializer("vector", when_used="json")
    def _short(self, vector: Vector) -> list[float] | VectorBytes:
        """The shortest decimals that are the same float32: half of what a float64 would take."""
        if isinstance(vector, VectorBytes):
            return vector
        return [float(str(number)) for number in np.asarray(vector, np.float32)]

    def array(self) -> NDArray[np.float32]:
        """(D,)."""
        return _numbers(self.vector)

    def with_vectors(self, form: str) -> Self:
        vector: Vector
        if form == "base64":
            vector = VectorBytes(base64=base64.b64encode(self.array().astype("<f4").tobytes()).decode())
        else:
            vector = tuple(self.array().tolist())
        return self.model_copy(update={"vector": vector})


def _numbers(vector: Vector) -> NDArray[np.float32]:
    """Raises ValueError for bytes that are no float32 numbers."""
    if isinstance(vector, VectorBytes):
        data = base64.b64decode(vector.base64, validate=True)
        return np.frombuffer(data, np.dtype("<f4")).astype(np.float32)
    with np.errstate(over="ignore"):
        return np.asarray(vector, np.float32)


class Embedding(Kind[EmbeddingResult]):
    name = "embedding"
    result = EmbeddingResult
    options = EmbeddingOptions
    columns = ("vector",)
    caption = "vector: how many numbers, and its length"

    def write(self, result: EmbeddingResult, message: Any) -> None:
        message.vector = result.array().astype("<f4").tobytes()
        message.normalised = result.normalised

    def read(self, message: Any) -> EmbeddingResult:
        if len(message.vector) % 4:
            raise RemoteError(f"a vector of {len(message.vector)} bytes holds no float32 numbers; ask again")
        numbers = np.frombuffer(message.vector, np.dtype("<f4")).tolist()
        return EmbeddingResult(normalised=message.normalised, vector=tuple(numbers))

    def lines(self, result: EmbeddingResult) -> list[str]:
        array = result.array()
        first = " ".join(f"{number:.3f}" for number in array[:FIRST])
        more = " ..." if len(array) > FIRST else ""
        return [f"{len(array)} numbers, length {np.linalg.norm(array):.3f}: {first}{more}"]

    def cells(self, result: EmbeddingResult) -> tuple[Sequence[str], ...]:
        array = result.array()
        return ([f"{len(array)} numbers", f"length {np.linalg.norm(array):.2f}"],)
