"""Training as a user meets it: curves, kills, resumes, bundles."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from cloud.engine.bundle_model import CloudModel
from cloud.task_folders import add_task
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.errors import DataError
from shared.image import to_input
from shared.types import TaskQuery
from support.service import png
from train.bundle.build import build
from train.bundle.evaluate import evaluate_bundle
from train.bundle.manifest import without_paths
from train.codec.codec_recipe import CodecRecipe, Part, rate_weight
from train.codec.codec_training import draw_levels
from train.codec.evaluate_codec import validated_loss
from train.codec.split_networks import load_run
from train.codec.train_codec import train_codec
from train.loop.distributed import Workers
from train.loop.schedule import Schedule, batch_indices
from train.loop.scores import Scores, from_json, to_json
from train.networks.network_folder import load_network
from train.tasks.task_recipe import TaskRecipe
from train.tasks.train_task import train_task
from train.tasks.trainable_head import FOLDER


def curve(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "curve.jsonl").read_text().splitlines()]


def recipe(network: Path, **changes) -> CodecRecipe:
    part = {"lambda_": 300.0, **{key: changes.pop(key) for key in Part.model_fields if key in changes}}
    values = {"data": "patches", "parts": (Part(network=str(network), **part),), "steps": 60, "batch": 24}
    return CodecRecipe(**{**values, **changes})


def train(recipe: CodecRecipe, patches, out: Path, resume: bool = False) -> Scores:
    """With as many views of the patches as there are networks."""
    training, validation = ([view] * len(recipe.parts) for view in patches)
    return train_codec(recipe, training, validation, out, resume)


class KilledError(Exception):
    """Ends a run from inside, as a kill would."""


def test_an_interrupted_run_resumes_to_the_same_curve(tmp_path, patches, tiny_network, tiny_run, monkeypatch):
    from train.loop import run as run_module
    from train.loop import training as training_module

    monkeypatch.setattr(training_module, "CHECKPOINT_S", 0.0)  # a checkpoint a step
    plain = run_module.Run.save

    def save_then_stop(self, state):
        plain(self, state)
        if state["step"] == 31:
            raise KilledError

    monkeypatch.setattr(run_module.Run, "save", save_then_stop)
    with pytest.raises(KilledError):
        train(recipe(tiny_network), patches, tmp_path / "run")
    with (tmp_path / "run" / "curve.jsonl").open("a") as file:
        file.write('{"step": 40, "loss": 1e9}\n{"step": 4')  # what a kill leaves behind the checkpoint
    monkeypatch.setattr(run_module.Run, "save", plain)
    train(recipe(tiny_network), patches, tmp_path / "run", resume=True)
    assert curve(tmp_path / "run") == curve(tiny_run)


def test_a_second_start_and_another_recipe_are_refused(tmp_path, patches, tiny_network):
    out = tmp_path / "run"
    train(recipe(tiny_network, steps=2), patches, out)
    with pytest.raises(DataError, match="already holds a run; resume it"):
        train(recipe(tiny_network, steps=2), patches, out)
    with pytest.raises(DataError, match="batch"):
        train(recipe(tiny_network, steps=2, batch=12), patches, out, resume=True)


def test_a_start_that_fails_leaves_nothing_in_the_way_of_the_next(tmp_path, patches, tiny_network):
    from cloud.networks.networks import ClassifierConfig
    from train.networks.network_recipe import NetworkRecipe
    from train.networks.train_network import train_network

    out = tmp_path / "run"
    with pytest.raises(DataError, match=r"split layer 99: the network has layers 0\.\.10"):
        train(recipe(tiny_network, split=99), patches, out)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file is a file, not a folder"):
        train(recipe(tiny_network, steps=2), patches, tmp_path / "file")
    small = replace(patches[0], values=patches[0].values[:, :32, :32], size=(32, 32))
    with pytest.raises(DataError, match="the images are 32 x 32, the network takes 64 x 64"):
        train(recipe(tiny_network), (small, patches[1]), out)
    sizes = ClassifierConfig.model_construct(**ClassifierConfig(classes=3).model_dump() | {"classes": -1})
    chosen = NetworkRecipe.model_construct(data="patches", steps=2, batch=24, seed=0, network=sizes)
    with pytest.raises(RuntimeError):
        train_network(chosen, *patches, out, resume=False)
    assert not out.exists()
    train(recipe(tiny_network, steps=2), patches, out)


def test_training_lowers_the_rate_and_keeps_the_network_frozen(patches, tiny_network, tiny_run):
    lines = curve(tiny_run)
    assert lines[-1]["bytes"] < lines[0]["bytes"]
    model, _, _ = load_run(tiny_run)
    network, _ = load_network(tiny_network)
    own = [*model.fronts[0].state_dict().values(), *model.heads[0].state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(own, network.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("distortion", "form"),
    [("task", "rd"), ("distill", "rd"), ("feature", "rd"), ("distill-hint", "rd"), ("distill", "dr")],
)
def test_every_loss_trains(tmp_path, patches, tiny_network, distortion, form):
    lambda_ = 300.0 if form == "rd" else 1 / 300
    chosen = recipe(tiny_network, distortion=distortion, form=form, lambda_=lambda_, steps=40, rate_ramp=0.0)
    train(chosen, patches, tmp_path / "run")
    losses = [line["loss"] for line in curve(tmp_path / "run")]
    assert losses[-1] < losses[0]


def test_training_everything_moves_the_network(tmp_path, patches, tiny_network):
    out = tmp_path / "run"
    figures = train(recipe(tiny_network, train_all=True, steps=3), patches, out)
    model, _, _ = load_run(out)
    network, _ = load_network(tiny_network)
    assert not torch.equal(next(model.fronts[0].parameters()), next(network.parameters()))
    plain = load_network(tiny_network)[1].figures["top1"]
    assert figures.value("top1", "classification", "uncompressed") == plain, (
        "the teacher is the network as it was given"
    )


LAYERS = 10  # of the tiny network; the last three: pooling, flattening, a linear layer


@pytest.mark.parametrize(
    ("layer", "train_all"),
    [*((layer, False) for layer in range(LAYERS + 1)), (0, True), (LAYERS - 1, True), (LAYERS, True)],
)
def test_every_layer_can_be_the_split(tmp_path, patches, tiny_network, layer, train_all):
    assert len(load_network(tiny_network)[0]) == LAYERS
    chosen = recipe(tiny_network, split=layer, steps=2, train_all=train_all)
    figures = train(chosen, patches, tmp_path / "run")
    assert 0 <= figures.value("top1", "classification", 50) <= 1


@pytest.mark.parametrize("layer", [0, LAYERS - 2, LAYERS - 1, LAYERS])
def test_a_bundle_answers_from_the_image_a_vector_and_the_output(tmp_path, patches, tiny_network, layer):
    """As the model that was trained does: the tail takes a vector where that is what the front gives."""
    run = tmp_path / "run"
    train(recipe(tiny_network, split=layer, steps=2), patches, run)
    report = build(run, tmp_path / "bundle", "edge-case", patches[1])
    assert report.levels[50].decoded == len(patches[1])
    bundle = Bundle.open(tmp_path / "bundle")
    model, _, _ = load_run(run)
    assert len(model.heads[0].feature) == (1 if layer >= LAYERS - 1 else 3)
    encoder = Encoder(bundle)
    _, z = encoder.latents(encoder.features(to_input(patches[1].values[:4], bundle.manifest.preprocess)))
    answers = CloudModel(bundle).answer(z, [[TaskQuery(name="classification", top_k=3)]] * 4)
    with torch.no_grad():
        y_hat = model.codec.core.reconstruct(torch.from_numpy(z).float(), None, model.codec.grid)
        expected = torch.softmax(model.heads[0](y_hat), 1).numpy()
    for answer, scores in zip(answers, expected, strict=True):
        got = {one.index: one.score for one in answer["classification"].top}
        assert [got[i] for i in range(3)] == pytest.approx(scores.tolist(), abs=1e-5)


def test_build_reports_sizes_that_agree(tiny_bundle):
    report = Bundle.open(tiny_bundle).manifest.figures["build"]
    report = {"pictures": report["pictures"], **report["levels"]["50"]}
    ideal = report["integer_bits_v"] + report["integer_bits_z"]
    assert report["decoded"] == report["pictures"]
    # At most a byte for each of the two streams; the shipped bundle's 1 % is held by tests/test_shipped.py.
    assert 8 * (report["bytes_v"] + report["bytes_z"]) <= ideal + 16
    assert report["bytes_total"] - report["bytes_v"] - report["bytes_z"] <= 20


def test_build_refuses_what_is_there_and_leaves_nothing_half_done(tmp_path, patches, tiny_run, monkeypatch):
    from train.bundle import build as module

    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="exists already"):
        build(tiny_run, tmp_path / "there", "x", patches[1])

    def fail(*_):
        raise KilledError

    monkeypatch.setattr(module, "check_edge", fail)
    with pytest.raises(KilledError):
        build(tiny_run, tmp_path / "new", "x", patches[1])
    assert [p.name for p in tmp_path.iterdir()] == ["there"]
    with pytest.raises(DataError, match="cannot be named 'my bundle'"):
        build(tiny_run, tmp_path / "my bundle", "my bundle", None)  # not a picture is looked at
    with pytest.raises(DataError, match="no finished codec training"):
        build(tmp_path, tmp_path / "new", "x", patches[1])


def test_the_edge_runs_any_batch(tiny_bundle, patches):
    bundle = Bundle.open(tiny_bundle)
    encoder = Encoder(bundle)
    x = to_input(patches[1].values[:7], bundle.manifest.preprocess)
    v, z = encoder.latents(encoder.features(x))
    assert v.dtype == z.dtype == np.int32
    assert z.shape[0] == 7
    assert z.any(), "a codec whose latent is all zero proves nothing"


def test_epochs_are_permutations_and_depend_on_the_seed_alone():
    first = list(batch_indices(10, 5, seed=1, start=0, steps=4))
    assert sorted(np.concatenate(first[:2])) == sorted(np.concatenate(first[2:])) == list(range(10))
    assert not np.array_equal(np.concatenate(first[:2]), np.concatenate(first[2:]))
    later = list(batch_indices(10, 5, seed=1, start=3, steps=4))
    assert np.array_equal(later[0], first[3])


def test_schedule_and_ramp():
    schedule = Schedule(1000, 1.0, warmup=100)
    assert schedule(0) < schedule(50) < schedule(99) == pytest.approx(1.0)
    assert schedule(999) == pytest.approx(0.01, abs=1e-3)
    some = recipe(Path("x"), distortion_first=0.1, rate_ramp=0.4)
    assert [rate_weight(t, some) for t in (0.0, 0.1, 0.3, 0.5, 0.9)] == pytest.approx([0, 0, 0.5, 1, 1])


def test_the_validated_loss_is_the_one_that_is_trained():
    """bits + s sum lambda d, and a level's share by its scale."""
    figures = {"bytes@0": 10.0, "bytes@100": 50.0}
    figures |= {
        "a/distortion@0": 0.5,
        "a/distortion@100": 0.1,
        "b/distortion@0": 0.25,
        "b/distortion@100": 0.0,
    }
    two = CodecRecipe(
        data="x",
        parts=(Part(network="a", lambda_=100.0), Part(network="b", lambda_=40.0)),
        scales=(0.25, 4.0),
        qualities=(0, 100),
        steps=1,
    )
    low, high = 80 + 0.25 * (50 + 10), 400 + 4 * 10
    assert validated_loss(two, ("a", "b"), from_json(figures)) == pytest.approx((low + high) / 2)
    balanced = two.model_copy(update={"balance": 0.5})
    assert validated_loss(balanced, ("a", "b"), from_json(figures)) == pytest.approx((2 * low + high / 2) / 2)
    single = two.model_copy(update={"form": "dr", "parts": two.parts[:1]})
    expected = (0.25 * 0.5 + 100 * 80 + 4 * 0.1 + 100 * 400) / 2
    assert validated_loss(single, ("a",), from_json(figures)) == pytest.approx(expected)


