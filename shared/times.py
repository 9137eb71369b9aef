"""Moments: aware datetimes in Python, RFC 3339 in text, microseconds since 1970 in UTC on the wire and on disk.

Zero microseconds stand for "unknown" on the wire, and many cameras that lost their clock report 1970-01-01T00:00:00,
so a capture time lies after that moment.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from shared.errors import RequestError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_SPANS = {"m": "minutes", "h": "hours", "d": "days"}
_MAX_US = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND

# Not fromisoformat alone: it also takes week dates, times without a zone and dates without a time.
_RFC3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)  # at most nanoseconds; what is finer than a microsecond is cut off


def to_microseconds(when: datetime) -> int:
    """Microseconds since 1970, UTC. when: with its zone."""
    return (when - _EPOCH) // _MICROSECOND


def from_microseconds(number: int) -> datetime:
    """The inverse of `to_microseconds`, in UTC. Raises OverflowError beyond the years 1 to 9999."""
    return _EPOCH + number * _MICROSECOND


def to_rfc3339(when: datetime) -> str:
    """In UTC with all six decimals, so that texts sort as their times do."""
    return when.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_time(setting: str, text: str) -> datetime:
    """ISO 8601 -> UTC; without a zone it is taken as UTC. Raises RequestError about `setting`."""
    try:
        when = datetime.fromisoformat(text)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        expected = f"{text!r} is no time; give ISO 8601, as 2026-11-22T13:00:00Z"
        raise RequestError(expected, setting=setting) from None


def span_of(text: str) -> timedelta | None:
    """The time that "90d", "12h" or "30m" stands for; None for any other text."""
    found = re.fullmatch(r"(\d{1,6})([mhd])", text, re.ASCII)
    return None if found is None else timedelta(**{_SPANS[found[2]]: int(found[1])})


def parse_captured_at(text: str) -> datetime | None:
    """An RFC 3339 time in UTC; None for an empty text. Raises RequestError."""
    if not text:
        return None
    try:
        if _RFC3339.fullmatch(text):
            return check_captured_at(datetime.fromisoformat(text.upper()).astimezone(UTC))
    except (ValueError, OverflowError):  # a date that no calendar has
        pass
    raise RequestError(
        f"{text[:64]!r} is not a capture time; it is written as RFC 3339 with a zone: 2026-11-22T13:00:00.250Z"
    )


def captured_at_of(number: int) -> datetime | None:
    """A capture time from the wire; None where it is 0, which means unknown. Raises RequestError."""
    if number == 0:
        return None
    if not 0 < number <= _MAX_US:
        raise RequestError(
            f"captured_at is {number}; it counts microseconds since 1970-01-01T00:00:00 UTC, and 0 means unknown"
        )
    return from_microseconds(number)


def captured_at_number(when: datetime | None) -> int:
    """A capture time for the wire. Raises RequestError."""
    return 0 if when is None else to_microseconds(check_captured_at(when))


def check_captured_at(when: datetime) -> datetime:
    """The time itself. Raises RequestError where it has no zone or does not lie after the start of 1970."""
    if when.tzinfo is None:
        raise RequestError(f"the capture time {when.isoformat()} has no zone")
    if when <= _EPOCH:
        raise RequestError(f"the capture time {when.isoformat()} is not after 1970-01-01T00:00:00 UTC")
    return when
