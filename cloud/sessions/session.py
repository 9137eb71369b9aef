"""One session: which frame is meant, what it refers to, and what it is answered with. Knows no transport and no queue.

    receive(number, data) --+--> Settled                        an S, a repeat, NEED_INTRA, an error: done at once
                            +--> FrameJob --decode, tails--> settle(job, latent, answer) -> Settled
                            |                 or the error --> fail(job, error) ---------> Settled
                            +--> None                           a repeat of a frame that is in work

A frame counts only once its check holds: one that is damaged, or refers to what is not here, changes nothing at all.
If the check holds for two references (once in some 10,000 frames by chance), neither is taken: NEED_INTRA.

The reply policy decides at the end: the results, "as the frame whose results were sent last", or only "received".
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cloud.sessions.references import Held, References
from cloud.sessions.sameness import essence
from shared.codec.frame import NAMED_BYTES, Frame, FrameType, Packet, Sent
from shared.codec.frame_codec import Coded, Latent
from shared.errors import ChecksumError, CorruptPayloadError, IsthmusError, RequestError
from shared.session_packets import (
    NUMBER_MAX,
    Answered,
    NeedIntra,
    Outcome,
    Received,
    Refused,
    SameAs,
    SessionOpen,
)

CONTENT_BYTES = 16  # of a digest that tells a repeat from another frame


@dataclass(frozen=True)
class SessionLimits:
    """references_max, references_bytes_max: what a session keeps of its frames. recent_max: answers it can repeat."""

    references_max: int = 8
    references_bytes_max: int = 4 << 20
    recent_max: int = 32


@dataclass(frozen=True)
class SessionCodec:
    """What a session needs to know of its bundle. check_quality: raises RequestError for one it does not have.

    own_grid: of packets without one. predicts: whether frames P can be decoded.
    """

    check_quality: Callable[[int], object]
    own_grid: tuple[int, int]
    predicts: bool


@dataclass(frozen=True, eq=False)
class FrameJob:
    """A frame to decode and answer. source: a Latent is known already and only asked.

    reference: what it refers to. content: of its data.
    """

    number: int
    frame: Frame
    source: Coded | Latent
    reference: Held | None
    content: bytes

    @property
    def is_base(self) -> bool:
        """Whether no z will be known."""
        return not self.source.has_z if isinstance(self.source, Coded) else self.source.z is None

    @property
    def refines(self) -> bytes | None:
        """The digest of the base whose refinement this is, if it is one."""
        is_refinement = self.frame.type is FrameType.I and not self.frame.own_v
        return self.reference.digest if is_refinement and self.reference else None


@dataclass(frozen=True)
class Accepted:
    """A frame for the archive. packet: by itself. chunk: id of the frame I at the root of its references, or empty."""

    packet: bytes
    chunk: str


@dataclass(frozen=True)
class Settled:
    """What a frame is answered with. accepted: None for one that was answered before, and one that is refused."""

    outcome: Outcome
    accepted: Accepted | None = None


@dataclass(frozen=True)
class _Recent:
    """A settled frame. digest: of its latent. outcome: None stands for the answer that is kept with the latent."""

    content: bytes
    digest: bytes
    outcome: Outcome | None


class Session:
    """All methods take no time to speak of; use them from one thread."""

    def __init__(self, opened: SessionOpen, codec: SessionCodec, limits: SessionLimits | None = None) -> None:
        self.opened, self._codec = opened, codec
        self._key = opened.key
        limits = limits or SessionLimits()
        self._recent_max = limits.recent_max
        self.references = References(limits.references_max, limits.references_bytes_max)
        self._running: dict[int, bytes] = {}  # content by number
        self._recent: OrderedDict[int, _Recent] = OrderedDict()
        self._sent_last: tuple[int, bytes] | None = None  # number and essence
        self._base: tuple[int, bytes] | None = None  # number and digest of the last base

    def receive(self, number: int, data: bytes) -> Settled | FrameJob | None:
        """Takes a frame; see above. None: its answer comes as that of the same frame, which is in work."""
        try:
            if not 1 <= number <= NUMBER_MAX:
                raise RequestError(f"frame {number}: numbers are 1..{NUMBER_MAX}")
            content = hashlib.sha256(data).digest()[:CONTENT_BYTES]
            if number in self._running:
                _check_same(number, self._running[number], content)
                return None
            repeated = self._repeated(number, content)
            return repeated or self._read(number, Sent.unpack(data), content)
        except IsthmusError as error:
            return Settled(Refused(error))

    def settle(self, job: FrameJob, latent: Latent, answer: Answered | None) -> Settled:
        """A job is done. answer: None if nothing was asked."""
        self._running.pop(job.number, None)
        reference = job.reference
        root = reference.root if reference else job.number
        held = Held.of(latent, root, answer)
        self.references.put(held)
        if latent.z is None:
            self._base = job.number, held.digest
        return self._done(job.number, job.content, job.frame, held, reference, answer)

    def fail(self, job: FrameJob, error: Exception) -> Settled:
        """A job has no result. Nothing is kept of it, so it may be sent again."""
        self._running.pop(job.number, None)
        if isinstance(error, CorruptPayloadError) and job.reference is not None:
            # Its check held by chance, or for a reference of which two exist.
            return Settled(NeedIntra())
        return Settled(Refused(error))

    def last_base(self) -> tuple[int, bytes] | None:
        """Number and digest of the last frame of which the base alone came, used; None if it is no longer kept."""
        if self._base is None or self.references.get(self._base[1]) is None:
            return None
        self.references.use(self._base[1])
        return self._base

    def _repeated(self, number: int, content: bytes) -> Settled | None:
        """The answer to a frame that was settled a short while ago."""
        recent = self._recent.get(number)
        if recent is None:
            return None
        _check_same(number, recent.content, content)
        if recent.outcome is not None:
            return Settled(recent.outcome)
        held = self.references.get(recent.digest)
        if held is None or held.answer is None:  # no longer kept: it is answered like a new frame
            return None
        return Settled(held.answer)

    def _read(self, number: int, sent: Sent, content: bytes) -> Settled | FrameJob:
        """Raises IsthmusError."""
        frame, reference = sent.frame, None
        if frame.needs_reference:
            reference = self._reference(number, sent)
            if reference is None:
                return Settled(NeedIntra())
        elif not sent.fits(self._key, number, None):
            raise ChecksumError("the frame is damaged, or it belongs to another session; send it again")
        if frame.type is FrameType.P and not self._codec.predicts:
            raise RequestError("this bundle has no context, and cannot decode a frame P; send frames I and S")
        if frame.type is not FrameType.S:
            self._codec.check_quality(frame.quality)
        if reference is not None:
            self.references.use(reference.digest)
        if frame.type is FrameType.S:
            assert reference is not None
            return self._as_before(number, frame, reference, content)
        coded = Coded.of(frame, self.opened.grid, reference.latent if reference else None)
        return self._started(FrameJob(number, frame, coded, reference, content))

    def _reference(self, number: int, sent: Sent) -> Held | None:
        """The one reference that is meant."""
        eligible = {held.digest: held for held in self._eligible(sent.frame)}
        digest = sent.reference_among(self._key, number, eligible)
        return None if digest is None else eligible[digest]

    def _eligible(self, frame: Frame) -> Iterable[Held]:
        """The references that such a frame can have: for S any, for others of its quality, a base for a refinement."""
        if frame.type is FrameType.S:
            return self.references
        is_base = frame.type is FrameType.I
        return (
            held for held in self.references if held.quality == frame.quality and (held.z is None) == is_base
        )

    def _as_before(self, number: int, frame: Frame, reference: Held, content: bytes) -> Settled | FrameJob:
        """A frame S: the answer that is kept with its reference; if it is not, the latent is asked again."""
        frame = Frame(frame.type, reference.quality, frame.own_v, frame.has_z, b"")
        if reference.answer is None and self.opened.replies != "none":
            return self._started(FrameJob(number, frame, reference.latent, reference, content))
        return self._done(number, content, frame, reference, reference, reference.answer)

    def _started(self, job: FrameJob) -> FrameJob:
        self._running[job.number] = job.content
        return job

    def _done(
        self,
        number: int,
        content: bytes,
        frame: Frame,
        held: Held,
        reference: Held | None,
        answer: Answered | None,
    ) -> Settled:
        """Applies the reply policy, and remembers the answer."""
        outcome = self._outcome(number, answer)
        kept = None if isinstance(outcome, Answered) else outcome
        self._recent[number] = _Recent(content, held.digest, kept)
        self._recent.move_to_end(number)
        while len(self._recent) > self._recent_max:
            self._recent.popitem(last=False)
        opened = self.opened
        grid = None if opened.grid == self._codec.own_grid else opened.grid
        named = reference.digest[:NAMED_BYTES] if reference else None
        packet = Packet(opened.short_fingerprint, frame, grid, named).pack()
        chunk = opened.request_id(reference.root) if reference else ""
        return Settled(outcome, Accepted(packet, chunk))

    def _outcome(self, number: int, answer: Answered | None) -> Outcome:
        if answer is None:
            return Received()
        if self.opened.replies == "changes":
            now = essence(answer)
            if self._sent_last is not None and self._sent_last[1] == now:
                return SameAs(self._sent_last[0])
            self._sent_last = number, now
        return answer


def _check_same(number: int, first: bytes, second: bytes) -> None:
    if first != second:
        raise RequestError(f"frame {number} was sent before with other data; count on")
