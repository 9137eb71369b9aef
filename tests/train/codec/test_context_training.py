"""Codecs with a context and a base: how they are trained, their integers, and their bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cloud.engine.bundle_model import CloudModel
from isthmus import app
from shared.bundle import Bundle
from shared.codec.frame_codec import Coded, FrameCodec, Latent
from shared.encoder import Encoder
from shared.errors import DataError
from shared.types import TaskQuery
from support.untrained import random_network
from train.codec.context_model import ContextNetworks, heavy_tailed_bits, upper_tail
from train.codec.entropy_model import CHANGE_SCALE_MAX, CHANGE_SCALE_MIN
from train.codec.integer_tables import change_tables
from train.codec.split_networks import load_run
from train.rooms import write_rooms

LAYERS = ("image", "normals", "category")


def run(command: str) -> str:
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 0, f"{command}: {done.output[-2000:]}"
    return done.output


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rooms, sequences, two networks, and a codec: all of it, then entropy, frames, synthesis; then its bundle."""
    out = tmp_path_factory.mktemp("context")
    write_rooms(out / "rooms", range(24), height=64, width=64, layers=LAYERS, shard_size=12)
    frames = f"rooms render {out}/frames --count 6 --frames 3 --motion moving --size 64"
    run(f"{frames} --layers image,category")
    networks = ""
    for task in ("classification", "normals"):
        random_network(out / task, task)
        networks += f" --network {out}/{task} --lambda 300"
    train = (
        f"codec train --data {out}/rooms --device cpu --batch 8 --set holdout=8 --set scales=[0.3,1]{networks} "
        "--set context_hidden=[8] --base classification --set crop=0"
    )
    run(f"{train} --out {out}/all --steps 20 --set learning_rate=0.01 --set gain_rate=4 --distortion feature")
    start = f"--set init={out}/all --distortion feature"
    run(f"{train} --out {out}/entropy --steps 30 {start} --set trains=entropy --set entropy_rate=3")
    learn = (
        f"codec frames {out}/entropy --data {out}/frames --out {out}/inter --steps 10 --batch 4 --device cpu"
    )
    run(f"{learn} --set holdout=2")
    start = f"--set init={out}/inter/codec --distortion distill"
    run(f"{train} --out {out}/synthesis --steps 10 {start} --set trains=synthesis")
    run(f"bundle build {out}/synthesis --data {out}/rooms --out {out}/bundle --licence x")
    return out


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_run(folder)[0].state_dict())


def changed(place: Path, before: str, after: str) -> set[str]:
    """The parts of the model, by the beginnings of their names, that a training changed."""
    one, other = tensors(place / before), tensors(place / after)
    names = {name for name in one if not torch.equal(one[name], other[name])}
    return {".".join(name.split(".")[:3]) for name in names}


def test_gains_learn_at_a_rate_of_their_own(place: Path) -> None:
    gains = tensors(place / "all")["codec.core.gains.log_gain"]
    assert (gains.amax(1) - gains.amin(1)).max() > 0.04  # 0.017 at the rate of all


def test_entropy_changes_nothing_that_makes_z_or_reads_it(place: Path) -> None:
    parts = changed(place, "all", "entropy")
    assert {"codec.core.context", "codec.core.generator", "codec.core.extractor"} <= parts
    kept = (
        "codec.fusion",
        "codec.core.transform",
        "codec.core.gains",
        "codec.core.reconstruction",
        "fronts",
        "heads",
    )
    assert not [part for part in parts if part.startswith(kept)]
    assert any(part.startswith("base") for part in parts)


def test_frames_change_the_networks_of_the_kind_inter_alone(place: Path) -> None:
    one, other = tensors(place / "entropy"), tensors(place / "inter" / "codec")
    names = {name for name in one if not torch.equal(one[name], other[name])}
    assert names
    assert all(name.startswith("codec.core.context.networks.inter.") for name in names)


def test_synthesis_leaves_every_stream_as_it_is(place: Path) -> None:
    parts = changed(place, "inter/codec", "synthesis")
    assert "codec.core.reconstruction" in parts
    assert any(part.startswith("heads") for part in parts)
    allowed = (
        "codec.core.reconstruction",
        "codec.separation",
        "heads",
    )  # a task added before reads the gains
    assert not [part for part in parts if not part.startswith(allowed)]


def test_entropy_training_lowers_the_bytes(place: Path) -> None:
    figures = [json.loads((place / name / "figures.json").read_text()) for name in ("all", "entropy")]
    assert figures[1]["bytes@100"] < figures[0]["bytes@100"]
    assert "classification-base/top1@100" in figures[1]


@pytest.fixture(scope="module")
def bundle(place: Path) -> Bundle:
    return Bundle.open(place / "bundle")


