"""Codes the latents of frames as payloads and back (version 2). Knows no session and no file.

A payload is one run of the range coder, v and then z, either of which may be left to a reference, a latent that both
sides have:

    by itself   v, then z given v
    given       v or the reference's, then z given v and the reference's z

Where the bundle has a context (`shared.codec.context`), z is coded pass by pass, each given what came before; otherwise
at once, as in version 1. Only a context can code z given a reference.

Legend: N channels of z, h x w latent grid, V elements of v, B payloads.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared.codec.context import Indices, Ints, Step, wrapped
from shared.codec.frame import Frame, FrameType
from shared.codec.latent_codec import LatentCodec
from shared.codec.rangecoder import SymbolReader, Tables, Writer
from shared.errors import CorruptPayloadError, RequestError


@dataclass(frozen=True, eq=False)
class Latent:
    """What one frame says.

    v: (V,) int32. z: (N, h, w) int32, or None where only the base is known. grid: h, w. quality: 0..100.
    """

    v: Ints
    z: Ints | None
    grid: tuple[int, int]
    quality: int

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 (32 bytes) over quality, grid and every integer; it names this latent as a reference."""
        head = np.array([self.quality, *self.grid, len(self.v)], "<i4").tobytes()
        z = b"" if self.z is None else self.z.astype("<i4").tobytes()
        return hashlib.sha256(b"isthmus latent" + head + self.v.astype("<i4").tobytes() + z).digest()

    @property
    def base(self) -> Latent:
        """The same without z."""
        return Latent(self.v, None, self.grid, self.quality)


@dataclass(frozen=True, eq=False)
class Coded:
    """A payload to decode.

    own_v, has_z: what it holds; without v of its own it needs a reference. given: whether z is coded given the
    reference's z. Raises ValueError where these do not go together.
    """

    payload: bytes
    grid: tuple[int, int]
    quality: int
    own_v: bool = True
    has_z: bool = True
    reference: Latent | None = None
    given: bool = False

    def __post_init__(self) -> None:
        if self.reference is None and (self.given or not self.own_v):
            raise ValueError("the payload needs a reference")
        if self.given and not self.has_z:
            raise ValueError("a payload without z is not coded given another z")

    @classmethod
    def of(cls, frame: Frame, grid: tuple[int, int], reference: Latent | None = None) -> Coded:
        """The payload of a frame I or P. Raises ValueError where it needs a reference, and none is given."""
        given = frame.type is FrameType.P
        return cls(frame.payload, grid, frame.quality, frame.own_v, frame.has_z, reference, given)

    @property
    def group(self) -> Hashable:
        """Payloads with equal groups can be decoded together."""
        return self.grid, self.has_z, self.given


class Sink(Protocol):
    """Takes the symbols of a payload in order."""

    def put(self, values: Ints, indices: Indices, tables: Tables) -> None: ...


# One run of symbols, channel by channel: values, the indices of their tables, the tables, and the cells (P,) that each
# channel goes through.
Visit = Callable[[Ints, Indices, Tables, Indices], None]


class _Meter:
    """Adds up ideal lengths, in bits."""

    def __init__(self) -> None:
        self.bits = 0.0

    def put(self, values: Ints, indices: Indices, tables: Tables) -> None:
        self.bits += tables.bits(values, indices)


