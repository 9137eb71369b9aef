"""The base of every packet that travels between steps."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]


class Frozen(BaseModel):
    """Immutable, and without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")
