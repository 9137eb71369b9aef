"""The base of every packet that travels between steps, and kinds of fields."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]


def _to_utc(when: datetime) -> datetime:
    try:
        return when.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{when.isoformat()} is not in the years 1 to 9999 in UTC") from None


Moment = Annotated[AwareDatetime, AfterValidator(_to_utc)]
"""A field of a pydantic model; it holds UTC, and RFC 3339 in JSON."""


class Frozen(BaseModel):
    """Immutable, and without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")