class FrameCodec:
    """Payloads of one bundle. codec: its integers, loaded."""

    def __init__(self, codec: LatentCodec) -> None:
        self._codec = codec

    @property
    def predicts(self) -> bool:
        """Whether z can be coded given another z."""
        return self._codec.context is not None and self._codec.context.inter

    def encode(self, latent: Latent, own_v: bool = True, given: Latent | None = None) -> bytes:
        """The payload of v, if it is `own_v`, and of z, where the latent has one.

        given: a reference of the same quality and grid whose z is known. Raises RequestError.
        """
        writer = Writer()
        if own_v:
            self._put_v(writer, latent)
        if latent.z is not None:
            self._put_z(writer, latent, latent.z[None], given)
        return writer.finish()

    def bits(self, latent: Latent, given: Latent | None = None) -> tuple[float, float]:
        """Ideal lengths H_v and H_z in bits, escapes included. Raises RequestError."""
        v, z = _Meter(), _Meter()
        self._put_v(v, latent)
        if latent.z is not None:
            self._put_z(z, latent, latent.z[None], given)
        return v.bits, z.bits

    def cell_bits(self, latent: Latent, given: Latent | None = None) -> NDArray[np.float64]:
        """Ideal length of z in bits by its cells, (h, w), all channels together, escapes included; zeros for a base.

        A cell counts what its own elements cost where they stand in the coding order: with a context, cells that are
        coded late are cheaper for what their neighbours gave away. The sum is the H_z of `bits`. Raises RequestError.
        """
        cells = np.zeros(math.prod(latent.grid))

        def add(values: Ints, indices: Indices, tables: Tables, at: Indices) -> None:
            cells[at] += tables.symbol_bits(values, indices).reshape(-1, len(at)).sum(0)

        if latent.z is not None:
            self._visit_z(latent, latent.z[None], given, add)
        return cells.reshape(latent.grid)

    def _put_v(self, sink: Sink, latent: Latent) -> None:
        sink.put(latent.v, self._codec.v_indices(latent.quality), self._codec.v_tables)

    def _put_z(self, sink: Sink, latent: Latent, z: Ints, given: Latent | None) -> None:
        """z: (1, N, h, w)."""
        self._visit_z(latent, z, given, lambda values, indices, tables, _: sink.put(values, indices, tables))

    def _visit_z(self, latent: Latent, z: Ints, given: Latent | None, visit: Visit) -> None:
        """Calls `visit` with the symbols of z (1, N, h, w), run by run, in the order in which they are coded."""
        codec = self._codec

        def put(index: Indices, offset: Ints, tables: Tables, symbols: Ints, at: Indices) -> None:
            shifted = wrapped(symbols.astype(np.int64) - offset)
            visit(shifted.ravel(), index.ravel(), tables, at)

        if codec.context is None:
            self._check_given(given is not None)
            index, offset = codec.path(latent.v[None], *latent.grid)
            put(index, offset, codec.z_tables, z, np.arange(math.prod(latent.grid)))
            return
        tables = codec.z_tables if given is None else codec.p_tables

        def step_by_step(step: Step) -> None:
            own = z.reshape(1, z.shape[1], -1)[np.ix_(np.zeros(1, np.intp), step.which.own, step.cells.at)]
            put(step.table, step.offset, tables, own, step.cells.at)

        maps = codec.path.maps(latent.v[None], *latent.grid)
        codec.context.run(maps, z, self._reference([given]), step_by_step)

    def v_bytes(self, v: Ints, quality: int) -> int:
        """The share of v in a payload: its ideal length in whole bytes. Raises RequestError."""
        return math.ceil(self._codec.v_tables.bits(v, self._codec.v_indices(quality)) / 8)

    def decode(self, coded: Sequence[Coded]) -> list[Latent | CorruptPayloadError]:
        """The latent of each payload, or why it has none. All must be of one group."""
        out: list[Latent | CorruptPayloadError] = []
        readers, vs, sound = [], [], []
        for one in coded:
            reader = self._codec.reader(one.payload)
            try:
                v = self._v(one, reader)
            except CorruptPayloadError as error:
                out.append(error)
                continue
            sound.append(len(out))
            readers.append(reader)
            vs.append(v)
            out.append(Latent(v, None, one.grid, one.quality))
        if sound and coded[0].has_z:
            chosen = [coded[i] for i in sound]
            zs = self._z(chosen, readers, np.stack(vs))
            for i, one, v, z in zip(sound, chosen, vs, zs, strict=True):
                out[i] = z if isinstance(z, CorruptPayloadError) else Latent(v, z, one.grid, one.quality)
        return out

    def _v(self, one: Coded, reader: SymbolReader) -> Ints:
        """Raises CorruptPayloadError."""
        if not one.own_v:
            assert one.reference is not None  # checked when it was made
            return one.reference.v
        try:
            return reader.get(self._codec.v_indices(one.quality), self._codec.v_tables)
        except RequestError as error:
            raise CorruptPayloadError(f"the payload cannot be read: {error}") from None

    def _z(
        self, coded: Sequence[Coded], readers: Sequence[SymbolReader], v: Ints
    ) -> list[Ints | CorruptPayloadError]:
        """z (N, h, w) of each payload. v: (B, V)."""
        codec, (h, w) = self._codec, coded[0].grid
        z = np.zeros((len(coded), codec.channels, h, w), np.int32)
        failed: dict[int, CorruptPayloadError] = {}

        def get(index: Indices, offset: Ints, tables: Tables) -> Ints:
            out = np.zeros(index.shape, np.int32)
            for i, reader in enumerate(readers):
                if i not in failed:
                    try:
                        shifted = reader.get(index[i].ravel(), tables).reshape(index.shape[1:])
                    except CorruptPayloadError as error:
                        failed[i] = error
                        continue
                    out[i] = wrapped(shifted.astype(np.int64) + offset[i])
            return out

        if codec.context is None:
            self._check_given(coded[0].given)
            index, offset = codec.path(v, h, w)
            z[:] = get(index, offset, codec.z_tables)
        else:
            flat = z.reshape(len(z), codec.channels, h * w)
            tables = codec.p_tables if coded[0].given else codec.z_tables

            def visit(step: Step) -> None:
                own = np.ix_(np.arange(len(z)), step.which.own, step.cells.at)
                flat[own] = get(step.table, step.offset, tables)

            references = [one.reference if one.given else None for one in coded]
            codec.context.run(codec.path.maps(v, h, w), z, self._reference(references), visit)
        return [failed.get(i, z[i]) for i in range(len(z))]

    def _check_given(self, given: bool) -> None:
        if given:
            raise RequestError("this bundle has no context, and cannot code a frame given another one")

    def _reference(self, references: Sequence[Latent | None]) -> Ints | None:
        """z of the references, (B, N, h, w), or None for frames by themselves. Raises RequestError."""
        zs = [reference.z for reference in references if reference is not None]
        if not zs:
            return None
        self._check_given(not self.predicts)
        known = [z for z in zs if z is not None]
        if len(known) < len(references):
            raise RequestError("a frame is coded given one whose latent is not known")
        return np.stack(known)