@pytest.mark.parametrize("form", ["rd", "dr"])
def test_a_level_counts_in_training_by_its_scale_and_balance(tmp_path, tiny_network, patches, form):
    part = Part(network=str(tiny_network), lambda_=300.0)
    recipe = CodecRecipe(
        data="patches", parts=(part,), steps=20, batch=24, scales=(16.0,), balance=0.25, form=form
    )
    train_codec(recipe, patches[:1], patches[1:], tmp_path / "run", resume=False)
    (line,) = curve(tmp_path / "run")
    rate = 300 if form == "dr" else 1 / 300
    # The ramp of the rate, a tenth of the steps after its start, is complete after another three tenths.
    expected = (16 * line["distortion"] + rate * 8 * line["bytes_under_noise"]) / 2
    assert line["loss"] == pytest.approx(expected, rel=1e-5)


def test_the_best_codec_is_the_result(tmp_path, tiny_run):
    shutil.copytree(tiny_run, tmp_path / "run")
    best = torch.load(tmp_path / "run" / "best.pt", weights_only=True)
    assert best["figures"]["loss"] > 0
    best["model"]["codec.core.codebook.entries"].fill_(0.125)
    torch.save(best, tmp_path / "run" / "best.pt")
    assert (load_run(tmp_path / "run")[0].codec.core.codebook.entries == 0.125).all()
    (tmp_path / "run" / "best.pt").unlink()  # as in runs older than best.pt
    assert not (load_run(tmp_path / "run")[0].codec.core.codebook.entries == 0.125).any()


