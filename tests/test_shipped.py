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
    """Bitstreams of unseen rooms, at all qualities in turn, their z, and the integer model's ideal length in bits, in
    sum."""
    from train.rooms import TEST_SEED_START, render

    encoder = Encoder(bundle)
    lowest, highest = bundle.levels.lowest, bundle.levels.highest
    streams, latents, bits = [], [], 0.0
    for seed in range(TEST_SEED_START, TEST_SEED_START + count):
        quality = lowest + (seed * 17) % (highest - lowest + 1)
        u = encoder.features(to_input(render(seed).image, bundle.manifest.preprocess)[None])
        v, z = encoder.latents(u, bundle.position(quality))
        b_v, b_z = encoder.codec.encode(v[0], z[0], quality)
        streams.append(Bitstream(bundle.fingerprint, quality, *z.shape[2:], b_v, b_z).pack())
        latents.append(z[0])
        bits += sum(encoder.codec.bits(v[0], z[0], quality))
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
    containers = sum(map(len, streams)) - payload
    assert 15 * len(streams) <= containers <= 17 * len(streams), "lengths from 128 bytes on take a byte more"


def test_the_integer_model_costs_at_most_one_percent_at_every_level(bundle):
    report = bundle.manifest.figures["build"]
    assert report["pictures"] >= 1000
    for level in report["levels"].values():
        assert level["decoded"] == report["pictures"]
        ideal = level["float_bits_v"] + level["float_bits_z"]
        assert level["integer_bits_v"] + level["integer_bits_z"] <= 1.01 * ideal


def test_its_figures_keep_what_is_promised(bundle):
    assert sum(f.stat().st_size for f in bundle.path.rglob("*") if f.is_file()) < 25_000_000
    assert [task.kind for task in bundle.tasks] == ["classification", "normals", "segmentation"]
    assert [added.task.name for added in bundle.added] == ["segmentation"]
    assert len(bundle.tasks[0].labels) >= 16
    figures = bundle.manifest.figures["evaluation"]
    rates = figures["rates"]
    assert len(rates) >= 5
    assert figures["pictures"] == 1000
    assert all(rate["decoded_exactly"] == 1000 for rate in rates.values())
    assert rates[str(bundle.quality(None))]["bytes_mean"] <= 400
    sizes = [rates[str(quality)]["bytes_mean"] for quality in bundle.levels.qualities]
    assert sizes == sorted(sizes)
    assert sizes[-1] >= 6 * sizes[0]


@pytest.mark.slow
def test_its_figures_can_be_measured_again(bundle):
    """The first 200 of the 1,000 rooms of the manifest, from pixels to bytes to answers, at the default quality."""
    from cloud.engine.bundle_model import CloudModel
    from train.loop.metrics import AngularError, Confusion, Top1
    from train.rooms import TEST_SEED_START, category_of, render

    encoder, model = Encoder(bundle), CloudModel(bundle)
    quality, sizes = bundle.quality(None), []
    metrics = {"classification": Top1(), "normals": AngularError(), "segmentation": Confusion(17)}
    for seed in range(TEST_SEED_START, TEST_SEED_START + 200):
        room = render(seed)
        u = encoder.features(to_input(room.image, bundle.manifest.preprocess)[None])
        v, z = encoder.latents(u, bundle.position(quality))
        b_v, b_z = encoder.codec.encode(v[0], z[0], quality)
        sizes.append(len(Bitstream(bundle.fingerprint, quality, *z.shape[2:], b_v, b_z).pack()))
        decoded = model.codec.decode_batch([(b_v, b_z)], *z.shape[2:], [quality])
        out = model.outputs(decoded, {name: [0] for name in metrics}, [quality])
        metrics["classification"].add(out["classification"].argmax(1).numpy(), np.array([category_of(seed)]))
        metrics["normals"].add(out["normals"][0].permute(1, 2, 0).numpy(), room.normals.astype(np.float32))
        metrics["segmentation"].add(out["segmentation"][0].argmax(0).numpy(), room.semantic)
    rate = bundle.manifest.figures["evaluation"]["rates"][str(quality)]
    got = {name: metric.figures() for name, metric in metrics.items()}
    # 200 of 1,000 pictures: as far as a fifth of the set may differ from the whole.
    assert np.mean(sizes) == pytest.approx(rate["bytes_mean"], rel=0.05)
    assert got["classification"]["top1"] == pytest.approx(rate["tasks"]["classification"]["top1"], abs=0.03)
    assert got["normals"]["mean_deg"] == pytest.approx(rate["tasks"]["normals"]["mean_deg"], abs=1.0)
    assert got["segmentation"]["miou"] == pytest.approx(rate["tasks"]["segmentation"]["miou"], abs=0.05)
