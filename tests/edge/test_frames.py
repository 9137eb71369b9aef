"""Which frames a session sends, and that the other side gets the same integers from them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.frames import KEPT, REFERENCES, Extract, FrameEncoder, NextFrame, round_sticky
from shared.codec.frame import session_key
from shared.codec.frame_codec import FrameCodec, Latent
from shared.codec.latent_codec import LatentCodec
from support.context_tensors import context_tensors
from support.random_codec import random_tensors
from support.receiver import Receiver

N, V, GRID = 4, 5, (3, 4)
PLAIN = random_tensors(11, n=N, v_size=V, grid=GRID, qualities=(50, 90))
CODEC = FrameCodec(LatentCodec(PLAIN | context_tensors()))
NO_CONTEXT = FrameCodec(LatentCodec(PLAIN))
KEY = session_key(bytes(32), bytes(16), GRID)
HOLD = 0.3


def extract(s: NDArray[np.float64], hold: float = HOLD) -> Extract:
    """An image whose latent is `s` before rounding; v follows from z."""

    def run(quality: int, reference: Latent | None) -> Latent:
        z = round_sticky(s, None if reference is None else reference.z, hold)
        v = (z.reshape(N, -1).sum(1) // 4).astype(np.int32)
        return Latent(np.append(v, quality % 7).astype(np.int32), z, GRID, quality)

    return run


def image(seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).laplace(0, 4, (N, *GRID))


def made(codec: FrameCodec = CODEC, base_only: bool = False, intra_every_s: float = 60) -> FrameEncoder:
    return FrameEncoder(codec, KEY, base_only=base_only, intra_every_s=intra_every_s)


def names(encoder: FrameEncoder, images: list[NDArray[np.float64]], quality: int = 50) -> list[str]:
    """The types of frames that are each confirmed at once, a second apart."""
    out = []
    for second, one in enumerate(images):
        sent = encoder.next(extract(one), quality, float(second))
        encoder.confirm(sent.number)
        out.append(sent.frame.name)
    return out


def same(one: Latent | None, other: Latent) -> bool:
    return one is not None and one.digest == other.digest


def test_a_still_scene_is_one_frame_and_then_none() -> None:
    rng = np.random.default_rng(0)
    noisy = [np.rint(image(0)) + rng.uniform(-0.79, 0.79, (N, *GRID)) for _ in range(10)]
    first = np.rint(image(0))
    assert names(made(), [first, *noisy]) == ["I"] + ["S"] * 10


def test_a_small_change_is_given_the_reference() -> None:
    moved = image(0)
    moved[0, 0, 0] += 5
    assert names(made(), [image(0), moved]) == ["I", "P"]
    # Without a context there is nothing to predict with; what did not change is still not sent.
    assert names(made(NO_CONTEXT), [image(0), moved, moved]) == ["I", "I", "S"]


def test_the_shortest_is_sent() -> None:
    """Own v or the reference's, P or I: whichever is shorter, over images near to each other and far apart."""
    seen = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        z = np.rint(image(seed)).astype(np.int32)
        near = z + np.rint(rng.normal(0, (0.4, 9)[seed % 2], z.shape)).astype(np.int32)
        vs = rng.integers(-6, 7, (40, V)).astype(np.int32)
        first = Latent(vs[0], z, GRID, 50)
        sizes = [len(CODEC.encode(Latent(v, near, GRID, 50), True, first)) for v in vs]
        second = Latent(vs[np.argmin(sizes)], near, GRID, 50)
        encoder = made()
        encoder.next(lambda *_, first=first: first, 50, 0)
        encoder.confirm(1)
        sent = encoder.next(lambda *_, second=second: second, 50, 1)
        with_its_v = Latent(first.v, near, GRID, 50)
        choice = {
            ("I", True): len(CODEC.encode(second)),
            ("P", True): min(sizes),
            ("P", False): len(CODEC.encode(with_its_v, False, first)),
        }
        assert len(sent.frame.payload) == min(choice.values())
        seen.add((sent.frame.name, sent.frame.own_v))
    assert seen == set(choice)


