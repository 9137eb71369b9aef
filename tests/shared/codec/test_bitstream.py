"""The container: its bytes to the last one, its limits, and each error for its own cause."""

from __future__ import annotations

import contextlib
import dataclasses
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.codec.bitstream import (
    MAX_BV_BYTES,
    MAX_BZ_BYTES,
    MAX_GRID_CELLS,
    MAX_SIDE,
    MAX_STREAM_BYTES,
    Bitstream,
)
from shared.errors import (
    BitstreamError,
    ChecksumError,
    IsthmusError,
    MalformedHeaderError,
    NotABitstreamError,
    StreamTooLargeError,
    TrailingBytesError,
    TruncatedError,
    UnsupportedVersionError,
    exit_of,
)

STREAM = Bitstream(bytes.fromhex("c0ffee42"), 7, 16, 300, b"\x0a\x0b", b"\x01\x02\x03")

# Written by hand from the format's table; the CRC-32 by a bitwise implementation in test_crc_by_hand.
GOLDEN = bytes.fromhex(
    "b7"  # magic
    "01"  # version
    "c0ffee42"  # fingerprint
    "07"  # quality
    "10"  # h = 16
    "ac02"  # w = 300 = 0b10_0101100: 0x2c | 0x80, then 2
    "02"  # bytes of b_v
    "03"  # bytes of b_z
    "0a0b"  # b_v
    "010203"  # b_z
    "cf82df9f"  # CRC-32
)


def sealed(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "little")


def header(h: bytes = b"\x01", w: bytes = b"\x01", bv: bytes = b"\x00", bz: bytes = b"\x00") -> bytes:
    return bytes.fromhex("b701c0ffee4200") + h + w + bv + bz


def test_golden_bytes() -> None:
    assert STREAM.pack() == GOLDEN
    assert Bitstream.unpack(GOLDEN) == STREAM


def test_smallest_stream() -> None:
    golden = bytes.fromhex("b70100000000000101000080bc8b4b")
    stream = Bitstream(bytes(4), 0, 1, 1, b"", b"")
    assert stream.pack() == golden
    assert Bitstream.unpack(golden) == stream
    assert len(golden) == 15  # the overhead that the format's text promises


def test_crc_by_hand() -> None:
    crc = 0xFFFFFFFF
    for byte in GOLDEN[:-4]:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    assert GOLDEN[-4:] == (crc ^ 0xFFFFFFFF).to_bytes(4, "little")


grids = st.tuples(st.integers(1, MAX_SIDE), st.integers(1, MAX_SIDE)).filter(
    lambda g: g[0] * g[1] <= MAX_GRID_CELLS
)
streams = st.builds(
    lambda fingerprint, quality, grid, b_v, b_z: Bitstream(fingerprint, quality, *grid, b_v, b_z),
    st.binary(min_size=4, max_size=4),
    st.integers(0, 100),
    grids | st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.binary(max_size=300) | st.integers(0, MAX_BV_BYTES).map(bytes),
    st.binary(max_size=300) | st.integers(0, 16_383).map(bytes),
)


@given(streams)
@settings(deadline=None)
def test_round_trip_and_overhead(stream: Bitstream) -> None:
    data = stream.pack()
    assert Bitstream.unpack(data) == stream
    assert len(data) - len(stream.b_v) - len(stream.b_z) <= 20


def test_most_overhead_below_16_kib() -> None:
    stream = Bitstream(bytes(4), 100, 128, 128, bytes(MAX_BV_BYTES), bytes(16_383))
    assert len(stream.pack()) - MAX_BV_BYTES - 16_383 == 20


def test_largest_stream() -> None:
    stream = Bitstream(b"\xff" * 4, 100, 4, MAX_SIDE, bytes(MAX_BV_BYTES), bytes(MAX_BZ_BYTES))
    data = stream.pack()
    assert len(data) <= MAX_STREAM_BYTES
    assert Bitstream.unpack(data) == stream


@pytest.mark.parametrize(
    "change",
    [
        {"h": 0},
        {"w": 0},
        {"h": MAX_SIDE + 1, "w": 1},
        {"h": 1, "w": MAX_SIDE + 1},
        {"h": 129, "w": 128},
        {"b_v": bytes(MAX_BV_BYTES + 1)},
        {"b_z": bytes(MAX_BZ_BYTES + 1)},
    ],
)
def test_pack_refuses_beyond_the_limits(change: dict[str, object]) -> None:
    with pytest.raises(StreamTooLargeError):
        dataclasses.replace(STREAM, **change).pack()


@pytest.mark.parametrize("change", [{"fingerprint": b"abc"}, {"quality": 101}, {"quality": -1}])
def test_pack_refuses_a_programmers_mistake(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"fingerprint|quality"):
        dataclasses.replace(STREAM, **change).pack()


@pytest.mark.parametrize("length", range(len(GOLDEN)))
def test_every_truncation(length: int) -> None:
    with pytest.raises(TruncatedError):
        Bitstream.unpack(GOLDEN[:length])


