"""A source's frames as they are spooled: rounded as the one before, each by itself, within a budget."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from edge.groups import SAME_BYTES, Bounds, Group
from shared.bundle import Bundle
from shared.codec.frame import Packet
from shared.encoder import Encoder
from shared.errors import RequestError
from shared.session_packets import read_frame_id
from support.levels import write_levels

LOW, MIDDLE, HIGH = 10, 30, 80


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder(Bundle.open(write_levels(tmp_path_factory.mktemp("levels") / "bundle", video=True)))


@pytest.fixture
def make(encoder: Encoder) -> Callable[..., Group]:
    return lambda hold=0.3: Group(encoder, hold, window_s=10)


def image(seed: int = 0, noise: int = 0) -> Image.Image:
    scene = np.random.default_rng(seed).integers(0, 256, (64, 64, 3))
    scene = scene + np.random.default_rng(100 + noise).integers(-noise, noise + 1, scene.shape)
    return Image.fromarray(np.clip(scene, 0, 255).astype(np.uint8))


def test_ids_count_on_in_one_session(make: Callable[..., Group]) -> None:
    group = make()
    ids = [read_frame_id(group.id()) for _ in range(3)]
    assert [one[1] for one in ids if one] == [1, 2, 3]
    assert len({one[0] for one in ids if one}) == 1
    assert read_frame_id(make().id()) not in ids
    assert [read_frame_id(text) for text in ("s.00.1", f"s.{'0' * 32}.0", "0" * 32)] == [None] * 3


def test_where_nothing_moves_the_bytes_are_the_same(make: Callable[..., Group], encoder: Encoder) -> None:
    """Noise that would change some integers does not, and no error adds up."""
    group, bounds = make(), Bounds(MIDDLE)
    made = [group.code(image(noise=noise), bounds, 0.0) for noise in range(4)]
    alone = [encoder.encode(image(noise=noise), MIDDLE) for noise in range(4)]
    assert len({one.data for one in alone}) > 1
    assert len({one.data for one in made}) == 1
    assert made[0].data == alone[0].data
    assert made[0].expected > SAME_BYTES
    assert [one.expected for one in made[1:]] == [SAME_BYTES] * 3
    other = group.code(image(1), bounds, 0.0)
    front = encoder.read(image(1))
    u = encoder.latents(front.u, encoder.bundle.position(MIDDLE))[1]
    assert other.latent.z is not None
    assert np.abs(other.latent.z - u[0]).max() <= 1
    packet = Packet.unpack(other.data)
    assert not packet.frame.needs_reference  # it decodes by itself


def test_a_budget_lowers_the_quality_and_keeps_it(make: Callable[..., Group]) -> None:
    group = make()
    full = group.code(image(0), Bounds(HIGH), 0.0)
    assert full.latent.quality == HIGH
    small = len(group.code(image(1), Bounds(LOW), 0.0).data)
    group = make()
    assert group.code(image(0), Bounds(HIGH), 0.0).latent.quality == HIGH
    tight = Bounds(HIGH, allowed=small * 6 // 10)  # a frame is expected to take half of its own bytes
    assert group.code(image(0), tight, 1.0).expected == SAME_BYTES  # nothing moved: the quality costs nothing
    fell = group.code(image(1), tight, 1.0)
    assert fell.latent.quality < HIGH
    assert fell.expected <= small * 6 // 10
    roomy = Bounds(HIGH, allowed=10_000)
    assert group.code(image(2), roomy, 5.0).latent.quality == fell.latent.quality  # not within the window
    assert group.code(image(3), roomy, 12.0).latent.quality == HIGH
    nothing = group.code(image(4), Bounds(HIGH, allowed=0), 13.0)
    assert nothing.latent.quality == LOW
    assert nothing.expected > 0


def test_what_frames_took_is_learnt(make: Callable[..., Group]) -> None:
    group = make()
    before = group.code(image(0), Bounds(HIGH), 0.0).expected
    for _ in range(100):
        group.learn(300, 30)
    after = group.code(image(1), Bounds(HIGH), 0.0)
    assert after.expected < before
    assert after.expected == pytest.approx(len(after.data) / 10, abs=2)


def test_a_bound_of_each_frame(make: Callable[..., Group], encoder: Encoder) -> None:
    group, least = make(), len(encoder.encode(image(0), LOW).data)
    bounds = Bounds(HIGH, bytes_max=least + 20)
    assert len(group.code(image(0), bounds, 0.0).data) <= least + 20
    with pytest.raises(RequestError, match="does not fit 5 bytes"):
        make().code(image(0), Bounds(HIGH, bytes_max=5), 0.0)
