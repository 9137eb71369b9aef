"""What a server answers with: absent while it loads, there while it serves, gone once it ends."""

from __future__ import annotations

from typing import Generic, TypeVar

from shared.errors import NotReadyError

T = TypeVar("T")


class Ready(Generic[T]):
    """A value that becomes available when loading ends and is withdrawn when the server ends.

    Calling it returns the value, or raises NotReadyError, which clients answer by sending the request again.
    """

    def __init__(self, who: str) -> None:
        """who: names the server in the error, for example "the edge"."""
        self._who = who
        self._value: T | None = None
        self._why = f"{who} is loading its bundle; send the request again"

    def __call__(self) -> T:
        if self._value is None:
            raise NotReadyError(self._why)
        return self._value

    @property
    def value(self) -> T | None:
        """The value, or None while there is none."""
        return self._value

    def fill(self, value: T) -> None:
        self._value = value

    def empty(self) -> T | None:
        """Withdraws the value: new requests are refused. The caller still has to close what is returned."""
        value, self._value = self._value, None
        self._why = f"{self._who} is ending; send the request again"
        return value
