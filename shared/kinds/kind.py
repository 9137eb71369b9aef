"""What all kinds of answers have in common: the base of their results, and the Protocol that each kind's file fulfils.

    tail output -> cloud.engine.kinds -> Result -> write -> message -> read -> Result -> lines, cells, tile
                   cloud                                 wire                  whoever asked

A kind whose name is no member of TaskResult in the contract travels as `Custom`: its name, and its result as JSON.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self, TypeVar

from PIL import Image

from shared.frozen import Frozen
from shared.maps import Colour, Map, MapArray, MapPng


class Result(Frozen):
    """One task's answer. Each kind's own fields follow; a map, if the kind has one, is its field `map`."""

    kind: str

    def with_vectors(self, form: str) -> Self:
        """The same result with its vector, if it has one, in this form: "list" or "base64"."""
        return self


class NoOptions(Frozen):
    """A kind whose tasks have no options."""


R = TypeVar("R", bound=Result)


class Kind(Protocol[R]):
    """One kind of answer: its result, on the wire and for a person.

    name: as manifests and requests have it. options: of a task of this kind, in its manifest entry. named: its outputs
    have names, one label each. mapped: its results come with a map if one is requested. columns: headings of a table
    of answers. caption: what its cells say.
    """

    name: str
    result: type[R]
    options: type[Frozen] = NoOptions
    named: bool = False
    mapped: bool = False
    columns: tuple[str, ...] = ()
    caption: str = ""

    def write(self, result: R, message: Any) -> None:
        """Fills the kind's message of the contract."""
        message.json = result.model_dump_json(exclude_none=True).encode()

    def read(self, message: Any) -> R:
        """Raises pydantic's ValidationError or RemoteError for a message that holds no such result."""
        return self.result.model_validate_json(message.json)

    def lines(self, result: R) -> list[str]:
        """The result for a person, a line or several; its JSON if the kind has no cells."""
        return [" ".join(cell) for cell in self.cells(result)] or [result.model_dump_json(exclude_none=True)]

    def cells(self, result: R) -> tuple[Sequence[str], ...]:
        """The result in short: for each of `columns` the lines of its cell."""
        return tuple([] for _ in self.columns)

    def best(self, result: R) -> tuple[str, float] | None:
        """The one label that stands for the image, with its score, if the kind has such a thing."""
        return None

    def agreement(self, one: R, other: R) -> float | None:
        """How far two results say the same, 0 to 1; None where the kind cannot say."""
        return None

    def tile(self, png: bytes) -> Image.Image:
        """A map's PNG file as an image to look at."""
        with Image.open(io.BytesIO(png)) as opened:
            return opened.copy()

    def legend(self, result: R) -> dict[int, tuple[Colour, str]]:
        """What the colours of the map mean, by class."""
        return {}

    def check_maps(self, task: str, labels: tuple[str, ...]) -> None:
        """Raises RequestError if no map can hold what a task of these labels answers."""
        return


def map_of(result: Result) -> Map | None:
    """The result's map, if its kind has maps and one was requested."""
    found = getattr(result, "map", None)
    return found if isinstance(found, MapPng | MapArray) else None


def largest(shares: Sequence[tuple[str, float]], shown: int, form: str) -> list[str]:
    """The first of named shares, those above 0, each as text."""
    return [f"{name} {share:{form}}" for name, share in shares[:shown] if share]


def overlap(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """What two divisions of an image into named shares have in common, 0 to 1."""
    return min(1.0, sum(min(share, other.get(name, 0.0)) for name, share in one.items()))


def write_map(found: Map | None, message: Any) -> None:
    """Fills a DenseMap; no map leaves it absent."""
    if isinstance(found, MapPng):
        message.png = found.file()
    elif found is not None:
        array = message.array
        array.dtype, array.compression, array.data = found.dtype, found.compression, found.data
        array.shape.extend(found.shape)


def read_map(message: Any) -> Map | None:
    """The map of a DenseMap. Raises ValidationError for an array that is none."""
    form = message.WhichOneof("map")
    if form == "png":
        return MapPng.of(message.png)
    if form != "array":
        return None
    array = message.array
    fields = {"dtype": array.dtype, "shape": tuple(array.shape), "compression": array.compression}
    return MapArray.model_validate({**fields, "data": array.data})