def test_a_training_that_has_not_ended_is_no_codec(tmp_path, tiny_run):
    shutil.copytree(tiny_run, tmp_path / "run")
    (tmp_path / "run" / "figures.json").unlink()
    load_run(tmp_path / "run")  # ended before figures were written down
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    torch.save(torch.load(checkpoint, weights_only=True) | {"step": 59}, checkpoint)
    with pytest.raises(DataError, match=r"is at step 59 of 60; resume it first"):
        load_run(tmp_path / "run")


def test_lambda_weighs_the_distortion_in_either_form(tmp_path, tiny_run, patches):
    shutil.copytree(tiny_run, tmp_path / "run")
    about = json.loads((tmp_path / "run" / "recipe.json").read_text())
    about["recipe"]["form"] = "dr"
    about["recipe"]["parts"][0]["lambda_"] = 1 / 256
    (tmp_path / "run" / "recipe.json").write_text(json.dumps(about))
    build(tmp_path / "run", tmp_path / "bundle", "dr", patches[1])
    assert [level.lambda_ for level in Bundle.open(tmp_path / "bundle").manifest.qualities] == [256.0]


def test_folders_of_a_machine_are_told_by_name_only():
    keys = ("data", "validation", "bundle", "network", "init", "weights", "labels")
    told = without_paths(
        {key: f"/home/me/{key}" for key in keys} | {"parts": [{"network": "/home/me/n"}], "steps": 3}
    )
    assert told == {key: key for key in keys} | {"parts": [{"network": "n"}], "steps": 3}


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_nothing_can_be_drawn_from_is_refused(seed):
    part = Part(network="x", lambda_=1.0)
    for make in (
        lambda: CodecRecipe(data="x", parts=(part,), steps=1, seed=seed),
        lambda: TaskRecipe(network="x", data="x", bundle="x", steps=1, seed=seed),
    ):
        with pytest.raises(ValidationError, match="seed"):
            make()


