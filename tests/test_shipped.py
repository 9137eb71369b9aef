"""The shipped bundle: its size, that its bytes mean the same everywhere, and its metrics, measured again.

The normal run takes 40 rooms for the bytes and 8 for the metrics; `pytest -m slow tests/test_shipped.py` takes 2,000
rooms for the bytes and the 1,000 of the manifest for the metrics.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from cloud.engine.bundle_model import CloudModel
from shared.bundle import Bundle
from shared.codec.frame import NAMED_BYTES, Frame, FrameType, Packet
from shared.codec.frame_codec import Latent
from shared.encoder import Encoder
from shared.image import to_input
from shared.shipped import default_bundle
from shared.types import TaskQuery
from support import decode_digest
from support.decode_digest import join_streams
from train.bundle.evaluate import Evaluation, bitstreams, evaluate_bundle
from train.data.open_dataset import open_datasets
from train.rooms import TEST_SEED_START, category_of, render, write_rooms

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(default_bundle())


class Coded(NamedTuple):
    """Bitstreams, the latents in them, and the integer model's ideal bits in sum."""

    packets: list[Packet]
    latents: list[Latent]
    bits: float


def encoded_rooms(bundle: Bundle, count: int) -> tuple[Coded, Coded]:
    """Unseen rooms at all qualities in turn: each by itself, and a frame soon after given it."""
    encoder = Encoder(bundle)
    lowest, highest = bundle.levels.lowest, bundle.levels.highest
    alone, given = Coded([], [], 0.0), Coded([], [], 0.0)
    for seed in range(TEST_SEED_START, TEST_SEED_START + count):
        quality = lowest + (seed * 17) % (highest - lowest + 1)
        u = encoder.features(to_input(render(seed).image, bundle.manifest.preprocess)[None])
        (packet,), (first,) = bitstreams(encoder, u, quality)
        alone = Coded(
            [*alone.packets, packet], [*alone.latents, first], alone.bits + sum(encoder.frames.bits(first))
        )
        noise = np.random.default_rng(seed).normal(0, 0.05, u.shape).astype(np.float32)
        v, z = encoder.latents(u + noise, bundle.position(quality), first.z[None], 0.8)
        second = Latent(v[0], z[0], first.grid, quality)
        frame = Frame(FrameType.P, quality, True, True, encoder.frames.encode(second, given=first))
        packet = Packet(bundle.fingerprint, frame, None, first.digest[:NAMED_BYTES])
        bits = given.bits + sum(encoder.frames.bits(second, first))
        given = Coded([*given.packets, packet], [*given.latents, second], bits)
    return alone, given


@pytest.fixture(scope="module", params=[40, pytest.param(2000, marks=pytest.mark.slow)])
def rooms(request, bundle) -> tuple[Coded, Coded]:
    return encoded_rooms(bundle, request.param)


@pytest.mark.parametrize("batch", [1, 7, 32])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_process_batch_thread_count_and_library_decodes_the_same_z(
    tmp_path, bundle, rooms, batch, backend, threads
):
    alone, given = rooms
    streams = [packet.pack() for packet in (*alone.packets, *given.packets)]
    if len(alone.packets) == 40 and (batch, threads) not in [(1, 1), (7, 2), (32, 2)]:
        pytest.skip("all combinations run with 2,000 rooms")
    (tmp_path / "streams").write_bytes(join_streams(streams))
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    done = subprocess.run(
        [
            sys.executable,
            decode_digest.__file__,
            bundle.path,
            tmp_path / "streams",
            str(batch),
            backend,
            str(threads),
        ],
        cwd=ROOT,
        env={**os.environ, **dict.fromkeys(names, str(threads))},
        capture_output=True,
        text=True,
        check=True,
    )
    digests = b"".join(latent.digest for latent in (*alone.latents, *given.latents))
    assert done.stdout.strip() == hashlib.sha256(digests).hexdigest()


