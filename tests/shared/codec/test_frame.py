"""Containers of version 2: golden bytes, round trips, and everything that is not a frame."""

from __future__ import annotations

import contextlib
import hashlib
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.codec.frame import KEY_BYTES, SESSION_BYTES, Frame, FrameType, Packet, Sent, session_key
from shared.errors import (
    BitstreamError,
    ChecksumError,
    MalformedHeaderError,
    NotABitstreamError,
    StreamTooLargeError,
    TruncatedError,
)

KEY = bytes(range(KEY_BYTES))
ONE, OTHER = hashlib.sha256(b"one").digest(), hashlib.sha256(b"other").digest()
I, P, S = FrameType.I, FrameType.P, FrameType.S  # noqa: E741
KINDS = [
    (I, True, True),
    (I, True, False),
    (I, False, True),
    (P, True, True),
    (P, False, True),
    (S, False, False),
]


def frame(kind: tuple[FrameType, bool, bool], quality: int = 96, payload: bytes = b"\x01\x02\x03") -> Frame:
    return Frame(kind[0], quality, kind[1], kind[2], b"" if kind[0] is S else payload)


frames = st.builds(frame, st.sampled_from(KINDS), st.integers(0, 100), st.binary(max_size=40))


def named(one: Frame, digest: bytes = ONE) -> bytes | None:
    return digest if one.needs_reference else None


@pytest.mark.parametrize(
    ("kind", "in_session", "by_itself"),
    [
        (KINDS[0], "0c600102039a74", "b8aabbccdd0c600102033bd88b75"),
        (KINDS[1], "0460010203922c", "b8aabbccdd0460010203fa93fb45"),
        (KINDS[2], "086001020370db", "b8aabbccdd08607692c3ad3540bb800102037654d8ea"),
        (KINDS[3], "0d60010203192d", "b8aabbccdd0d607692c3ad3540bb8001020365e7f7f7"),
        (KINDS[4], "096001020335ed", "b8aabbccdd09607692c3ad3540bb80010203f38d4e37"),
        (KINDS[5], "020b6d", "b8aabbccdd02607692c3ad3540bb80bb7c36df"),
    ],
)
def test_golden_bytes(kind: tuple[FrameType, bool, bool], in_session: str, by_itself: str) -> None:
    one = frame(kind)
    assert one.pack(KEY, 7, named(one)).hex() == in_session
    ref = ONE[:8] if one.needs_reference else None
    assert Packet(b"\xaa\xbb\xcc\xdd", one, None, ref).pack().hex() == by_itself


@given(frames, st.integers(0, 2**32 - 1))
def test_in_a_session(one: Frame, number: int) -> None:
    data = one.pack(KEY, number, named(one))
    assert len(data) - len(one.payload) == (3 if one.type is S else 4)
    sent = Sent.unpack(data)
    assert sent.fits(KEY, number, named(one))
    assert (sent.frame.type, sent.frame.own_v, sent.frame.has_z) == (one.type, one.own_v, one.has_z)
    assert sent.frame.payload == one.payload
    if one.type is not S:
        assert sent.frame == one
    if one.needs_reference:
        assert sent.reference_among(KEY, number, [OTHER, ONE]) == ONE
        assert not sent.fits(KEY, number, None)


def test_a_check_holds_for_one_session_number_and_reference() -> None:
    one = frame(KINDS[3])
    sent = Sent.unpack(one.pack(KEY, 7, ONE))
    assert not sent.fits(KEY, 8, ONE)
    assert not sent.fits(bytes(KEY_BYTES), 7, ONE)
    assert sent.reference_among(KEY, 7, [OTHER]) is None


@given(frames, st.data())
def test_a_flipped_bit_is_noticed_as_often_as_two_bytes_can(one: Frame, data: st.DataObject) -> None:
    whole = one.pack(KEY, 1, named(one))
    at = data.draw(st.integers(0, 8 * len(whole) - 1))
    flipped = bytearray(whole)
    flipped[at // 8] ^= 1 << at % 8
    try:
        sent = Sent.unpack(bytes(flipped))
    except BitstreamError:
        return
    assert not sent.fits(KEY, 1, named(one))


def test_a_reference_that_is_not_certain_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Sent.unpack(frame(KINDS[3]).pack(KEY, 7, ONE))
    assert sent.reference_among(KEY, 7, [ONE, ONE]) == ONE
    monkeypatch.setattr("shared.codec.frame._check", lambda *_: sent.data[-2:])
    assert sent.reference_among(KEY, 7, [ONE, OTHER]) is None


grids = st.none() | st.tuples(st.integers(1, 100), st.integers(1, 100))


@given(frames, grids, st.binary(min_size=4, max_size=4))
def test_by_itself(one: Frame, grid: tuple[int, int] | None, fingerprint: bytes) -> None:
    reference = ONE[:8] if one.needs_reference else None
    packet = Packet(fingerprint, one, grid, reference)
    data = packet.pack()
    assert Packet.unpack(data) == packet
    if grid is None and reference is None:
        assert len(data) - len(one.payload) == 11


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda rest: b"\xb8" + rest))
@settings(max_examples=300)
def test_garbage_is_an_error_with_a_name(data: bytes) -> None:
    for parse in (Packet.unpack, Sent.unpack):
        with contextlib.suppress(BitstreamError):
            parse(data)


@given(st.binary(max_size=60))
@settings(max_examples=300)
def test_garbage_with_a_sound_crc(body: bytes) -> None:
    body = b"\xb8" + body
    try:
        packet = Packet.unpack(body + zlib.crc32(body).to_bytes(4, "little"))
    except BitstreamError:
        return
    assert packet.pack()[:-4] == body or packet.grid is not None


@pytest.mark.parametrize("cut", range(14))
def test_cut_short(cut: int) -> None:
    whole = Packet(b"\xaa\xbb\xcc\xdd", frame(KINDS[0])).pack()
    assert len(whole) == 14
    with pytest.raises(TruncatedError if cut < 11 else ChecksumError):
        Packet.unpack(whole[:cut])
    with pytest.raises(ChecksumError):
        Packet.unpack(whole + b"\0")


def test_each_error_has_its_name() -> None:
    with pytest.raises(NotABitstreamError):
        Packet.unpack(b"\xb7" + bytes(20))
    with pytest.raises(MalformedHeaderError):
        Sent.unpack(b"\x0f\x60\x00\x00")  # no such combination
    with pytest.raises(MalformedHeaderError):
        Sent.unpack(b"\x0c\x65\x00\x00")  # quality 101
    with pytest.raises(MalformedHeaderError):
        Sent.unpack(b"\x02\x00\x00\x00")  # S with a payload
    with pytest.raises(StreamTooLargeError):
        Packet(b"1234", frame(KINDS[0]), (5000, 1)).pack()
    with pytest.raises(ValueError, match="own_v"):
        Frame(P, 1, True, False, b"")
    with pytest.raises(ValueError, match="reference"):
        frame(KINDS[0]).pack(KEY, 1, ONE)


def test_the_key_of_a_session() -> None:
    whole, session = bytes(range(32)), bytes(range(100, 100 + SESSION_BYTES))
    expected = hashlib.sha256(b"isthmus session" + whole + session + b"\x10\x00\x2c\x01").digest()
    assert session_key(whole, session, (16, 300)) == expected
    with pytest.raises(ValueError, match="fingerprint of 32 bytes"):
        session_key(whole[:4], session, (16, 300))
