"""The reference networks for normals and segmentation: shapes, cost, splits, labels, training as a user meets it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from cloud.networks.networks import DenseConfig, ReferenceDense, build_network, feature_shape, split
from shared.bundle import Preprocess
from shared.errors import DataError
from shared.kinds.segmentation import palette
from train.data.dataset import network_input
from train.data.room_set import RoomSet
from train.kinds import TRAINING_KINDS
from train.kinds.label_form import CLASS_MAP, IGNORE, VECTOR_MAP
from train.loop.distributed import Workers
from train.loop.sheets import sheet, sheet_indices
from train.networks.auxiliary_losses import Appearance, CategoryHead
from train.networks.learner import Learner
from train.networks.network_folder import CARD, NetworkCard, load_network
from train.networks.network_recipe import DenseRecipe
from train.networks.train_maps import at_label_stride, train_dense
from train.rooms import write_rooms

OUTPUTS = {"normals": 3, "segmentation": 17}
ALONE = Workers(torch.device("cpu"))
SMALL = {"widths": (8, 16, 24, 32), "dilations": (1, 2), "tail_widths": (32, 16, 8)}


@pytest.fixture(scope="module")
def rooms(tmp_path_factory) -> Path:
    """32 rooms of 64 x 64 with all that networks for maps need."""
    out = tmp_path_factory.mktemp("dense") / "rooms"
    layers = ("image", "normals", "semantic", "category")
    write_rooms(out, range(32), height=64, width=64, layers=layers, shard_size=10)
    return out


def recipe(task: str, **changes) -> DenseRecipe:
    values = {"data": "rooms", "task": task, "steps": 40, "batch": 12, "height": 64, "width": 64}
    # Few steps: no time for the schedule's warm-up of 200.
    network = DenseConfig(outputs=OUTPUTS[task], stride=8, **SMALL)
    return DenseRecipe(**{**values, "learning_rate": 2e-2, "network": network, **changes})


def train(data: Path, out: Path, chosen: DenseRecipe, resume: bool = False) -> NetworkCard:
    sets = RoomSet(data, chosen.task, 0, -8), RoomSet(data, chosen.task, -8)
    categories = RoomSet(data, "classification", 0, -8) if chosen.category else None
    return train_dense(chosen, *sets, out, resume, categories=categories)


def curve(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "curve.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("bilinear", [True, False])
@pytest.mark.parametrize("stride", [2, 8, 16, 64])
def test_shapes(stride, bilinear):
    config = DenseConfig(outputs=5, stride=stride, feature_channels=6, bilinear=bilinear, **SMALL)
    network = ReferenceDense(config).eval()
    front, _ = split(network, network.split_layer)
    assert feature_shape(front, 64, 128) == (6, 64 // stride, 128 // stride)
    assert feature_shape(network, 64, 128) == (5, 64, 128)


def test_split_anywhere_equals_the_whole():
    torch.manual_seed(0)
    network = ReferenceDense(DenseConfig(outputs=3, stride=16, **SMALL)).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        whole = network(x)
        for layer in range(len(network) + 1):
            front, tail = split(network, layer)
            assert torch.equal(tail(front(x)), whole), layer


@pytest.mark.parametrize("outputs", [3, 17])
def test_the_tail_costs_at_most_150_million_multiply_adds(outputs):
    network = ReferenceDense(DenseConfig(outputs=outputs)).eval()
    front, tail = split(network, network.split_layer)
    spent = 0

    def count(module, inputs, output):
        nonlocal spent
        if isinstance(module, nn.Conv2d):
            spent += output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.ConvTranspose2d):
            spent += inputs[0].numel() * module.weight[0].numel()

    for module in tail.modules():
        module.register_forward_hook(count)
    with torch.no_grad():
        feature = front(torch.zeros(1, 3, 256, 256))
        assert feature.shape == (1, 8, 16, 16)
        tail(feature)
    assert 100e6 < spent <= 150e6


def test_the_front_sees_the_whole_picture():
    """Without dilations a cell sees 63 pixels, and cannot know which way the room is turned."""
    network = ReferenceDense(DenseConfig(outputs=3)).double().eval()
    front, _ = split(network, network.split_layer)
    x = torch.randn(1, 3, 256, 256, dtype=torch.float64, requires_grad=True)
    front(x)[0, :, 8, 8].sum().backward()
    seen = x.grad[0].abs().sum(0).nonzero()
    assert (seen.amin(0) <= 20).all()
    assert (seen.amax(0) >= 235).all()


def test_networks_are_built_by_name_and_bad_sizes_are_refused():
    assert isinstance(build_network("reference-dense", {"outputs": 3}), ReferenceDense)
    with pytest.raises(ValueError, match="power of two"):
        build_network("reference-dense", {"outputs": 3, "stride": 12})
    with pytest.raises(ValueError, match="unknown network"):
        build_network("reference-dens", {"outputs": 3})


def test_labels_are_mirrored_with_their_pictures():
    """Each pixel keeps its label; a normal that points right points left afterwards."""
    random = np.random.default_rng(0)
    classes = random.integers(0, 17, (2, 3, 4), dtype=np.uint8)
    normals = random.integers(-127, 128, (2, 3, 4, 3), dtype=np.int8)
    before = classes.copy(), normals.copy()
    flip = np.array([True, False])
    flipped, turned = CLASS_MAP.mirrored(classes, flip), VECTOR_MAP.mirrored(normals, flip)
    for row in range(3):
        for column in range(4):
            assert flipped[0, row, column] == classes[0, row, 3 - column]
            x, y, z = normals[0, row, 3 - column].tolist()
            assert turned[0, row, column].tolist() == [-x, y, z]
    assert np.array_equal(flipped[1], classes[1])
    assert np.array_equal(turned[1], normals[1])
    assert np.array_equal(classes, before[0])
    assert np.array_equal(normals, before[1])
    assert flipped.dtype == np.uint8
    assert turned.dtype == np.int8


def test_a_mirrored_room_has_the_normals_of_its_picture(rooms):
    """Of the real labels: the picture and its labels are turned together, and x is the component that points right."""
    data = RoomSet(rooms, "normals")
    indices = np.arange(6)
    flip = np.ones(6, bool)
    turned = data.labels(indices, flip)
    plain = Preprocess(height=64, width=64, mean=(0, 0, 0), std=(1, 1, 1))
    x = network_input(data.images(indices), plain, flip)
    assert np.array_equal(np.rint(x.numpy().transpose(0, 2, 3, 1) * 255), data.images(indices)[:, :, ::-1])
    assert np.array_equal(turned * np.array([-1, 1, 1]), data.labels(indices)[:, :, ::-1])
    # What is seen on the left half of a picture faces right, more than what is seen on the right half.
    for maps in (data.labels(indices), turned):
        assert maps[:, :, :32, 0].mean() > maps[:, :, 32:, 0].mean()


def test_losses_counted_by_hand():
    made = torch.zeros(1, 4, 2, 2)
    classes = torch.tensor([[[0, 1], [IGNORE, IGNORE]]], dtype=torch.uint8)
    assert TRAINING_KINDS["segmentation"].label_loss(made, classes).item() == pytest.approx(math.log(4))
    made[:, :, 1] = torch.tensor([9.0, -9.0, 4.0, 0.0])[:, None]  # where nobody knows the answer
    assert TRAINING_KINDS["segmentation"].label_loss(made, classes).item() == pytest.approx(math.log(4))
    nobody = torch.full((1, 2, 2), IGNORE, dtype=torch.uint8)
    assert TRAINING_KINDS["segmentation"].label_loss(made, nobody).item() == 0
    normals = torch.zeros(1, 1, 3, 3, dtype=torch.int8)
    normals[0, 0, 0, 2] = normals[0, 0, 1, 2] = 127
    answer = torch.tensor([[[[0.0, 5.0, 1.0]], [[0.0, 0.0, 1.0]], [[7.0, 0.0, 1.0]]]])
    # One right (0), one at 90 degrees (1 - 0, and components off by 1, 0, 1), one without a label.
    assert TRAINING_KINDS["normals"].label_loss(answer, normals).item() == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize("task", OUTPUTS)
@pytest.mark.parametrize("label_stride", [1, 2])
def test_a_few_steps_lower_the_loss(tmp_path, rooms, task, label_stride):
    card = train(rooms, tmp_path / "run", recipe(task, label_stride=label_stride))
    lines = curve(tmp_path / "run")
    assert lines[-1]["loss"] < 0.85 * lines[0]["loss"]
    expected = {"normals": "mean_deg", "segmentation": "miou"}[task]
    assert expected in lines[-1]
    assert expected in card.figures
    network, loaded = load_network(tmp_path / "run")
    assert isinstance(network, ReferenceDense)
    assert loaded == card
    assert loaded.task == task
    assert len(loaded.labels) == OUTPUTS[task]


def test_both_ends_and_label_strides_train_on_the_same_pixels(rooms):
    """The loss at stride 2 is that of the chosen pixels; a deconvolution at the end is thinned out alike."""
    config = DenseConfig(outputs=17, stride=8, bilinear=False, **SMALL)
    network = ReferenceDense(config).eval()
    learner = Learner(network, recipe("segmentation", network=config), ALONE)
    data = RoomSet(rooms, "segmentation")
    truth = torch.from_numpy(data.labels(np.arange(2)))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        made, labels = at_label_stride(learner, learner.feature(x)[0], truth, 2, (1, 0))
        assert torch.equal(made, network(x)[:, :, 1::2, ::2])
    assert torch.equal(labels, truth[:, 1::2, ::2])


def test_appearance_keeps_the_picture_in_the_feature(tmp_path, rooms):
    """A decoder that is fitted afterwards finds more of the picture in a feature that was made to hold it."""
    data = RoomSet(rooms, "normals")
    x = network_input(data.images(np.arange(len(data))), Preprocess(height=64, width=64))

    def left(folder: Path) -> float:
        network, _ = load_network(folder)
        front, _ = split(network, network.split_layer)
        with torch.no_grad():
            y = front(x)
            y = (y - y.mean((0, 2, 3), keepdim=True)) / y.std((0, 2, 3), keepdim=True)
        torch.manual_seed(0)
        decoder = Appearance(y.shape[1])
        optimiser = torch.optim.Adam(decoder.parameters(), 1e-2)
        for _ in range(60):
            distance = decoder.distance(y, x)
            optimiser.zero_grad()
            distance.backward()
            optimiser.step()
        return distance.item()

    train(rooms, tmp_path / "task", recipe("normals"))
    train(rooms, tmp_path / "both", recipe("normals", appearance=2.0))
    assert left(tmp_path / "both") < 0.8 * left(tmp_path / "task")
    names = load_network(tmp_path / "task")[0].state_dict().keys()
    assert load_network(tmp_path / "both")[0].state_dict().keys() == names  # the decoder is dropped


def test_one_cell_that_shows_a_thing_tells_the_category():
    """A thing in one cell of 64 tells it, and the gradient goes to that cell; a mean over the cells would drown it."""
    things = CategoryHead(3, 3)
    things.layers = nn.Identity()  # the cells' logits are the feature
    y = torch.zeros(1, 3, 8, 8)
    y[0, 1, 2, 5] = 10.0
    y.requires_grad_()
    logit = math.log(math.exp(10) + 63)
    distance = things.distance(y, torch.tensor([1]))
    assert distance.item() == pytest.approx(math.log(math.exp(logit) + 2 * 64) - logit, rel=1e-4)
    distance.backward()
    share = y.grad[0, 1].abs() / y.grad[0, 1].abs().sum()
    assert share[2, 5] > 0.99
    same = torch.full((1, 3, 8, 8), 4.0)  # however many cells say so: no more certain
    assert things.distance(same, torch.tensor([1])).item() == pytest.approx(math.log(3))


def test_telling_the_category_teaches_the_front_by_its_weight():
    network = build_network("reference-dense", {"outputs": 3, "stride": 8, **SMALL})
    x, categories = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 3])
    learner = Learner(network, recipe("normals", category=1.0), ALONE, 4)
    double = Learner(network, recipe("normals", category=2.0), ALONE, 4)
    double.module.load_state_dict(learner.module.state_dict())
    gradients = []
    for one in (learner, double):
        network.zero_grad()
        one.feature(x, categories)[1].backward()
        gradients.append(network[0][0].weight.grad.clone())
    assert gradients[0].abs().sum() > 0
    assert torch.allclose(gradients[1], 2 * gradients[0], rtol=1e-3, atol=1e-6)


def test_each_picture_is_told_its_own_category(tmp_path, rooms, monkeypatch):
    seen, plain = [], Learner.feature

    def spy(self, x, categories=None):
        seen.append((x.mean((2, 3)), categories))  # which mirroring does not change
        return plain(self, x, categories)

    monkeypatch.setattr(Learner, "feature", spy)
    train(rooms, tmp_path / "task", recipe("normals", steps=4))
    assert all(categories is None for _, categories in seen)
    seen.clear()
    train(rooms, tmp_path / "both", recipe("normals", steps=4, category=1.0))
    data = RoomSet(rooms, "classification", 0, -8)
    known = network_input(data.images(np.arange(24)), Preprocess(height=64, width=64)).mean((2, 3))
    for means, categories in seen:
        which = torch.cdist(means, known).argmin(1)
        assert categories.tolist() == data.labels(which.numpy()).tolist()
    one, other = (load_network(tmp_path / name)[0].state_dict() for name in ("task", "both"))
    assert one.keys() == other.keys()  # what tells it is dropped


def test_a_set_without_categories_is_named(tmp_path):
    plain = tmp_path / "plain"
    write_rooms(plain, range(16), height=64, width=64, layers=("image", "normals"), shard_size=10)
    with pytest.raises(
        DataError, match=r"plain has no category; render a set that has: .* --layers image,normals,cat"
    ):
        train(plain, tmp_path / "none", recipe("normals", category=1.0))
    sets = RoomSet(plain, "normals", 0, -8), RoomSet(plain, "normals", -8)
    with pytest.raises(DataError, match="the images of rooms have no categories") as caught:
        train_dense(recipe("normals", category=1.0), *sets, tmp_path / "none", resume=False)
    assert caught.value.setting == "category"


def test_noise_is_added_in_training_and_in_the_channels_own_units():
    network = build_network("reference-dense", {"outputs": 3, "stride": 8, **SMALL})
    x = torch.randn(4, 3, 64, 64)
    learner = Learner(network, recipe("normals", noise=0.5), ALONE)
    torch.manual_seed(0)
    with torch.no_grad():
        network.eval()
        clean = learner.front(x)
        noise = torch.cat([learner.feature(x)[0] - clean for _ in range(50)])
    assert torch.allclose(noise.std((0, 2, 3)) / clean.std((0, 2, 3)), torch.tensor(0.5), rtol=0.05)


def test_a_batch_without_a_labelled_pixel_is_passed_over(tmp_path, rooms):
    class Unlabelled(RoomSet):
        def labels(self, indices, flip=None):
            return np.full_like(super().labels(indices), IGNORE)

    chosen = recipe("segmentation", steps=20)
    sets = Unlabelled(rooms, "segmentation", 0, -8), RoomSet(rooms, "segmentation", -8)
    train_dense(chosen, *sets, tmp_path / "run", resume=False)
    assert curve(tmp_path / "run") == [{"step": 20, "loss": 0.0}]


def test_a_run_goes_on_with_the_same_pictures_only(tmp_path, rooms):
    chosen = recipe("normals", steps=1)
    train(rooms, tmp_path / "run", chosen)
    train(rooms, tmp_path / "run", chosen, resume=True)
    sets = RoomSet(rooms, "normals", 0, -7), RoomSet(rooms, "normals", -8)
    with pytest.raises(DataError, match="the set to train on has changed since"):
        train_dense(chosen, *sets, tmp_path / "run", resume=True)
    sets = RoomSet(rooms, "normals", 0, -8), RoomSet(rooms, "normals", -7)
    with pytest.raises(DataError, match="the set held out has changed since"):
        train_dense(chosen, *sets, tmp_path / "run", resume=True)


def test_frozen_layers_stay_as_they_started(tmp_path, rooms):
    first = tmp_path / "first"
    train(rooms, first, recipe("normals", steps=4))
    chosen = recipe("segmentation", steps=4, init=str(first), freeze=3)
    train(rooms, tmp_path / "second", chosen)
    old, new = load_network(first)[0].state_dict(), load_network(tmp_path / "second")[0].state_dict()
    for name, tensor in new.items():  # running means and variances too
        same = old[name].shape == tensor.shape and torch.equal(old[name], tensor)
        assert same == (int(name.split(".")[0]) < 3), name
    with pytest.raises(DataError, match="the front has 6 layers"):
        train(rooms, tmp_path / "third", recipe("segmentation", init=str(first), freeze=7))
    with pytest.raises(ValueError, match="would stay random"):
        recipe("segmentation", freeze=2)


@pytest.mark.parametrize("beside", [{}, {"appearance": 0.5, "category": 0.5, "noise": 0.3}])
def test_an_interrupted_run_resumes_to_the_same_curve(tmp_path, rooms, monkeypatch, beside):
    from train.loop import run as module
    from train.loop import training as loop

    class KilledError(Exception):
        pass

    chosen = recipe("normals", label_stride=2, **beside)
    train(rooms, tmp_path / "whole", chosen)
    plain = module.Run.save
    monkeypatch.setattr(loop, "CHECKPOINT_S", 0.0)  # a checkpoint a step

    def save_then_stop(self, state):
        plain(self, state)
        if state["step"] == 17:
            raise KilledError

    monkeypatch.setattr(module.Run, "save", save_then_stop)
    with pytest.raises(KilledError):
        train(rooms, tmp_path / "killed", chosen)
    monkeypatch.setattr(module.Run, "save", plain)
    with pytest.raises(DataError, match="label_stride"):
        train(rooms, tmp_path / "killed", recipe("normals", label_stride=1), resume=True)
    card = train(rooms, tmp_path / "killed", chosen, resume=True)
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    assert card == NetworkCard.model_validate_json((tmp_path / "whole" / CARD).read_text())


def test_tensorboard_shows_input_prediction_and_truth(tmp_path, rooms):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(rooms, tmp_path / "run", recipe("segmentation", steps=2))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert events.Tags()["images"] == ["validation/segmentation"]
    assert "validation/miou" in events.Tags()["scalars"]
    picture = events.Images("validation/segmentation")[0]
    assert (picture.height, picture.width) == (4 * 64, 3 * 64)


def test_the_sheet_shows_the_labels_in_their_colours(rooms):
    data = RoomSet(rooms, "segmentation")
    network = ReferenceDense(DenseConfig(outputs=17, stride=8, **SMALL)).eval()
    x = network_input(data.images(sheet_indices(data)), Preprocess(height=64, width=64))
    with torch.no_grad():
        shown = sheet("segmentation", data, network(x))
    assert np.array_equal(shown[64:128, :64], data.images(np.array([1]))[0])
    truth = data.labels(np.array([1]))[0]
    assert tuple(shown[64 + 50, 128 + 7]) == tuple(palette(17)[truth[50, 7]])


def test_an_older_card_is_a_classifiers(tiny_network):
    values = json.loads((tiny_network / CARD).read_text())
    del values["task"]
    assert NetworkCard.model_validate(values).task == "classification"


def test_pictures_that_the_stride_does_not_divide_are_refused(tmp_path, rooms):
    with pytest.raises(DataError, match="cells of 8 x 8"):
        train(rooms, tmp_path / "run", recipe("normals", height=60))
    assert not (tmp_path / "run").exists()


def test_the_command(tmp_path, rooms):
    """What a user types, and what each mistake says: one line, and nothing left behind."""
    from isthmus import app

    def run(*flags: str, data: Path = rooms):
        fixed = ["--data", str(data), "--out", str(tmp_path / "out"), "--set", "holdout=8", "--steps", "2"]
        return CliRunner().invoke(app, ["network", "train", *fixed, "--batch", "4", *flags])

    bare = tmp_path / "bare"
    write_rooms(bare, range(9), height=32, width=32, layers=("image", "category"))
    for flags, data, said in [
        (("--task", "smell"), rooms, "--task: 'smell' is not one of classification, normals, segmentation"),
        (("--task", "normals"), bare, "--layers image,normals,category"),
        (("--task", "segmentation"), bare, "--layers image,semantic,category"),
        (("--task", "normals", "--set", "network.stride=12"), rooms, "--set network.stride: "),
        (("--set", "network.stride=12"), rooms, "power of two"),
        (("--set", "holdout=9"), bare, "9 held out of 9 rooms leave none to train on (--set holdout)"),
        (("--task", "normals", "--set", "category=1"), bare, "--layers image,normals,category"),
        (("--set", "label_stride=2"), rooms, "--set label_stride: only for tasks that make a map"),
    ]:
        done = run(*flags, data=data)
        assert isinstance(done.exception, DataError), done.output
        assert said in str(done.exception)
        assert "\n" not in str(done.exception)
        assert not (tmp_path / "out").exists()
    done = run("--task", "segmentation", "--set", "label_stride=2")
    assert done.exit_code == 0, done.output
    assert "mIoU" in done.output
    assert "on 8 held-out images" in done.output
