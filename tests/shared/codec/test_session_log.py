"""Logs of frames: golden bytes, round trips, and damage at every place."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.codec.frame import Frame, FrameType, session_key
from shared.codec.session_log import GAP_MS_MAX, LogHeader, LogReader, LogRecord, LogWriter
from shared.errors import (
    BitstreamError,
    ChecksumError,
    MalformedHeaderError,
    NotABitstreamError,
    RequestError,
    StreamTooLargeError,
    TruncatedError,
    UnsupportedVersionError,
)

HEADER = LogHeader(bytes(range(32)), bytes(range(16)), (16, 200), 1_764_421_200_000_000)
DIGEST = bytes(32)
I_FRAME = Frame(FrameType.I, 96, True, True, b"\x01\x02\x03")
S_FRAME = Frame(FrameType.S, 96, False, False, b"")


def record(frame: Frame, number: int, at_ms: int, reference: int | None = None) -> LogRecord:
    data = frame.pack(HEADER.key, number, DIGEST if frame.needs_reference else None)
    return LogRecord(number, at_ms, data, reference)


RECORDS = [record(I_FRAME, 1, 0), record(S_FRAME, 2, 200, 1), record(S_FRAME, 5, 400, 2)]


def written(records: list[LogRecord], header: LogHeader = HEADER) -> bytes:
    file = io.BytesIO()
    log = LogWriter(file, header)
    for one in records:
        log.append(one)
    return file.getvalue()


def read(data: bytes) -> tuple[list[LogRecord], BitstreamError | None]:
    """What can be read, and why the rest cannot."""
    out: list[LogRecord] = []
    try:
        for one in LogReader(io.BytesIO(data)):
            out.append(one)
    except BitstreamError as error:
        return out, error
    return out, None


def test_golden_bytes() -> None:
    data = written(RECORDS)
    assert data[:65].hex() == (
        "b901" + bytes(range(32)).hex() + bytes(range(16)).hex() + "10c801" + "0034dc52bb440600" + "2f83dcdf"
    )
    assert data[65:].hex() == "070000000c600102038134ad47929903c80100010206eb93f90ca103c801020302beebc72cb7e7"


def test_what_is_written_is_read() -> None:
    reader = LogReader(io.BytesIO(written(RECORDS)))
    assert reader.header == HEADER
    assert reader.header.key == session_key(bytes(range(32)), bytes(range(16)), (16, 200))
    assert list(reader) == RECORDS
    assert read(written([])) == ([], None)


records = st.lists(
    st.tuples(st.binary(max_size=30), st.integers(0, 10**6), st.integers(1, 300), st.integers(0, 3)),
    max_size=12,
)


@given(records, st.integers(1, 100), st.integers(1, 100), st.integers(0, 2**63 - 1))
def test_round_trip(given: list[tuple[bytes, int, int, int]], h: int, w: int, started_at_us: int) -> None:
    header = LogHeader(bytes(32), bytes(16), (h, w), started_at_us)
    number = at_ms = 0
    made = []
    for payload, gap_ms, step, back in given:
        number, at_ms = number + step, at_ms + gap_ms
        frame = Frame(FrameType.P, 7, False, True, payload) if 0 < back < number else I_FRAME
        made.append(record(frame, number, at_ms, number - back if frame.needs_reference else None))
    data = written(made, header)
    assert LogReader(io.BytesIO(data)).header == header
    assert read(data) == (made, None)


def test_a_log_that_was_cut_off() -> None:
    """At every place: what was whole is read, and then it is an error unless the cut fell between two records."""
    data, ends = written(RECORDS), [len(written(RECORDS[:n])) for n in range(4)]
    for cut in range(len(data)):
        if cut < ends[0]:
            with pytest.raises(TruncatedError):
                LogReader(io.BytesIO(data[:cut]))
            continue
        whole = sum(end <= cut for end in ends) - 1
        got, error = read(data[:cut])
        assert got == RECORDS[:whole]
        assert (error is None) == (cut in ends)
        assert error is None or isinstance(error, TruncatedError)


def test_a_log_with_a_flipped_bit() -> None:
    """At every place: an error, and never a record that was not written."""
    data, ends = written(RECORDS), [len(written(RECORDS[:n])) for n in range(4)]
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        got, error = read(bytes(damaged))
        assert got == RECORDS[: max(0, sum(end <= bit // 8 for end in ends) - 1)]
        assert error is not None


def test_records_that_were_taken_out_or_moved() -> None:
    """Frames of type S have the same bytes but for their number, and the chain of CRCs notices them too."""
    data, ends = written(RECORDS), [len(written(RECORDS[:n])) for n in range(4)]
    head, one, two, three = (data[a:b] for a, b in zip([0, *ends], ends, strict=False))
    assert isinstance(read(head + two + three)[1], ChecksumError)
    assert read(head + one + three)[0] == RECORDS[:1]
    assert isinstance(read(head + one + three + two)[1], ChecksumError)
    assert read(head + one + two + two)[0] == RECORDS[:2]


@given(st.binary(max_size=80))
@settings(max_examples=200)
def test_garbage_after_a_header(tail: bytes) -> None:
    got, error = read(written(RECORDS[:1]) + tail)
    assert got == RECORDS[:1]
    assert (error is None) == (not tail)


def test_each_error_has_its_name() -> None:
    for data, error, text in [
        (b"", TruncatedError, "the log is empty"),
        (b"\xb8" + bytes(80), NotABitstreamError, "0xb8"),
        (b"\xb9\x02" + bytes(80), UnsupportedVersionError, "version 2"),
        (b"\xb9\x01" + bytes(80), ChecksumError, "header"),
    ]:
        with pytest.raises(error, match=text):
            LogReader(io.BytesIO(data))
    error = read(written(RECORDS[:2]) + b"\xff\xff\xff\x7f" + bytes(9))[1]
    assert isinstance(error, StreamTooLargeError)
    assert str(error).startswith("the record after frame 2: a frame of ")
    error = read(written([]) + b"\x81\x00" + bytes(9))[1]
    assert isinstance(error, MalformedHeaderError)
    with pytest.raises(StreamTooLargeError):
        LogHeader(bytes(32), bytes(16), (5000, 1))
    with pytest.raises(ValueError, match="session of 16"):
        LogHeader(bytes(32), bytes(8), (4, 4))


@pytest.mark.parametrize(
    ("number", "at_ms", "text"),
    [
        (1, 300, "frame 1 cannot follow frame 1"),
        (2, 199, "199 ms cannot follow one at 200 ms"),
        (2, 201 + GAP_MS_MAX, "begin another log"),
    ],
)
def test_a_frame_that_does_not_go_on(number: int, at_ms: int, text: str) -> None:
    log = LogWriter(io.BytesIO(), HEADER)
    log.append(record(I_FRAME, 1, 200))
    with pytest.raises(RequestError, match=text):
        log.append(record(I_FRAME, number, at_ms))


def test_a_reference_that_cannot_be() -> None:
    """A sound record that no encoder writes: an S without a reference, an I with one, one before the first frame."""
    for one in (
        LogRecord(1, 0, record(S_FRAME, 1, 0, 1).data, None),
        LogRecord(2, 0, record(I_FRAME, 2, 0).data, 1),
        LogRecord(2, 0, record(S_FRAME, 2, 0, 1).data, 0),
    ):
        got, error = read(written([one]))
        assert (got, type(error)) == ([], MalformedHeaderError)