def test_only_confirmed_frames_are_referred_to() -> None:
    encoder = made()
    still = extract(image(0))
    assert [encoder.next(still, 50, 0).frame.name for _ in range(3)] == ["I", "I", "I"]
    encoder.confirm(2)
    sent = encoder.next(still, 50, 0)
    assert (sent.frame.name, sent.reference) == ("S", 2)


def test_a_frame_by_itself_every_so_often() -> None:
    assert names(made(intra_every_s=3), [image(0)] * 8) == ["I", "S", "S", "I", "S", "S", "I", "S"]


def test_another_quality_has_its_own_references() -> None:
    encoder = made()
    assert names(encoder, [image(0)] * 2, 50) == ["I", "S"]
    assert names(encoder, [image(0)] * 2, 60) == ["I", "S"]
    assert names(encoder, [image(0)] * 2, 50) == ["S", "S"]


def test_a_lost_reference_is_not_used_again() -> None:
    encoder = made()
    still = extract(image(0))
    encoder.confirm(encoder.next(still, 50, 0).number)
    sent = encoder.next(still, 50, 0)
    encoder.need_intra(sent.number)
    assert encoder.next(still, 50, 0).frame.name == "I"


def test_what_is_asked_for_as_intra() -> None:
    encoder = made()
    assert names(encoder, [image(0)]) == ["I"]
    assert encoder.next(extract(image(0)), 50, 0, intra=True).frame.name == "I"


def test_bases_alone_and_their_refinement() -> None:
    encoder, receiver = made(base_only=True), Receiver(CODEC, KEY, GRID)
    first = encoder.next(extract(image(0)), 50, 0)
    assert (first.frame.name, first.latent.z) == ("I base", None)
    assert same(receiver.receive(1, first.data), first.latent)
    encoder.confirm(1)
    again = encoder.next(extract(image(0)), 50, 0)
    assert (again.frame.name, again.reference) == ("S", 1)
    assert same(receiver.receive(2, again.data), first.latent)
    other = encoder.next(extract(image(1)), 50, 0)
    assert other.frame.name == "I base"
    assert same(receiver.receive(3, other.data), other.latent)
    for base in (first, again, other):
        more = encoder.refinement(base.number)
        assert more is not None
        assert (more.frame.name, more.reference) == ("I refinement", base.number)
        got = receiver.receive(more.number, more.data)
        assert got is not None
        np.testing.assert_array_equal(got.z, base.whole.z)
    assert encoder.refinement(99) is None


def test_a_refinement_that_is_gone_or_was_sent() -> None:
    encoder = made(base_only=True)
    for _ in range(KEPT + 1):
        encoder.next(extract(image(0)), 50, 0)
    assert encoder.refinement(1) is None
    assert encoder.refinement(2) is not None
    whole = made()
    whole.next(extract(image(0)), 50, 0)
    assert whole.refinement(1) is None


def test_what_is_kept_is_bounded() -> None:
    encoder = made()
    for seed in range(3 * KEPT):
        encoder.confirm(encoder.next(extract(image(seed)), 50, 0).number)
    assert len(encoder._kept) == KEPT
    assert len(encoder._references) == REFERENCES


steps = st.lists(
    st.tuples(
        st.integers(0, 3),  # what changes: nothing, noise, some elements, everything
        st.sampled_from([50, 50, 50, 90]),
        st.integers(1, 4),  # how many frames are in flight before answers come
        st.booleans(),  # whether an answer tells that the reference is lost
    ),
    min_size=1,
    max_size=40,
)