@pytest.mark.parametrize("at", range(len(GOLDEN)))
def test_every_flipped_byte(at: int) -> None:
    for flip in range(1, 256):
        damaged = bytearray(GOLDEN)
        damaged[at] ^= flip
        with pytest.raises(BitstreamError):
            Bitstream.unpack(bytes(damaged))


def test_error_classes() -> None:
    cases: list[tuple[bytes, type[IsthmusError], str]] = [
        (b"", TruncatedError, "empty"),
        (b"a text", NotABitstreamError, "0x61"),
        (b"\xff\xd8\xff\xe0", NotABitstreamError, "0xff"),
        (GOLDEN[:1] + b"\x02" + GOLDEN[2:], UnsupportedVersionError, "version 2"),
        (GOLDEN[:1] + b"\x00" + GOLDEN[2:], UnsupportedVersionError, "version 0"),
        (GOLDEN + b"\x00", TrailingBytesError, "1 bytes follow"),
        (GOLDEN + GOLDEN, TrailingBytesError, "follow"),
        (GOLDEN[:-5] + b"\x00" + GOLDEN[-4:], ChecksumError, "CRC"),
        (GOLDEN[:2] + b"\x00" + GOLDEN[3:], ChecksumError, "CRC"),
        (GOLDEN[:-4] + bytes(4), ChecksumError, "CRC"),
        (sealed(GOLDEN[:6] + b"\x65" + GOLDEN[7:-4]), MalformedHeaderError, "quality level 101"),
        (b"\xb7\x01" + bytes(MAX_STREAM_BYTES), StreamTooLargeError, "at most"),
    ]
    for data, kind, text in cases:
        with pytest.raises(kind, match=text) as caught:
            Bitstream.unpack(data)
        assert type(caught.value) is kind
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("h", b"\x00"),
        ("w", b"\x00"),
        ("h", b"\x80\x20"),  # 4096
        ("bv", b"\x80\x80\x04"),  # 65,536
        ("bz", b"\xff\xff\xff\x7f"),  # 2**28 - 1, the largest varint of four bytes
        ("bz", b"\x80\x80\x80\x02"),  # 4,194,304
    ],
)
def test_hostile_sizes(field: str, value: bytes) -> None:
    with pytest.raises(StreamTooLargeError):
        Bitstream.unpack(sealed(header(**{field: value})))


def test_varint_of_five_bytes() -> None:
    with pytest.raises(MalformedHeaderError, match="28 bits"):
        Bitstream.unpack(sealed(header(bz=b"\xff\xff\xff\xff\x01")))


def test_damage_and_size_leave_by_their_own_status() -> None:
    assert exit_of(MalformedHeaderError()).http == 400
    assert exit_of(StreamTooLargeError()).http == 413


def test_grid_of_legal_sides_with_too_many_cells() -> None:
    with pytest.raises(StreamTooLargeError, match="4095 x 4095"):
        Bitstream.unpack(sealed(header(h=b"\xff\x1f", w=b"\xff\x1f")))


@pytest.mark.parametrize("field", ["h", "w", "bv", "bz"])
@pytest.mark.parametrize("written", [b"\x81\x00", b"\x81\x80\x00", b"\x80\x00", b"\x81\x80\x80\x00"])
def test_varint_that_is_not_the_shortest(field: str, written: bytes) -> None:
    # 1 (or 0) written in more bytes than it needs: one picture would have several streams.
    body = header(**{field: written})
    payload = b"x" if field in ("bv", "bz") and written[0] == 0x81 else b""
    with pytest.raises(MalformedHeaderError, match="shortest form"):
        Bitstream.unpack(sealed(body + payload))


@pytest.mark.parametrize("bz", [b"\xff\xff\xff\x01", b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff"])
def test_small_hostile_header_allocates_nothing(bz: bytes) -> None:
    data = sealed(header(h=b"\x80\x01", w=b"\x80\x01", bv=b"\xff\xff\x03", bz=bz))
    tracemalloc.start()
    try:
        with pytest.raises((TruncatedError, StreamTooLargeError, MalformedHeaderError)):
            Bitstream.unpack(data)
        assert tracemalloc.get_traced_memory()[1] < 20_000
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=60))
def test_any_bytes_give_a_stream_or_an_error(data: bytes) -> None:
    for candidate in (data, b"\xb7\x01" + data, sealed(b"\xb7\x01" + data)):
        with contextlib.suppress(BitstreamError):
            assert Bitstream.unpack(candidate).pack() == candidate


def test_payload_is_a_copy_of_plain_bytes() -> None:
    for view in (bytearray(GOLDEN), memoryview(GOLDEN)):
        stream = Bitstream.unpack(view)  # type: ignore[arg-type]
        assert type(stream.b_v) is type(stream.b_z) is type(stream.fingerprint) is bytes
        assert stream == STREAM