def test_commands_tell_a_user_what_is_wrong(tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "isthmus", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
        )

    empty = tmp_path / "empty"
    empty.mkdir()
    file = tmp_path / "file"
    file.touch()
    for arguments, expected in [
        (
            ("network", "train", "--data", str(empty), "--out", str(tmp_path / "n")),
            "is no data set of a known format",
        ),
        (
            ("bundle", "build", str(empty), "--data", str(empty), "--out", str(tmp_path / "b")),
            "no codec training in",
        ),
        (
            ("rooms", "render", str(tmp_path / "r"), "--count", "2", "--size", "32", "--layers", "colour"),
            "layers are some of",
        ),
        (("rooms", "render", "/proc/zz", "--count", "2", "--size", "32"), "/proc/zz: "),
        (("rooms", "render", str(file), "--count", "2", "--size", "32"), "is a file"),
        (
            ("codec", "train", "--data", "x", "--network", "y", "--out", "z", "--set", "preset=huge"),
            "--set preset: ",
        ),
    ]:
        done = run(*arguments)
        assert done.returncode == 2, done.stderr
        assert expected in done.stderr
        assert "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_killed_command_loses_at_most_a_minute(tmp_path):
    """SIGKILL behind the second checkpoint, then --resume: the curve is that of a run that was left alone.

    Between two checkpoints lies the most that a kill can lose. All runs are ended by the test: they would take hours.
    """
    data = tmp_path / "rooms"
    command = [sys.executable, "-m", "isthmus"]
    subprocess.run([*command, "rooms", "render", str(data), "--count", "120", "--size", "64"], check=True)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    checkpoint = killed / "checkpoint.pt"
    running: list[subprocess.Popen] = []

    def train(out: Path) -> subprocess.Popen:
        flags = [
            "--data",
            str(data),
            "--out",
            str(out),
            "--steps",
            "1000000",
            "--batch",
            "16",
            "--set",
            "holdout=20",
        ]
        running.append(subprocess.Popen([*command, "network", "train", *flags, "--resume"]))
        return running[-1]

    def wait(process: subprocess.Popen, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 300
        while not condition():
            assert process.poll() is None, "the training has ended"
            assert time.monotonic() < end
            time.sleep(0.05)

    def complete(run: Path) -> list[dict]:
        """The curve so far, less the half line that is being written."""
        path = run / "curve.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def last_step(run: Path) -> int:
        return max((line["step"] for line in complete(run)), default=0)

    def end(process: subprocess.Popen) -> None:
        process.send_signal(signal.SIGKILL)
        process.wait()

    try:
        alone, other = train(whole), train(killed)
        wait(other, checkpoint.is_file)
        first = checkpoint.stat().st_mtime
        wait(other, lambda: checkpoint.stat().st_mtime > first)
        assert checkpoint.stat().st_mtime - first <= 60
        behind = last_step(killed)
        wait(other, lambda: last_step(killed) > behind)
        lost_s = time.time() - checkpoint.stat().st_mtime
        end(other)
        reached, saved = last_step(killed), torch.load(checkpoint, weights_only=True)["step"]
        assert 0 < saved < reached, "nothing was lost: the kill came too early to prove anything"
        assert lost_s <= 60
        other = train(killed)
        wait(other, lambda: last_step(killed) < reached)  # what lay behind the checkpoint is forgotten
        wait(other, lambda: last_step(killed) >= reached + 20)
        end(other)
        wait(alone, lambda: last_step(whole) >= reached + 20)
        end(alone)
    finally:
        for process in running:
            process.kill()
            process.wait()
    lines = [[line for line in complete(run) if line["step"] <= reached + 20] for run in (whole, killed)]
    assert len(lines[0]) == reached // 20 + 1
    assert lines[0] == lines[1]


def test_a_bundle_says_nothing_of_the_machine_that_made_it(tiny_bundle, tiny_network):
    for file in tiny_bundle.iterdir():
        data = file.read_bytes()
        for trace in (str(tiny_network.parent), os.path.dirname(os.__file__), "site-packages"):
            assert trace.encode() not in data, f"{file.name} holds {trace}"


@pytest.fixture(scope="module")
def joint_run(tmp_path_factory, patches, tiny_network) -> Path:
    """Two networks with features of different shapes, three levels."""
    out = tmp_path_factory.mktemp("joint") / "codec"
    parts = (
        Part(network=str(tiny_network), name="coarse", lambda_=300.0),
        Part(network=str(tiny_network), name="fine", split=3, lambda_=300.0),
    )
    levels = {"scales": (0.1, 1.0, 10.0), "qualities": (0, 50, 100)}
    train(CodecRecipe(data="patches", parts=parts, steps=40, batch=24, **levels), patches, out)
    return out


@pytest.fixture(scope="module")
def joint_bundle(tmp_path_factory, patches, joint_run) -> Path:
    out = tmp_path_factory.mktemp("joint") / "bundle"
    build(joint_run, out, "joint", patches[1])
    return out


def test_features_of_different_shapes_share_one_codec(joint_run):
    model, recipe, _ = load_run(joint_run)
    shapes = [head.feature for head in model.heads]
    assert len({shape[1:] for shape in shapes}) == 2
    y = [torch.zeros(2, *shape) for shape in shapes]
    made, _ = model.codec(y, torch.zeros(2))
    assert [tuple(one.shape[1:]) for one in made] == shapes
    assert recipe.default_quality == 50


def test_three_networks_and_one_train_alike(tmp_path, patches, tiny_network):
    for count in (1, 3):
        names = [f"task{i}" for i in range(count)]
        parts = tuple(Part(network=str(tiny_network), name=name, lambda_=300.0) for name in names)
        figures = train(
            CodecRecipe(data="patches", parts=parts, steps=2, batch=24), patches, tmp_path / str(count)
        )
        assert all(figures.has("top1", name, 50) for name in names)


def test_two_networks_of_one_name_are_refused(tmp_path, patches, tiny_network):
    part = Part(network=str(tiny_network), lambda_=300.0)
    with pytest.raises(DataError, match="two networks are named 'classification'"):
        train(CodecRecipe(data="patches", parts=(part, part), steps=2, batch=24), patches, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"scales": (1.0, 0.5), "qualities": (0, 100)}, "scales must ascend"),
        ({"scales": (0.5, 1.0)}, "need as many qualities"),
        ({"scales": (0.5, 1.0), "qualities": (0, 101)}, "within 0..100"),
        ({"form": "dr", "parts": [{"network": "a", "lambda_": 1.0}] * 2}, "for one network"),
    ],
)
def test_a_recipe_that_does_not_fit_says_why(changes, told):
    with pytest.raises(ValueError, match=told):
        recipe(Path("x"), **changes)