@given(steps, st.integers(0, 10**6), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=40)
def test_the_other_side_has_the_same_integers(
    steps: list[tuple[int, int, int, bool]], seed: int, context: bool, base_only: bool
) -> None:
    """Whatever happens, each frame decodes to its latent, or to NEED_INTRA where the receiver restarted."""
    codec = CODEC if context else NO_CONTEXT
    rng = np.random.default_rng(seed)
    encoder, receiver = made(codec, base_only), Receiver(codec, KEY, GRID)
    s, flying = image(seed), []
    change: list[Callable[[], NDArray[np.float64]]] = [
        lambda: s,
        lambda: s + rng.normal(0, 0.3, s.shape),
        lambda: s + (rng.random(s.shape) < 0.1) * rng.normal(0, 6, s.shape),
        lambda: rng.laplace(0, 4, s.shape),
    ]
    for second, (what, quality, in_flight, lost) in enumerate(steps):
        s = change[what]()
        sent = encoder.next(extract(s), quality, float(second))
        assert sent.frame.needs_reference == (sent.reference is not None)
        got = receiver.receive(sent.number, sent.data)
        if got is None:
            encoder.need_intra(sent.number)
            resent = encoder.next(extract(s), quality, float(second), intra=True)
            assert not resent.frame.needs_reference
            sent, got = resent, receiver.receive(resent.number, resent.data)
        assert same(got, sent.latent)
        flying.append(sent)
        while len(flying) >= in_flight:
            encoder.confirm(flying.pop(0).number)
        if lost:
            receiver.kept.clear()


def test_a_receiver_of_eight_always_has_the_reference() -> None:
    """With four in flight at most, and references that go back and forth between qualities."""
    rng = np.random.default_rng(5)
    encoder, receiver, flying = made(), Receiver(CODEC, KEY, GRID), []
    s = image(0)
    for second in range(300):
        if second % 3:
            s = s + (rng.random(s.shape) < 0.05) * rng.normal(0, 6, s.shape)
        sent = encoder.next(extract(s), (50, 50, 90)[second // 7 % 3], second / 10)
        assert same(receiver.receive(sent.number, sent.data), sent.latent)
        flying.append(sent.number)
        if len(flying) == 4:
            encoder.confirm(flying.pop(0))


def test_sticky_rounding_does_not_drift() -> None:
    """Over 1,000 frames of a latent that wanders, each element stays within its bound of the true one."""
    rng = np.random.default_rng(3)
    encoder, s, kept = made(intra_every_s=1e9), image(0), []
    for second in range(1000):
        s = s + rng.normal(0, 0.05, s.shape)
        sent: NextFrame = encoder.next(partial(_checked, s), 50, float(second))
        encoder.confirm(sent.number)
        kept.append(sent.frame.name)
    assert kept[0] == "I"
    assert "S" in kept
    assert "P" in kept


def _checked(s: NDArray[np.float64], quality: int, reference: Latent | None) -> Latent:
    latent = extract(s)(quality, reference)
    assert latent.z is not None
    assert np.abs(s - latent.z).max() <= 0.5 + HOLD
    return latent


@given(st.integers(0, 10**6), st.floats(0, 0.5))
@settings(max_examples=100)
def test_the_bound_of_sticky_rounding(seed: int, hold: float) -> None:
    rng = np.random.default_rng(seed)
    s = rng.normal(0, 5, (2, 3, 3)).astype(np.float32)
    reference = np.rint(s + rng.normal(0, 1, s.shape)).astype(np.int32)
    z = round_sticky(s, reference, hold)
    assert np.abs(s - z).max() <= 0.5 + hold + 1e-6
    held = np.abs(s - reference) <= 0.5 + hold
    np.testing.assert_array_equal(z[held], reference[held])
    np.testing.assert_array_equal(z[~held], np.rint(s)[~held])
    np.testing.assert_array_equal(round_sticky(s, None, hold), np.rint(s))


@pytest.mark.parametrize("unknown", [0, 7])
def test_what_is_not_known_is_not_confirmed(unknown: int) -> None:
    encoder = made()
    encoder.next(extract(image(0)), 50, 0)
    encoder.confirm(unknown)
    encoder.need_intra(unknown)
    assert encoder.next(extract(image(0)), 50, 0).frame.name == "I"
