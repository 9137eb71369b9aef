"""Any quality between a bundle's levels, and the best one that fits a number of bytes, with the front run once."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shared.bundle import EDGE, EXTRACTOR, MANIFEST, Bundle
from shared.codec.frame import Packet
from shared.codec.frame_codec import Coded, FrameCodec, Latent
from shared.codec.latent_codec import LatentCodec
from shared.encoder import Encoder, highest_fitting
from shared.errors import BundleDamagedError, RequestError
from shared.image import to_input
from shared.sealed import seal
from support.levels import QUALITIES, SIZE, write_levels
from support.service import png

LOW, HIGH = QUALITIES[0], QUALITIES[-1]
GAIN = 4 ** (len(QUALITIES) - 1)  # of the highest


@dataclass
class Counted:
    """An ONNX Runtime session that counts its runs."""

    session: Any
    runs: list[dict[str, Any]] = field(default_factory=list)

    def run(self, names: list[str], given: dict[str, Any]) -> Any:
        self.runs.append(given)
        return self.session.run(names, given)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(write_levels(tmp_path_factory.mktemp("levels") / "bundle"))


@pytest.fixture
def encoder(bundle: Bundle) -> Encoder:
    made = Encoder(bundle)
    made._front, made._extractor = Counted(made._front), Counted(made._extractor)
    return made


def decode(bundle: Bundle, packet: Packet) -> Latent:
    """What a receiver gets from a packet on the bundle's grid."""
    frame = packet.frame
    coded = Coded(frame.payload, (4, 4), frame.quality, frame.own_v, frame.has_z)
    (latent,) = FrameCodec(LatentCodec(bundle.entropy())).decode([coded])
    assert isinstance(latent, Latent), latent
    return latent


def runs(encoder: Encoder) -> tuple[int, int]:
    """Of the front, of the extractor."""
    return len(encoder._front.runs), len(encoder._extractor.runs)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def sizes(bundle: Bundle) -> list[dict[int, int]]:
    """For each image, its bytes at each quality."""
    encoder = Encoder(bundle)
    return [{q: len(encoder.encode(png(s), q).data) for q in range(LOW, HIGH + 1)} for s in range(4)]


@pytest.mark.parametrize("quality", [LOW, 11, 29, 30, 31, 55, HIGH])
def test_a_quality(encoder: Encoder, bundle: Bundle, quality: int) -> None:
    """The gain is that of the quality's position, and the receiver gets the very z."""
    encoded = encoder.encode(png(0), quality)
    assert runs(encoder) == (1, 1)
    packet = Packet.unpack(encoded.data)
    assert packet == encoded.packet
    assert packet.frame.quality == encoded.quality == quality
    assert packet.grid is None  # the bundle's own
    [given] = encoder._extractor.runs  # type: ignore[attr-defined]
    position = np.interp(quality, QUALITIES, range(len(QUALITIES)))
    np.testing.assert_array_equal(given["position"], np.array([position], np.float32))
    z = np.rint(given["u"] * np.float32(4) ** np.float32(position)).astype(np.int32)
    decoded = decode(bundle, packet)
    assert np.abs(decoded.z - z[0]).max() <= 1  # the power's last bit may round the other way
    assert decoded.digest == encoded.latent.digest == encoder.latent(given["u"], quality).digest
    sizes = encoded.bytes
    assert (sizes.total, sizes.b_v + sizes.b_z) == (len(encoded.data), len(packet.frame.payload))
    assert sizes.total - sizes.b_v - sizes.b_z == 11
    assert 0 < sizes.b_v < sizes.b_z


def test_the_default_quality(tmp_path: Path) -> None:
    encoder = Encoder(Bundle.open(write_levels(tmp_path / "bundle", default_quality=42)))
    assert encoder.encode(png(0)).quality == 42


def test_elements_are_held_as_far_as_asked_or_as_the_bundle_says(tmp_path: Path) -> None:
    encoder = Encoder(Bundle.open(write_levels(tmp_path / "bundle", video=True, hold=0.5)))
    u = encoder.read(png(0)).u
    first = encoder.latent(u, HIGH)
    assert first.z is not None

    def changed(steps: float, hold: float | None = None) -> int:
        """Elements that change as all move by so many steps."""
        moved = encoder.latent(u + np.float32(steps / GAIN), HIGH, first, hold).z
        assert moved is not None
        return int(np.count_nonzero(moved != first.z))

    assert changed(0.4) == changed(0.4, 0.5) == 0 < changed(0.4, 0.0)
    assert changed(0.9) == changed(0.9, 0.5) > 0 == changed(0.9, 1.0)


def test_a_quality_that_the_bundle_has_not(encoder: Encoder) -> None:
    for quality in (LOW - 1, HIGH + 1):
        with pytest.raises(RequestError, match=f"quality {quality} is not one of this bundle's: 10 to 80"):
            encoder.encode(png(0), quality)
    assert runs(encoder) == (0, 0)