def test_a_codec_of_one_level_has_the_scale_that_was_asked_for():
    position, scale = draw_levels(4, torch.tensor([[0.2]]).log(), Workers(torch.device("cpu")))
    assert position is None
    assert scale.tolist() == pytest.approx([0.2])


def test_a_higher_level_costs_more_and_every_task_answers(joint_bundle, patches):
    bundle = Bundle.open(joint_bundle)
    assert bundle.quality(None) == 50
    levels = bundle.manifest.figures["build"]["levels"]
    sizes = [levels[quality]["bytes_total"] for quality in ("0", "50", "100")]
    assert sizes == sorted(sizes)
    assert all(level["decoded"] == len(patches[1]) for level in levels.values())
    views = {"coarse": patches[1], "fine": patches[1]}
    evaluation = evaluate_bundle(bundle, views, {}, [0, 25, 100])
    assert [rate.decoded_exactly for rate in evaluation.rates.values()] == [len(patches[1])] * 3
    assert all(set(rate.tasks) == set(views) for rate in evaluation.rates.values())


def test_the_cloud_answers_what_the_trained_model_answers_at_any_quality(joint_run, joint_bundle, patches):
    bundle, (model, _, _) = Bundle.open(joint_bundle), load_run(joint_run)
    encoder, cloud = Encoder(bundle), CloudModel(bundle)
    u = encoder.features(to_input(patches[1].values[:2], bundle.manifest.preprocess))
    z = np.concatenate(
        [encoder.latents(u[i : i + 1], bundle.position(q))[1] for i, q in enumerate((25, 100))]
    )
    got = cloud.outputs(z, {"coarse": [0, 1], "fine": [0, 1]}, [25, 100])
    with torch.no_grad():
        y_hat = model.codec.core.reconstruct(
            torch.from_numpy(z).float(), torch.tensor([0.5, 2.0]), model.codec.grid
        )
        for k, name in enumerate(model.names):
            expected = model.heads[k](model.codec.separation(y_hat, k))
            assert torch.allclose(got[name], expected, atol=1e-4)


