"""Vectors as lists, as bytes and as text."""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.errors import RemoteError
from shared.kinds.embedding import NUMBERS_MAX, Embedding, EmbeddingResult

VECTORS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50)


def embedding(vector: list[float]) -> EmbeddingResult:
    return EmbeddingResult(normalised=False, vector=tuple(vector))


@given(VECTORS)
def test_json_holds_the_same_float32_numbers_in_few_digits(vector: list[float]) -> None:
    text = embedding(vector).model_dump_json()
    for number in json.loads(text, parse_float=Decimal)["vector"]:
        assert len(Decimal(number).normalize().as_tuple().digits) <= 9
    back = EmbeddingResult.model_validate_json(text)
    assert back.array().tobytes() == np.asarray(vector, np.float32).tobytes()


@given(VECTORS)
def test_base64_is_of_little_endian_float32(vector: list[float]) -> None:
    result = embedding(vector)
    packed = result.with_vectors("base64")
    assert base64.b64decode(packed.vector.base64) == np.asarray(vector, "<f4").tobytes()
    assert EmbeddingResult.model_validate_json(packed.model_dump_json()) == packed
    assert packed.with_vectors("base64") == packed
    assert packed.with_vectors("list") == result == result.with_vectors("list")


@pytest.mark.parametrize(
    "vector",
    [
        [],
        [float("nan")],
        [float("inf")],
        [1e39],
        {"base64": ""},
        {"base64": "AAA="},
        {"base64": "?"},
        [0.0] * (NUMBERS_MAX + 1),
    ],
)
def test_vectors_that_are_none(vector: object) -> None:
    with pytest.raises(ValidationError):
        EmbeddingResult.model_validate({"normalised": False, "vector": vector})


def test_bytes_that_are_no_numbers() -> None:
    with pytest.raises(RemoteError, match="5 bytes"):
        Embedding().read(SimpleNamespace(vector=b"12345", normalised=False))


def test_text() -> None:
    assert Embedding().lines(embedding([3, 4])) == ["2 numbers, length 5.000: 3.000 4.000"]
    assert Embedding().lines(embedding([0, 0, 1, 0, 0])) == [
        "5 numbers, length 1.000: 0.000 0.000 1.000 0.000 ..."
    ]
    assert Embedding().cells(embedding([3, 4])) == (["2 numbers", "length 5.00"],)
