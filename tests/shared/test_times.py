"""Capture times: RFC 3339 and microseconds there and back, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import RequestError
from shared.times import (
    captured_at_number,
    captured_at_of,
    parse_captured_at,
    parse_time,
    to_rfc3339,
)

LAST = datetime.max.replace(tzinfo=UTC)
ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
AFTER_1970 = st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30), timezones=ZONES)


@given(AFTER_1970)
def test_a_time_survives_text_and_wire(when: datetime) -> None:
    assert parse_captured_at(when.isoformat()) == when
    assert parse_captured_at(to_rfc3339(when)) == when
    assert captured_at_of(captured_at_number(when)) == when
    parsed = parse_captured_at(when.isoformat())
    assert parsed is not None
    assert parsed.utcoffset() == timedelta(0)


def test_the_number_counts_microseconds_since_1970() -> None:
    when = datetime(2026, 11, 22, 13, 0, 0, 250_000, tzinfo=UTC)
    assert captured_at_number(when) == 1_795_352_400_250_000
    assert captured_at_number(None) == 0
    assert captured_at_of(0) is None
    assert captured_at_of(captured_at_number(LAST)) == LAST


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("", None),
        ("2026-11-22T13:00:00Z", datetime(2026, 11, 22, 13, tzinfo=UTC)),
        ("2026-11-22t13:00:00z", datetime(2026, 11, 22, 13, tzinfo=UTC)),
        ("2026-11-22 14:00:00.5+01:00", datetime(2026, 11, 22, 13, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-11-22T13:00:00.123456789Z", datetime(2026, 11, 22, 13, 0, 0, 123_456, tzinfo=UTC)),
    ],
)
def test_texts(text: str, when: datetime | None) -> None:
    assert parse_captured_at(text) == when


@pytest.mark.parametrize(
    "text",
    [
        "yesterday",
        "1795352400",
        "2026-11-22",
        "2026-11-22T13:00:00",  # no zone
        "2026-11-22T13:00Z",
        "2026-W47-7T13:00:00Z",
        "2026-02-30T13:00:00Z",
        "2026-11-22T25:00:00Z",
        "2026-11-22T13:00:00+99:00",
        "0001-01-01T00:00:00+10:00",
        "٢٠٢٦-11-22T13:00:00Z",
        "x" * 10_000,
    ],
)
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(RequestError, match="RFC 3339 with a zone: 2026-11-22T13") as caught:
        parse_captured_at(text)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "text", ["1970-01-01T00:00:00Z", "1969-07-20T20:17:40Z", "1970-01-01T01:00:00+01:00"]
)
def test_a_time_up_to_the_start_of_1970_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="not after 1970"):
        parse_captured_at(text)
    with pytest.raises(RequestError, match="not after 1970"):
        captured_at_number(datetime.fromisoformat(text))


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(RequestError, match="no zone"):
        captured_at_number(datetime(2026, 11, 22))


@pytest.mark.parametrize("number", [-1, captured_at_number(LAST) + 1, 2**63 - 1, -(2**63)])
def test_a_number_out_of_range_is_refused(number: int) -> None:
    with pytest.raises(RequestError, match=f"captured_at is {number}"):
        captured_at_of(number)


def test_times_without_a_zone_are_utc() -> None:
    noon = datetime(2026, 11, 22, 12, tzinfo=UTC)
    assert parse_time("from", "2026-11-22T12:00:00") == noon
    assert parse_time("from", "2026-11-22T13:00:00+01:00") == noon
    assert parse_time("from", "2026-11-22T12:00:00Z").utcoffset() == timedelta(0)
