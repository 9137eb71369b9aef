"""The bundle that is committed: its size, its figures, and that its bytes mean one thing everywhere.

`pytest -m slow tests/test_shipped.py` takes 2,000 rooms and measures the figures again; the normal run takes 40.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shared.bundle import Bundle, default_bundle
from shared.codec.bitstream import Bitstream
from shared.encoder import Encoder
from shared.image import to_input
from support import decode_digest
from support.decode_digest import join_streams

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(default_bundle())


def encoded_rooms(bundle: Bundle, count: int) -> tuple[list[bytes], np.ndarray, float]:
    """Bitstreams and z of unseen rooms, and the integer model's ideal length in bits, in sum."""
    from cloud.training.rooms import TEST_SEED_START, render

    encoder = Encoder(bundle)
    streams, latents, bits = [], [], 0.0
    for seed in range(TEST_SEED_START, TEST_SEED_START + count):
        v, z = encoder.latents(to_input(render(seed).image, bundle.manifest.preprocess)[None])
        b_v, b_z = encoder.codec.encode(v[0], z[0])
        streams.append(Bitstream(bundle.fingerprint, 50, *z.shape[2:], b_v, b_z).pack())
        latents.append(z[0])
        bits += sum(encoder.codec.bits(v[0], z[0]))
    return streams, np.stack(latents), bits


@pytest.fixture(scope="module", params=[40, pytest.param(2000, marks=pytest.mark.slow)])
def rooms(request, bundle) -> tuple[list[bytes], np.ndarray, float]:
    return encoded_rooms(bundle, request.param)


@pytest.mark.parametrize("batch", [1, 7, 32])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_process_batch_thread_count_and_library_decodes_the_same_z(
    tmp_path, bundle, rooms, batch, backend, threads
):
    streams, z, _ = rooms
    if len(streams) == 40 and (batch, threads) not in [(1, 1), (7, 2), (32, 2)]:
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
    assert done.stdout.strip() == hashlib.sha256(z.astype("<i4").tobytes()).hexdigest()


def test_bytes_are_those_of_the_integer_model_its_endings_and_the_container(rooms):
    """0.1 % of the ideal and, for two streams that end on whole bytes, under a byte a picture."""
    streams, _, bits = rooms
    payload = sum(len(s.b_v) + len(s.b_z) for s in map(Bitstream.unpack, streams))
    assert payload <= 1.001 * bits / 8 + 0.8 * len(streams)
    assert sum(map(len, streams)) - payload == 15 * len(streams), "the container of short streams"


def test_the_integer_model_costs_at_most_one_percent(bundle):
    report = bundle.manifest.figures["build"]
    assert report["pictures"] >= 1000
    assert report["decoded"] == report["pictures"]
    ideal = report["float_bits_v"] + report["float_bits_z"]
    assert report["integer_bits_v"] + report["integer_bits_z"] <= 1.01 * ideal


def test_its_figures_keep_what_is_promised(bundle):
    assert sum(f.stat().st_size for f in bundle.path.rglob("*") if f.is_file()) < 20_000_000
    assert len(bundle.manifest.tasks[0].labels) >= 16
    figures = bundle.manifest.figures["evaluation"]
    assert figures["pictures"] == 1000
    assert figures["decoded_exactly"] == 1000
    assert figures["bytes_mean"] < 300
    assert figures["top1"] >= figures["top1_uncompressed"] - 0.01


@pytest.mark.slow
def test_its_figures_can_be_measured_again(bundle):
    """Top-1 through the bundle on the 1,000 rooms of the manifest, from bytes to labels."""
    from cloud.model import CloudModel
    from cloud.training.rooms import CATEGORIES, TEST_SEED_START, category_of
    from shared.types import TaskQuery

    streams, z, _ = encoded_rooms(bundle, 1000)
    model = CloudModel(bundle)
    right = 0
    for at in range(0, 1000, 50):
        answers = model.answer(z[at : at + 50], [[TaskQuery(name="classification", top_k=1)]] * 50)
        for i, answer in enumerate(answers, at):
            right += answer["classification"].top[0].label == CATEGORIES[category_of(TEST_SEED_START + i)]
    figures = bundle.manifest.figures["evaluation"]
    assert right / 1000 == pytest.approx(figures["top1"], abs=0.003)
    assert np.mean([len(data) for data in streams]) == pytest.approx(figures["bytes_mean"], rel=0.005)
