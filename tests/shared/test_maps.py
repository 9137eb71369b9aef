"""Maps as packed arrays: what is packed is what is unpacked, and damage is an error."""

from __future__ import annotations

import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pydantic import ValidationError

from shared.errors import RemoteError
from shared.maps import MapArray, pack, unpack

SIDES = st.lists(st.integers(1, 9), min_size=2, max_size=3).map(tuple)


@given(
    st.sampled_from([np.int8, np.uint8, np.float32]).flatmap(
        lambda dtype: SIDES.flatmap(lambda shape: arrays(dtype, shape))
    )
)
def test_an_array_comes_back(values: NDArray[Any]) -> None:
    packed = pack(values)
    assert (packed.dtype, packed.shape) == (values.dtype.name, values.shape)
    back = unpack(packed)
    assert back.dtype == values.dtype
    assert back.tobytes() == values.tobytes()


PACKED = pack((np.arange(200).reshape(10, 20) % 7).astype(np.uint8))


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"data": b""}, "not the 200"),
        ({"data": PACKED.data[:-1]}, "not the 200"),
        ({"data": PACKED.data + b"x"}, "not the 200"),
        ({"data": b"\xff" + PACKED.data[1:]}, "damaged"),
        ({"data": PACKED.data[:-1] + bytes([PACKED.data[-1] ^ 1])}, "damaged"),
        ({"shape": (10, 19)}, "not the 190"),
        ({"shape": (10, 21)}, "not the 210"),
        ({"data": zlib.compress(bytes(201))}, "not the 200"),
    ],
)
def test_damaged_arrays(changed: dict[str, Any], text: str) -> None:
    with pytest.raises(RemoteError, match=text):
        unpack(PACKED.model_copy(update=changed))


@pytest.mark.parametrize(
    "changed",
    [{"dtype": "float64"}, {"compression": "lzma"}, {"shape": (9,)}, {"shape": (4097, 1)}, {"shape": (0, 1)}],
)
def test_arrays_that_are_none(changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MapArray.model_validate(PACKED.model_dump() | changed)


def test_a_bomb_takes_no_more_memory_than_its_shape() -> None:
    bomb = MapArray(dtype="uint8", shape=(10, 20), data=zlib.compress(bytes(64 << 20), 9))
    tracemalloc.start()
    try:
        with pytest.raises(RemoteError, match="not the 200"):
            unpack(bomb)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_float_array_has_four_bytes_a_number() -> None:
    packed = pack(np.ones((2, 3), np.float32))
    assert zlib.decompress(packed.data) == bytes.fromhex("0000803f") * 6  # little-endian
    with pytest.raises(RemoteError, match="not the 24"):
        unpack(packed.model_copy(update={"data": zlib.compress(bytes(6))}))
