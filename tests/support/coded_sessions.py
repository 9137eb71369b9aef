"""Sessions of made-up cameras, coded as an edge codes them: frames I, bases, refinements, P and S, as records."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cloud.archive.frames import FrameReader, Known
from cloud.archive.records import Record
from shared.codec.frame import NAMED_BYTES, Frame, FrameType, Packet
from shared.codec.frame_codec import Coded, FrameCodec, Latent
from shared.codec.latent_codec import LatentCodec
from shared.codec.session_log import LogHeader, LogRecord, LogWriter
from shared.kinds.classification import ClassificationResult, ClassScore
from shared.types import TaskQuery
from support.archives import at
from support.context_tensors import context_tensors
from support.random_codec import random_latents, random_tensors

GRID = (3, 4)
MARK = b"\xaa\xbb\xcc\xdd"
FINGERPRINT = MARK + bytes(28)
PLAIN = random_tensors(11, n=4, v_size=5, grid=GRID)
LATENT_CODEC = LatentCodec(PLAIN | context_tensors())
CODEC = FrameCodec(LATENT_CODEC)
HELD = 8  # latents that the server of these sessions holds


def made_up_bundle(fingerprint: bytes = FINGERPRINT, grid: tuple[int, int] = GRID) -> Any:
    """What a reader of frames needs of a bundle."""
    task = SimpleNamespace(name="classification", kind="classification", labels=())
    return SimpleNamespace(
        fingerprint=fingerprint[:4],
        quality=lambda quality: quality,
        manifest=SimpleNamespace(
            codec={"grid": grid},
            name="made-up",
            fingerprint=fingerprint.hex(),
            preprocess=SimpleNamespace(height=64, width=64),
        ),
        tasks=(task,),
        task=lambda name: task,
    )


def reader() -> FrameReader:
    return FrameReader(made_up_bundle(), LATENT_CODEC, 64)


def label_of(latent: Latent) -> str:
    """What `NamingModel` answers for a latent."""
    return _label(latent.v if latent.z is None else latent.z)


def _label(numbers: NDArray[np.int32]) -> str:
    return hashlib.sha256(numbers.astype("<i4").tobytes()).hexdigest()[:16]


class NamingModel:
    """Answers with a name of the integers that it is asked about; counts how many images that were."""

    def __init__(self, base: bool = True) -> None:
        self.codec = LATENT_CODEC
        self.base_tasks = frozenset({"classification"} if base else ())
        self.images = 0

    def answer(
        self,
        z: NDArray[np.int32],
        queries: Sequence[Sequence[TaskQuery]],
        qualities: Sequence[int],
    ) -> list[dict[str, ClassificationResult]]:
        self.images += len(z)
        top = [(ClassScore(label=_label(one), index=0, score=1.0),) for one in z]
        return [
            {query.name: ClassificationResult(top=best) for query in image}
            for best, image in zip(top, queries, strict=True)
        ]

    answer_base = answer

    def warm_up(self) -> None: ...


@dataclass
class CodedSession:
    """One camera's session. Each method gives the record of one more frame; `latents` has what each record says.

    held: latents that the server holds, with the request id that their chunk begins with, the last used at the end.
    frames: each frame, and what it refers to. codec: made of `tensors`; qualities: from the first to the last.
    """

    camera: str
    seed: int
    session: str = "00"
    grid: tuple[int, int] = GRID
    number: int = 0
    held: OrderedDict[bytes, tuple[Latent, str]] = field(default_factory=OrderedDict)
    latents: dict[str, Latent] = field(default_factory=dict)
    frames: list[tuple[Frame, Latent | None]] = field(default_factory=list)
    codec: FrameCodec = CODEC
    tensors: Any = field(default_factory=lambda: PLAIN)
    mark: bytes = MARK
    qualities: tuple[int, int] = (0, 100)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def intra(self, when: int, base: bool = False) -> Record:
        v, z = random_latents(self.tensors, 1, self.grid, int(self._rng.integers(1 << 30)))
        whole = Latent(
            v[0], z[0], self.grid, int(self._rng.integers(self.qualities[0], self.qualities[1] + 1))
        )
        said = whole.base if base else whole
        frame = Frame(FrameType.I, whole.quality, True, not base, self.codec.encode(said))
        return self._record(when, frame, None, said, "")

    def refinement(self, when: int) -> Record:
        """Of some base that is held, or a frame I if none is."""
        reference = self._some(lambda latent: latent.z is None)
        if reference is None:
            return self.intra(when)
        base, chunk = reference
        _, z = random_latents(self.tensors, 1, self.grid, int(self._rng.integers(1 << 30)))
        whole = Latent(base.v, z[0], self.grid, base.quality)
        frame = Frame(FrameType.I, base.quality, False, True, self.codec.encode(whole, own_v=False))
        return self._record(when, frame, base, whole, chunk)

    def predicted(self, when: int) -> Record:
        """Given some latent that is held, or a frame I if none is."""
        reference = self._some(lambda latent: latent.z is not None)
        if reference is None:
            return self.intra(when)
        old, chunk = reference
        assert old.z is not None
        rng = self._rng
        z = old.z + (rng.random(old.z.shape) < 0.2) * rng.integers(-3, 4, old.z.shape)
        own_v = bool(rng.integers(2))
        v = old.v + rng.integers(-1, 2, old.v.shape) if own_v else old.v
        new = Latent(v.astype(np.int32), z.astype(np.int32), self.grid, old.quality)
        frame = Frame(FrameType.P, old.quality, own_v, True, self.codec.encode(new, own_v, given=old))
        return self._record(when, frame, old, new, chunk)

    def same(self, when: int) -> Record:
        """As some latent that is held, or a frame I if none is."""
        reference = self._some(lambda _: True)
        if reference is None:
            return self.intra(when)
        old, chunk = reference
        return self._record(when, Frame(FrameType.S, old.quality, False, False, b""), old, old, chunk)

    def some(self, when: int) -> Record:
        """A frame of any type."""
        makers = [self.intra, lambda t: self.intra(t, base=True), self.refinement]
        makers += [self.predicted] * 5 + [self.same] * 3
        return makers[self._rng.integers(len(makers))](when)

    def log(self, file: BinaryIO, frame_ms: int = 200) -> None:
        """Writes all frames so far as a log."""
        header = LogHeader(FINGERPRINT, bytes(16), self.grid, 10**15)
        writer, numbers = LogWriter(file, header), dict[bytes, int]()
        for i, ((frame, reference), latent) in enumerate(
            zip(self.frames, self.latents.values(), strict=True), start=1
        ):
            digest = None if reference is None else reference.digest
            number = None if digest is None else numbers[digest]
            writer.append(LogRecord(i, i * frame_ms, frame.pack(header.key, i, digest), number))
            numbers[latent.digest] = i

    def _some(self, good: Any) -> tuple[Latent, str] | None:
        names = [name for name, (latent, _) in self.held.items() if good(latent)]
        if not names:
            return None
        name = names[self._rng.integers(len(names))]
        self.held.move_to_end(name)
        return self.held[name]

    def _record(
        self, when: int, frame: Frame, reference: Latent | None, latent: Latent, chunk: str
    ) -> Record:
        self.number += 1
        request_id = f"s.{self.session}.{self.number}"
        self.latents[request_id] = latent
        self.frames.append((frame, reference))
        self.held[latent.digest] = latent, chunk or request_id
        self.held.move_to_end(latent.digest)
        while len(self.held) > HELD:
            self.held.popitem(last=False)
        name = None if reference is None else reference.digest[:NAMED_BYTES]
        own = self.codec is not CODEC or self.grid == GRID
        data = Packet(self.mark, frame, None if own else self.grid, name).pack()
        return Record(self.camera, at(when), request_id, data, None, chunk)


def latent_of(content: Any) -> Latent:
    """What a record says, which must be known."""
    if isinstance(content, Known):
        return content.latent
    assert isinstance(content, Coded), content
    (latent,) = CODEC.decode([content])
    assert isinstance(latent, Latent)
    return latent


def moments(records: Sequence[Record]) -> list[datetime]:
    """Every time at which a replay can begin."""
    return sorted({record.received_at for record in records})
