"""One session: references by digest, answers by policy, and nothing changes after a failed check."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cloud.sessions.session import FrameJob, Session, SessionCodec, SessionLimits, Settled
from shared.codec import frame as frame_module
from shared.codec.frame import Frame, FrameType, Packet
from shared.codec.frame_codec import FrameCodec, Latent
from shared.errors import ChecksumError, CorruptPayloadError, OverloadedError, RequestError, TruncatedError
from shared.session_packets import Answered, NeedIntra, Received, Refused, SameAs
from support.session_ends import (
    GRID,
    QUALITY,
    CloudEnd,
    EdgeEnd,
    answer_of,
    changed_latent,
    check_quality,
    open_of,
    random_latent,
    small_codec,
)


@pytest.fixture(scope="module")
def codec() -> FrameCodec:
    return small_codec()


@pytest.fixture
def cloud(codec: FrameCodec) -> CloudEnd:
    return CloudEnd(codec)


@pytest.fixture
def edge(codec: FrameCodec) -> EdgeEnd:
    return EdgeEnd(codec)


def outcome(settled: Settled | None) -> Any:
    assert settled is not None
    return settled.outcome


def refused(settled: Settled | None, kind: type[Exception], text: str = "") -> None:
    given = outcome(settled)
    assert isinstance(given, Refused), given
    assert isinstance(given.error, kind), given.error
    assert text in str(given.error)
    assert settled is not None
    assert settled.accepted is None


def state(cloud: CloudEnd) -> tuple[Any, ...]:
    """All that a frame may change, and the order of use."""
    session = cloud.session
    return ([held.digest for held in session.references], list(session._recent), dict(session._running))


def test_every_type_of_frame_is_decoded_and_answered(cloud: CloudEnd, edge: EdgeEnd) -> None:
    first = random_latent(1)
    second, third = changed_latent(first, 2), random_latent(3)
    base = random_latent(4, base=True)
    whole = Latent(base.v, random_latent(5).z, GRID, QUALITY)
    frames = [
        (edge.intra(1, first), first),
        (edge.predicted(2, second, first, own_v=False), second),
        (edge.predicted(3, third, second), third),
        (edge.same(4, first), first),
        (edge.intra(5, base), base),
        (edge.same(6, base), base),
        (edge.refinement(7, whole), whole),
    ]
    for number, (data, latent) in enumerate(frames, 1):
        assert outcome(cloud.receive(number, data)) == answer_of(latent)
    assert {n: latent.digest for n, latent in cloud.decoded.items()} == {
        n: latent.digest for n, (_, latent) in enumerate(frames, 1) if n not in (4, 6)
    }


def test_frames_in_flight_may_settle_in_any_order(cloud: CloudEnd, edge: EdgeEnd) -> None:
    first = random_latent(1)
    cloud.receive(1, edge.intra(1, first))
    latents = [changed_latent(first, seed) for seed in range(2, 6)]
    jobs = [cloud.start(n, edge.predicted(n, one, first)) for n, one in enumerate(latents, 2)]
    for job, latent in reversed(list(zip(jobs, latents, strict=True))):
        assert outcome(cloud.finish(job)) == answer_of(latent)
    # Sent in another order than numbered.
    assert outcome(cloud.receive(9, edge.same(9, latents[0]))) == answer_of(latents[0])
    assert outcome(cloud.receive(8, edge.same(8, latents[3]))) == answer_of(latents[3])


def test_a_repeat_gets_the_same_answer_and_no_work(cloud: CloudEnd, edge: EdgeEnd) -> None:
    data = edge.intra(1, random_latent(1))
    job = cloud.start(1, data)
    assert cloud.session.receive(1, data) is None  # in work: one answer for both
    first = cloud.finish(job)
    again = cloud.session.receive(1, data)
    assert isinstance(again, Settled)
    assert again.outcome == first.outcome
    assert (first.accepted is None, again.accepted is None) == (False, True)


def test_a_number_that_is_used_again_is_an_error(cloud: CloudEnd, edge: EdgeEnd) -> None:
    job = cloud.start(1, edge.intra(1, random_latent(1)))
    other = edge.intra(1, random_latent(2))
    refused(cloud.receive(1, other), RequestError, "frame 1 was sent before with other data")
    cloud.finish(job)
    before = state(cloud)
    refused(cloud.receive(1, other), RequestError, "frame 1 was sent before")
    assert state(cloud) == before


def test_the_repeats_that_are_remembered_are_few(codec: FrameCodec, edge: EdgeEnd) -> None:
    cloud = CloudEnd(codec, limits=SessionLimits(recent_max=3))
    latent = random_latent(1)
    cloud.receive(1, edge.intra(1, latent))
    for number in range(2, 20):
        cloud.receive(number, edge.same(number, latent))
    assert len(cloud.session._recent) == 3
    # Forgotten, and so answered as if it were new.
    assert outcome(cloud.receive(1, edge.intra(1, latent))) == answer_of(latent)


@pytest.mark.parametrize("kind", ["P", "S", "refinement"])
def test_what_refers_to_an_unknown_latent_needs_an_intra(cloud: CloudEnd, edge: EdgeEnd, kind: str) -> None:
    cloud.receive(1, edge.intra(1, random_latent(1)))
    cloud.receive(2, edge.intra(2, random_latent(2, base=True)))
    unknown = random_latent(7)
    data = {
        "P": edge.predicted(3, random_latent(8), unknown),
        "S": edge.same(3, unknown),
        "refinement": edge.refinement(3, unknown),
    }[kind]
    before = state(cloud)
    assert outcome(cloud.receive(3, data)) == NeedIntra()
    assert state(cloud) == before
    # The number is free for the frame I that follows, or another.
    assert outcome(cloud.receive(3, edge.intra(3, unknown))) == answer_of(unknown)


@pytest.mark.parametrize("kind", ["I", "I base", "P", "S", "refinement"])
def test_a_damaged_frame_changes_nothing(cloud: CloudEnd, edge: EdgeEnd, kind: str) -> None:
    first, base = random_latent(1), random_latent(2, base=True)
    cloud.receive(1, edge.intra(1, first))
    cloud.receive(2, edge.intra(2, base))
    data = {
        "I": edge.intra(3, random_latent(3)),
        "I base": edge.intra(3, random_latent(3, base=True)),
        "P": edge.predicted(3, changed_latent(first, 3), first),
        "S": edge.same(3, first),
        "refinement": edge.refinement(3, Latent(base.v, random_latent(3).z, GRID, QUALITY)),
    }[kind]
    before = state(cloud)
    for bit in range(8, 8 * len(data)):  # the type in the first byte says which answer it gets
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        given = outcome(cloud.receive(3, bytes(damaged)))
        if kind in ("I", "I base"):
            assert isinstance(given, Refused), given
        else:
            assert given == NeedIntra() or isinstance(given, Refused)
        assert state(cloud) == before
    settled = cloud.receive(3, data)
    assert isinstance(outcome(settled), Answered)


def test_a_frame_of_another_number_session_or_grid_is_not_taken(codec: FrameCodec, edge: EdgeEnd) -> None:
    latent = random_latent(1)
    for opened in (open_of(session=b"\1" * 16), replace_grid((4, 3)), replace_grid((2, 8))):
        cloud = CloudEnd(codec, opened)
        refused(cloud.receive(1, edge.intra(1, latent)), ChecksumError, "another session")
    refused(CloudEnd(codec).receive(2, edge.intra(1, latent)), ChecksumError)


def replace_grid(grid: tuple[int, int]) -> Any:
    return open_of().model_copy(update={"grid": grid})


def test_errors_of_frames_are_named(codec: FrameCodec, cloud: CloudEnd, edge: EdgeEnd) -> None:
    latent = random_latent(1)
    refused(cloud.receive(1, b""), TruncatedError)
    refused(cloud.receive(0, edge.intra(1, latent)), RequestError, "1..4294967295")
    refused(cloud.receive(2**32, edge.intra(1, latent)), RequestError, "1..4294967295")
    odd = Frame(FrameType.I, 51, True, True, b"abc").pack(edge.key, 1, None)
    refused(cloud.receive(1, odd), RequestError, "quality 51")
    corrupt = Frame(FrameType.I, QUALITY, True, True, b"\xff" * 30).pack(edge.key, 1, None)
    refused(cloud.receive(1, corrupt), CorruptPayloadError)
    # With the number still free.
    cloud.receive(1, edge.intra(1, latent))
    plain = CloudEnd(small_codec(context=False))
    plain.receive(1, EdgeEnd(plain.codec).intra(1, latent))
    p = Frame(FrameType.P, QUALITY, True, True, b"abc").pack(edge.key, 2, latent.digest)
    refused(plain.receive(2, p), RequestError, "no context")
    assert outcome(plain.receive(2, edge.same(2, latent))) == answer_of(latent)


def test_a_failed_job_leaves_its_number_free(cloud: CloudEnd, edge: EdgeEnd) -> None:
    latent = random_latent(1)
    data = edge.intra(1, latent)
    refused(cloud.session.fail(cloud.start(1, data), OverloadedError("full")), OverloadedError, "full")
    assert outcome(cloud.receive(1, data)) == answer_of(latent)


def test_a_corrupt_payload_given_a_reference_needs_an_intra(cloud: CloudEnd, edge: EdgeEnd) -> None:
    """As after a check that held by chance."""
    first = random_latent(1)
    cloud.receive(1, edge.intra(1, first))
    data = Frame(FrameType.P, QUALITY, True, True, b"\xff" * 30).pack(edge.key, 2, first.digest)
    assert outcome(cloud.receive(2, data)) == NeedIntra()
    assert outcome(cloud.receive(2, edge.same(2, first))) == answer_of(first)


def test_a_check_that_holds_for_two_references_takes_neither(
    cloud: CloudEnd, edge: EdgeEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = random_latent(1), random_latent(2)
    cloud.receive(1, edge.intra(1, first))
    cloud.receive(2, edge.intra(2, second))
    # Every check is the same now, as if digests collided.
    monkeypatch.setattr(frame_module, "_check", lambda *_: b"\0\0")
    before = state(cloud)
    assert outcome(cloud.receive(3, edge.same(3, first))) == NeedIntra()
    assert outcome(cloud.receive(3, edge.predicted(3, changed_latent(first, 3), first))) == NeedIntra()
    assert state(cloud) == before


def test_two_latents_of_one_digest_are_both_dropped(
    cloud: CloudEnd, edge: EdgeEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Latent, "digest", bytes(32))
    cloud.receive(1, edge.intra(1, random_latent(1)))
    assert len(cloud.session.references) == 1
    cloud.receive(2, edge.intra(2, random_latent(2)))
    assert len(cloud.session.references) == 0
    assert cloud.session.references.bytes == 0
    assert outcome(cloud.receive(3, edge.same(3, random_latent(1)))) == NeedIntra()


def test_a_restart_of_the_cloud_needs_an_intra_and_goes_on(codec: FrameCodec, edge: EdgeEnd) -> None:
    first = random_latent(1)
    cloud = CloudEnd(codec)
    cloud.receive(1, edge.intra(1, first))
    cloud = CloudEnd(codec)
    second = changed_latent(first, 2)
    assert outcome(cloud.receive(2, edge.predicted(2, second, first))) == NeedIntra()
    assert outcome(cloud.receive(3, edge.intra(3, second))) == answer_of(second)
    assert outcome(cloud.receive(4, edge.same(4, second))) == answer_of(second)


def test_a_restarted_edge_of_another_session_is_not_mixed_up(codec: FrameCodec) -> None:
    """Frames of before its restart that come late belong to another key."""
    cloud = CloudEnd(codec, open_of(session=b"\1" * 16))
    before, after = EdgeEnd(codec), EdgeEnd(codec, open_of(session=b"\1" * 16))
    latent = random_latent(1)
    assert outcome(cloud.receive(1, after.intra(1, latent))) == answer_of(latent)
    assert outcome(cloud.receive(2, before.same(2, latent))) == NeedIntra()
    assert outcome(cloud.receive(2, after.same(2, latent))) == answer_of(latent)


def test_references_are_few_and_those_that_are_used_stay(codec: FrameCodec, edge: EdgeEnd) -> None:
    cloud = CloudEnd(codec, limits=SessionLimits(references_max=3))
    kept = random_latent(0)
    cloud.receive(1, edge.intra(1, kept))
    for number in range(2, 40, 2):
        cloud.receive(number, edge.intra(number, random_latent(number)))
        assert outcome(cloud.receive(number + 1, edge.same(number + 1, kept))) == answer_of(kept)
        assert len(cloud.session.references) <= 3
    gone = random_latent(4)
    assert outcome(cloud.receive(99, edge.same(99, gone))) == NeedIntra()


def test_references_are_bounded_in_bytes(codec: FrameCodec, edge: EdgeEnd) -> None:
    cloud = CloudEnd(codec, limits=SessionLimits(references_bytes_max=10_000))
    for number in range(1, 30):
        latent = random_latent(number)
        assert outcome(cloud.receive(number, edge.intra(number, latent))) == answer_of(latent)
        references = cloud.session.references
        assert references.bytes == sum(held.bytes for held in references) <= 10_000
    assert 2 <= len(references) < 8
    # Too large to keep at all: every frame is answered, none can be referred to.
    cloud = CloudEnd(codec, limits=SessionLimits(references_bytes_max=100))
    assert outcome(cloud.receive(1, edge.intra(1, latent))) == answer_of(latent)
    assert len(cloud.session.references) == 0


def test_an_answer_that_is_not_kept_is_made_again_for_an_s(codec: FrameCodec, edge: EdgeEnd) -> None:
    latent = random_latent(1)
    size = CloudEnd(codec)
    size.receive(1, edge.intra(1, latent))
    [held] = size.session.references
    without = replace(held, answer=None)
    cloud = CloudEnd(codec, limits=SessionLimits(references_bytes_max=without.bytes))
    cloud.receive(1, edge.intra(1, latent))
    assert [held.answer for held in cloud.session.references] == [None]
    job = cloud.session.receive(2, edge.same(2, latent))
    assert isinstance(job, FrameJob)
    assert isinstance(job.source, Latent)
    assert job.source.digest == latent.digest
    assert outcome(cloud.finish(job)) == answer_of(latent)


def test_replies_of_changes_are_the_same_until_something_changes(codec: FrameCodec, edge: EdgeEnd) -> None:
    cloud = CloudEnd(codec, open_of("changes"))
    first, second = random_latent(1), random_latent(2)
    assert outcome(cloud.receive(1, edge.intra(1, first))) == answer_of(first)
    assert outcome(cloud.receive(2, edge.same(2, first))) == SameAs(1)
    assert outcome(cloud.receive(3, edge.intra(3, first))) == SameAs(1)
    assert outcome(cloud.receive(4, edge.intra(4, second))) == answer_of(second)
    assert outcome(cloud.receive(5, edge.same(5, second))) == SameAs(4)
    assert outcome(cloud.receive(6, edge.same(6, first))) == answer_of(first)
    assert outcome(cloud.receive(7, edge.same(7, first))) == SameAs(6)
    # Repeats get what they got.
    assert outcome(cloud.receive(4, edge.intra(4, second))) == answer_of(second)
    assert outcome(cloud.receive(5, edge.same(5, second))) == SameAs(4)
    # A base says less, and that is a change.
    base = first.base
    assert outcome(cloud.receive(8, edge.intra(8, base))) == answer_of(base)


def test_replies_of_none_confirm_and_ask_nothing(codec: FrameCodec, edge: EdgeEnd) -> None:
    cloud = CloudEnd(codec, open_of("none"))
    first = random_latent(1)
    for data in (edge.intra(1, first), edge.same(2, first), edge.predicted(3, random_latent(3), first)):
        number = {0: 1}.get(len(cloud.session._recent), len(cloud.session._recent) + 1)
        settled = cloud.receive(number, data)
        assert outcome(settled) == Received()
        assert settled is not None
        assert settled.accepted is not None


def test_accepted_frames_are_packets_that_name_their_root(codec: FrameCodec, edge: EdgeEnd) -> None:
    cloud = CloudEnd(codec)
    first = random_latent(1)
    second, third = changed_latent(first, 2), changed_latent(first, 3)
    base = random_latent(4, base=True)
    whole = Latent(base.v, random_latent(5).z, GRID, QUALITY)
    frames = [
        (edge.intra(1, first), None, ""),
        (edge.predicted(2, second, first), first, 1),
        (edge.predicted(3, third, second), second, 1),
        (edge.same(4, third), third, 1),
        (edge.intra(5, base), None, ""),
        (edge.refinement(6, whole), base, 5),
        (edge.predicted(7, second, whole), whole, 5),
        (edge.same(8, second), second, 5),  # the digest of frame 2 as well; the newer one counts
    ]
    for number, (data, reference, root) in enumerate(frames, 1):
        settled = cloud.receive(number, data)
        assert settled is not None
        assert settled.accepted is not None
        packet = Packet.unpack(settled.accepted.packet)
        assert packet.reference == (reference.digest[:8] if reference else None)
        assert (packet.grid, packet.frame.quality) == (None, QUALITY)
        assert settled.accepted.chunk == (f"s.{bytes(16).hex()}.{root}" if root else "")


def test_the_last_base_can_be_refined_while_it_is_kept(codec: FrameCodec, edge: EdgeEnd) -> None:
    cloud = CloudEnd(codec, limits=SessionLimits(references_max=2))
    assert cloud.session.last_base() is None
    base = random_latent(1, base=True)
    cloud.receive(1, edge.intra(1, base))
    assert cloud.session.last_base() == (1, base.digest)
    whole = Latent(base.v, random_latent(5).z, GRID, QUALITY)
    job = cloud.start(2, edge.refinement(2, whole))
    assert job.refines == base.digest
    cloud.finish(job)
    assert cloud.session.last_base() == (1, base.digest)
    for number in (3, 4):
        cloud.receive(number, edge.intra(number, random_latent(number)))
    assert cloud.session.last_base() is None


@pytest.mark.parametrize("answered", [0, 30])
def test_ten_thousand_silent_sessions_take_little_memory(codec: FrameCodec, answered: int) -> None:
    """What one takes, measured over 200; each after so many frames."""
    knows = SessionCodec(check_quality, GRID, codec.predicts)
    latents = [random_latent(seed) for seed in range(answered)]
    ends = [EdgeEnd(codec, open_of("changes", session=i.to_bytes(16))) for i in range(200)]
    frames = [[edge.intra(n, one) for n, one in enumerate(latents, 1)] for edge in ends]
    gc.collect()
    tracemalloc.start()
    clouds = []
    for i in range(200):
        cloud = CloudEnd(codec, open_of("changes", session=i.to_bytes(16)))
        cloud.session = Session(cloud.session.opened, knows, SessionLimits(references_bytes_max=16_384))
        for number, data in enumerate(frames[i], 1):
            cloud.receive(number, data)
        cloud.decoded.clear()
        clouds.append(cloud.session)
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    each = taken / len(clouds)
    print(f"{each:.0f} bytes a session after {answered} frames")
    assert each < (8_000 if answered == 0 else 8_000 + 16_384 + 32 * 600)


def test_integers_of_any_size_survive_being_kept(cloud: CloudEnd, edge: EdgeEnd) -> None:
    for number, reach in enumerate((100, 127, 128, 32_767, 32_768, 2**31 - 1), 1):
        z = np.full((4, *GRID), reach, np.int32)
        z[0, 0, 0] = -reach - 1
        latent = Latent(random_latent(number).v, z, GRID, QUALITY)
        cloud.receive(number, edge.intra(number, latent))
        kept = next(iter(cloud.session.references)).latent
        assert kept.digest == latent.digest
        assert (kept.z.dtype, kept.v.dtype) == (np.int32, np.int32)  # type: ignore[union-attr]