def test_one_level_is_the_plain_codec(tmp_path: Path) -> None:
    """The same integers without levels write the same payloads, and there is no other quality."""
    bundle = Bundle.open(write_levels(tmp_path / "bundle", qualities=(50,)))
    encoder = Encoder(bundle)
    encoded = encoder.encode(png(0))
    assert encoded.quality == 50
    pixels = np.asarray(Image.open(io.BytesIO(png(0, SIZE))))
    v, z = encoder.latents(encoder.features(to_input(pixels, bundle.manifest.preprocess)[None]))
    latent = Latent(v[0], z[0], (4, 4), 50)
    assert FrameCodec(LatentCodec(bundle.entropy())).encode(latent) == encoded.packet.frame.payload
    with pytest.raises(RequestError, match="quality 51 is not one of this bundle's: 50"):
        encoder.encode(png(0), 51)
    size = len(encoded.data)
    assert encoder.encode(png(0), bytes_max=size).data == encoded.data
    with pytest.raises(RequestError, match=f"the smallest bitstream tried has {size} bytes"):
        encoder.encode(png(0), bytes_max=size - 1)


def test_the_base_alone(encoder: Encoder, bundle: Bundle) -> None:
    whole, base = encoder.encode(png(0), 30), encoder.encode(png(0), 30, base_only=True)
    packet = Packet.unpack(base.data)
    assert (packet.frame.name, whole.packet.frame.name) == ("I base", "I")
    decoded = decode(bundle, packet)
    assert decoded.z is None
    np.testing.assert_array_equal(decoded.v, whole.latent.v)
    assert base.bytes.b_z == 0
    assert base.bytes.b_v == len(packet.frame.payload) < whole.bytes.total - 11
    best = encoder.encode(png(0), bytes_max=len(base.data), base_only=True)
    assert len(best.data) <= len(base.data)
    assert best.quality >= 30


def test_an_image_that_is_decoded_already(encoder: Encoder) -> None:
    """As a video's frames are."""
    image = Image.open(io.BytesIO(png(0))).convert("RGB")
    front = encoder.read(image)
    np.testing.assert_array_equal(front.u, encoder.read(png(0)).u)
    assert encoder.latent(front.u, 30).digest == encoder.encode(png(0), 30).latent.digest


# The best quality that fits.


@pytest.mark.parametrize("seed", range(4))
def test_bytes_max(encoder: Encoder, sizes: list[dict[int, int]], seed: int) -> None:
    """Every aim between the smallest and the largest size: it fits, little is wasted, and the front runs once."""
    own = sizes[seed]
    calls = []
    for aim in range(min(own.values()), max(own.values()) + 3, 7):
        front, extractor = runs(encoder)
        encoded = encoder.encode(png(seed), bytes_max=aim)
        calls.append(runs(encoder)[1] - extractor)
        assert runs(encoder)[0] == front + 1
        quality = encoded.quality
        assert len(encoded.data) == encoded.bytes.total == own[quality] <= aim
        assert quality == HIGH or own[quality + 1] > aim
    assert max(calls) <= 8


def test_quality_is_the_upper_limit(encoder: Encoder, sizes: list[dict[int, int]]) -> None:
    assert encoder.encode(png(0), 30, bytes_max=sizes[0][30]).quality == 30
    assert encoder.encode(png(0), 30, bytes_max=10_000).quality == 30
    assert runs(encoder) == (2, 2)
    assert encoder.encode(png(0), 30, bytes_max=sizes[0][30] - 1).quality < 30


def test_nothing_fits(encoder: Encoder, sizes: list[dict[int, int]]) -> None:
    smallest = sizes[0][LOW]
    for aim in (1, smallest - 1):
        with pytest.raises(
            RequestError, match=f"does not fit {aim} bytes at any .* tried has {smallest} bytes"
        ):
            encoder.encode(png(0), bytes_max=aim)
    assert runs(encoder)[0] == 2
    assert runs(encoder)[1] <= 16


rising = st.lists(st.integers(0, 60), min_size=1, max_size=101).map(
    lambda steps: list(accumulate(steps, initial=15))[1:]
)


@given(rising, st.integers(1, 4000), st.integers(0, 5))
@settings(max_examples=500)
def test_the_highest_of_sizes_that_rise(sizes: list[int], aim: int, low: int) -> None:
    tried: list[int] = []
    found = highest_fitting(_sizing(sizes, low, tried), low, low + len(sizes) - 1, aim)
    assert found == max((low + i for i, size in enumerate(sizes) if size <= aim), default=None)
    assert len(tried) == len(set(tried)) <= 8


@given(st.lists(st.integers(15, 500), min_size=1, max_size=101), st.integers(1, 520))
@settings(max_examples=500)
def test_sizes_that_do_not_rise(sizes: list[int], aim: int) -> None:
    """What is found fits, was tried, and is the highest tried that fits."""
    tried: list[int] = []
    found = highest_fitting(_sizing(sizes, 0, tried), 0, len(sizes) - 1, aim)
    assert found == max((quality for quality in tried if sizes[quality] <= aim), default=None)
    assert len(tried) == len(set(tried)) <= 8


def _sizing(sizes: list[int], low: int, tried: list[int]) -> Callable[[int], int]:
    def size(quality: int) -> int:
        assert quality >= low
        tried.append(quality)
        return sizes[quality - low]

    return size


@pytest.mark.parametrize("name", [EDGE, EXTRACTOR])
def test_a_network_that_does_not_load(tmp_path: Path, name: str) -> None:
    folder = write_levels(tmp_path / "bundle")
    raw = json.loads((folder / MANIFEST).read_text())
    del raw["sha256"]
    raw["files"][name] = {"sha256": hashlib.sha256(b"none").hexdigest(), "bytes": 4}
    (folder / name).write_bytes(b"none")
    (folder / MANIFEST).write_text(json.dumps(raw | {"sha256": seal(raw)}))
    with pytest.raises(BundleDamagedError, match=f"{name} cannot be loaded"):
        Encoder(Bundle.open(folder))