def test_bytes_are_those_of_the_integer_model_an_ending_and_the_container(rooms):
    """Within 0.1 % of the ideal and, as the range coder ends on a whole byte, under a byte per frame."""
    for coded, container in zip(rooms, (11, 19), strict=True):
        payload = sum(len(packet.frame.payload) for packet in coded.packets)
        assert payload <= 1.001 * coded.bits / 8 + 0.8 * len(coded.packets)
        assert all(len(p.pack()) == len(p.frame.payload) + container for p in coded.packets)


def test_a_frame_given_another_costs_a_fraction(rooms):
    alone, given = rooms
    assert given.bits < 0.5 * alone.bits


def test_the_class_is_in_the_first_bytes(bundle, rooms):
    model, (alone, _) = CloudModel(bundle), rooms
    v = np.stack([latent.v for latent in alone.latents])
    query = TaskQuery(name="classification", top_k=1)
    answers = [a["classification"].top[0].index for a in model.answer_base(v, [[query]] * len(v))]
    right = [category_of(seed) for seed in range(TEST_SEED_START, TEST_SEED_START + len(v))]
    assert np.mean(np.array(answers) == right) > 0.9  # at all qualities, the lowest among them


def test_it_answers_three_tasks_and_is_small_enough_for_a_repository(bundle):
    assert sum(f.stat().st_size for f in bundle.path.rglob("*") if f.is_file()) < 25_000_000
    assert [task.kind for task in bundle.tasks] == ["classification", "normals", "segmentation"]
    assert [added.task.name for added in bundle.added] == ["segmentation"]
    assert len(bundle.tasks[0].labels) >= 16


def evaluated(bundle: Bundle, folder: Path, count: int, qualities: list[int]) -> Evaluation:
    """The first `count` test rooms, rendered to disk and evaluated from pixels to bytes to answers."""
    layers = ("image", "category", "normals", "semantic")
    seeds = range(TEST_SEED_START, TEST_SEED_START + count)
    write_rooms(folder / "rooms", seeds, height=256, width=256, layers=layers)
    datasets = open_datasets(folder / "rooms", [task.kind for task in bundle.tasks])
    names = [task.name for task in bundle.tasks]
    return evaluate_bundle(bundle, dict(zip(names, datasets, strict=True)), {}, qualities)


# Bytes, degrees and mIoU of the first 8 test rooms by quality, as measured with this bundle; every class is right.
MEASURED = {0: (45.5, 19.835, 0.4049), 50: (163.4, 14.945, 0.5281), 96: (340.0, 13.999, 0.5421)}


def test_what_it_does_on_a_few_rooms_is_what_it_did(bundle, tmp_path):
    """The tolerances are for an element of z or two that another processor rounds the other way."""
    evaluation = evaluated(bundle, tmp_path, 8, list(MEASURED))
    assert bundle.quality(None) in MEASURED
    for quality, (size, degrees, miou) in MEASURED.items():
        rate = evaluation.rates[quality]
        assert rate.decoded_exactly == 8
        assert rate.bytes_mean == pytest.approx(size, abs=0.3)
        assert rate.tasks["classification"]["top1"] == 1
        assert rate.tasks["classification-base"]["top1"] == 1
        assert rate.bytes_base_mean == pytest.approx(15.2, abs=0.5)
        assert rate.tasks["normals"]["mean_deg"] == pytest.approx(degrees, abs=0.02)
        assert rate.tasks["segmentation"]["miou"] == pytest.approx(miou, abs=0.001)


@pytest.mark.slow
def test_the_figures_of_its_manifest_can_be_measured_again(bundle, tmp_path):
    """All 1,000 rooms of the manifest, at the default quality."""
    quality = bundle.quality(None)
    again = evaluated(bundle, tmp_path, 1000, [quality]).rates[quality]
    stated = bundle.manifest.figures["evaluation"]["rates"][str(quality)]
    assert again.decoded_exactly == stated["decoded_exactly"] == 1000
    assert again.bytes_mean == pytest.approx(stated["bytes_mean"], abs=0.1)
    assert again.bytes_mean <= 400
    for task, metric, tolerance in (
        ("classification", "top1", 0.001),
        ("normals", "mean_deg", 0.01),
        ("segmentation", "miou", 0.001),
    ):
        assert again.tasks[task][metric] == pytest.approx(stated["tasks"][task][metric], abs=tolerance)