def test_a_task_added_later_changes_not_a_byte_and_answers(tmp_path, patches, joint_bundle, tiny_network):
    bundle_path = tmp_path / "bundle"
    shutil.copytree(joint_bundle, bundle_path)
    before = digests(bundle_path)
    stream = Encoder(Bundle.open(bundle_path)).encode(png(3), 25).data
    values = {"data": "patches", "bundle": str(bundle_path), "network": str(tiny_network), "name": "later"}
    chosen = TaskRecipe(**values, steps=60, batch=24)
    figures = train_task(chosen, *patches, tmp_path / "run", resume=False)
    losses = [line["loss"] for line in curve(tmp_path / "run")]
    assert losses[-1] < losses[0]
    assert {"top1@uncompressed", "top1@0", "top1@50", "top1@100"} <= to_json(figures).keys()
    assert digests(bundle_path) == before, "training touched the bundle"
    add_task(bundle_path, tmp_path / "run" / FOLDER)
    bundle = Bundle.open(bundle_path)
    assert {name: digest for name, digest in digests(bundle_path).items() if name in before} == before
    assert Encoder(bundle).encode(png(3), 25).data == stream
    rate = evaluate_bundle(bundle, {"later": patches[1]}, {}, [50]).rates[50]
    assert rate.tasks["later"]["top1"] == pytest.approx(figures.value("top1", quality=50), abs=1e-6)
    with pytest.raises(DataError, match="has a task 'later' already"):
        train_task(chosen, *patches, tmp_path / "again", resume=False)


def test_an_added_task_can_start_from_another(tmp_path, patches, joint_bundle, tiny_network):
    values = {"data": "patches", "bundle": str(joint_bundle), "network": str(tiny_network), "batch": 24}
    first = train_task(TaskRecipe(**values, name="one", steps=60), *patches, tmp_path / "one", resume=False)
    start = {"init": str(tmp_path / "one" / FOLDER), "steps": 1, "learning_rate": 1e-12}
    again = train_task(TaskRecipe(**values, name="two", **start), *patches, tmp_path / "two", resume=False)
    assert again == first
    with pytest.raises(DataError, match="another width"):
        train_task(TaskRecipe(**values, name="three", width=2, **start), *patches, tmp_path / "three", False)


def digests(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_cloud_of_several_levels_warms_up(joint_bundle):
    CloudModel(Bundle.open(joint_bundle)).warm_up()