def test_integers_cost_what_the_float_model_says(bundle: Bundle) -> None:
    assert bundle.manifest.format == 3
    assert bundle.manifest.base == ("classification",)
    for level in bundle.manifest.figures["build"]["levels"].values():
        floats = level["float_bits_v"] + level["float_bits_z"]
        assert level["integer_bits_v"] + level["integer_bits_z"] == pytest.approx(floats, rel=0.03)
        assert level["decoded"] == bundle.manifest.figures["build"]["pictures"]
    bounds = bundle.manifest.figures["build"]["bounds"]
    assert all(bound < 2**53 for bound, _ in bounds.values())
    assert any(name.startswith("inter.") for name in bounds)


def test_a_frame_given_another_decodes(place: Path, bundle: Bundle) -> None:
    encoder = Encoder(bundle)
    codec = FrameCodec(encoder.codec)
    images = np.load(place / "frames" / "00000.image.npy")[:2]
    from train.data.dataset import network_input

    u = encoder.features(network_input(images, bundle.manifest.preprocess).numpy())
    v, z = encoder.latents(u[:1], 1.0)
    first = Latent(v[0], z[0], (z.shape[2], z.shape[3]), 100)
    v, z = encoder.latents(u[1:], 1.0, first.z[None], 0.8)
    second = Latent(first.v, z[0], first.grid, 100)
    payload = codec.encode(second, own_v=False, given=first)
    (back,) = codec.decode([Coded(payload, first.grid, 100, False, True, first, True)])
    assert isinstance(back, Latent)
    assert back.digest == second.digest


def test_sticky_rounding_keeps_what_lies_near_enough(place: Path, bundle: Bundle) -> None:
    encoder = Encoder(bundle)
    images = np.load(place / "rooms" / "00000.image.npy")[:2]
    from train.data.dataset import network_input

    u = encoder.features(network_input(images, bundle.manifest.preprocess).numpy())
    reference = encoder.latents(u[::-1].copy(), 1.0)[1]
    plain = encoder.latents(u, 1.0)[1]
    model, _, _ = load_run(place / "synthesis")
    s = model.codec.core.z_of(torch.from_numpy(u), torch.ones(2)).detach().numpy()
    for hold in (0.5, 0.8, 3.0):
        held = encoder.latents(u, 1.0, reference, hold)[1]
        near = np.abs(s - reference) <= hold
        sure = np.abs(np.abs(s - reference) - hold) > 1e-3
        np.testing.assert_array_equal(np.where(near, reference, plain)[sure], held[sure])


def test_the_base_answers_from_v(place: Path, bundle: Bundle) -> None:
    model = CloudModel(bundle)
    assert model.base_tasks == {"classification"}
    float_model, _, _ = load_run(place / "synthesis")
    v = np.random.default_rng(0).integers(-3, 4, (3, model.codec.path.v_size)).astype(np.int32)
    query = TaskQuery(name="classification", top_k=1)
    answers = model.answer_base(v, [[query], [], [query]])
    assert float_model.base is not None
    wanted = float_model.base(torch.from_numpy(v).float()).argmax(1).tolist()
    assert [a["classification"].top[0].index for a in (answers[0], answers[2])] == [wanted[0], wanted[2]]
    assert answers[1] == {}


def sampled(place: Path) -> tuple[Bundle, torch.Tensor, torch.Tensor]:
    """The bundle, u (12, N, h, w) of rooms, and their positions."""
    from train.data.dataset import network_input

    bundle = Bundle.open(place / "bundle")
    images = np.load(place / "rooms" / "00000.image.npy")
    u = Encoder(bundle).features(network_input(images, bundle.manifest.preprocess).numpy())
    return bundle, torch.from_numpy(u), torch.linspace(0, 1, len(u))


@torch.no_grad()
def test_a_bundles_codec_is_recovered_with_its_entropy_model_and_base(place: Path, tmp_path: Path) -> None:
    run(f"codec recover {place}/bundle --out {tmp_path}/again")
    _, u, position = sampled(place)
    (one, _, _), (other, recipe, _) = load_run(place / "synthesis"), load_run(tmp_path / "again")
    assert recipe.base == "classification"
    sizes = []
    for core in (one.codec.core, other.codec.core):
        z = core.z_of(u, position).round()
        rate = core.rate(z, z, position)
        sizes.append(torch.stack([rate.bits_z, rate.bits_v, core.bits_given(z, rate.v, z.roll(1, 0))]))
        assert core.context is not None
        assert core.context.trained("inter")
    torch.testing.assert_close(sizes[1].mean(1), sizes[0].mean(1), rtol=0.03, atol=0.3)
    assert one.base is not None
    assert other.base is not None
    torch.testing.assert_close(other.base(rate.v), one.base(rate.v))


def test_a_rate_of_rounded_latents_has_their_bits_and_a_gradient_from_noise(place: Path) -> None:
    _, u, position = sampled(place)
    core = load_run(place / "entropy")[0].codec.core.train()
    core.rounds = True
    z = core.z_of(u, position).detach().requires_grad_()
    noise = torch.rand_like(z) - 0.5
    assert core.context is not None
    weight = core.context.of_kind("intra")[0].mean.weight
    found, wanted = core.rate(z.round(), z + noise, position, noisy=True), core.rate(z.round(), z, position)
    torch.testing.assert_close(found.bits_z, core.rate(z.round(), z.round(), position).bits_z)
    (gradient,) = torch.autograd.grad(found.bits_z.sum(), z, retain_graph=True)
    assert gradient.abs().sum() > 0
    learned = torch.autograd.grad(found.bits_z.sum(), weight)[0]
    rounded = core.rate(z.round().detach(), z.round().detach(), position).bits_z.sum()
    torch.testing.assert_close(learned, torch.autograd.grad(rounded, weight)[0])
    assert not torch.allclose(wanted.bits_z, found.bits_z)


def test_inspect_states_the_bound_of_every_layer(bundle: Bundle) -> None:
    from shared.process.inspect import inspect_bundle

    names = {field.name for field in inspect_bundle(bundle).fields}
    assert {"exact.intra.0.mean", "exact.inter.7.scale", "exact.codebook"} <= names


@pytest.mark.parametrize(
    ("setting", "wrong"),
    [
        ("holds=[-1]", "holds"),
        ("lags=[0]", "lags"),
        ("lags=[9]", "sequences of length 3; they need 10 frames"),
    ],
)
def test_frames_refuses_what_it_cannot_do(place: Path, tmp_path: Path, setting: str, wrong: str) -> None:
    command = f"codec frames {place}/entropy --data {place}/frames --out {tmp_path}/out --set {setting}"
    done = CliRunner().invoke(app, command.split())
    assert isinstance(done.exception, DataError)
    assert wrong in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_frames_are_learnt_from_photographs(place: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        noise = np.random.default_rng(ord(name)).integers(0, 256, (80, 100, 3)).astype(np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{name}.png")
    command = (
        f"codec frames {place}/entropy --data images:{tmp_path} --out {tmp_path}/out --steps 2 --batch 4"
    )
    command += " --device cpu --set sequences=6 --set frames=3 --set holdout=2"
    run(command)
    one, other = tensors(place / "entropy"), tensors(tmp_path / "out" / "codec")
    names = {name for name in one if not torch.equal(one[name], other[name])}
    assert names
    assert all(name.startswith("codec.core.context.networks.inter.") for name in names)
    (tmp_path / "a.png").write_bytes((tmp_path / "b.png").read_bytes())
    with pytest.raises(DataError, match="the set of sequences has changed since"):
        CliRunner().invoke(app, [*command.split(), "--resume"], catch_exceptions=False)
    (tmp_path / "b.png").unlink()
    with pytest.raises(DataError, match="two photographs or more"):
        CliRunner().invoke(app, command.replace("/out", "/other").split(), catch_exceptions=False)


def test_channels_divided_anew_are_coded_in_their_new_passes() -> None:
    networks = ContextNetworks(np.array([0, 0, 1, 1]), (4,))
    assert [one.own.tolist() for one in networks.passes.all[::2]] == [[0, 1], [2, 3]]
    networks.start(torch.tensor([1, 0, 1, 0]))
    assert [one.own.tolist() for one in networks.passes.all[::2]] == [[1, 3], [0, 2]]
    loaded = ContextNetworks(np.array([0, 0, 1, 1]), (4,))
    assert loaded.passes.all[0].own.tolist() == [0, 1]
    loaded.load_state_dict(networks.state_dict())
    assert loaded.passes.all[0].own.tolist() == [1, 3]


def test_heavy_tails_are_those_of_students_t() -> None:
    from scipy.stats import t as student

    x = torch.linspace(-60, 60, 2001, dtype=torch.float64)
    np.testing.assert_allclose(upper_tail(x).numpy(), student.sf(x.numpy(), 4), rtol=1e-9)
    bits = heavy_tailed_bits(torch.tensor([0.0, 3.0]), torch.zeros(2)).numpy()
    mass = [student.cdf(k + 0.5, 4) - student.cdf(k - 0.5, 4) for k in (0, 3)]
    np.testing.assert_allclose(bits, -np.log2(mass), rtol=1e-5)


def test_tables_of_changes_cost_what_the_density_says() -> None:
    from shared.codec.exact import MEAN_STEPS, SCALE_STEPS
    from shared.codec.rangecoder import Tables

    tables = Tables(*change_tables().values())
    scales = np.exp(np.linspace(np.log(CHANGE_SCALE_MIN), np.log(CHANGE_SCALE_MAX), SCALE_STEPS))
    for step in (0, 20, 40, 63):
        for fraction in (0, 5):
            values = np.arange(-3, 4, dtype=np.int32)
            index = np.full(7, step * MEAN_STEPS + fraction, np.intp)
            each = [tables.bits(values[i : i + 1], index[i : i + 1]) for i in range(7)]
            x = torch.from_numpy(values - fraction / MEAN_STEPS)
            wanted = heavy_tailed_bits(
                x, torch.full((7,), float(np.log(scales[step])), dtype=torch.float64)
            ).numpy()
            sure = wanted < 18
            np.testing.assert_allclose(np.array(each)[sure], wanted[sure], atol=0.05)
