"""Recipe files: what they may say, what overrides them, and how a mistake in one is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from shared.errors import DataError
from train.networks.network_folder import load_network
from train.rooms import write_rooms

ROOT = Path(__file__).parents[3]
SMALL = "steps = 2\nbatch = 4\nholdout = 4\n"


@pytest.fixture(scope="module")
def rooms(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("recipes") / "rooms"
    write_rooms(out, range(12), height=32, width=32, layers=("image", "category", "normals"), shard_size=6)
    return out


def train(tmp_path: Path, text: str | None, *flags: str):
    """`isthmus train network --recipe` of a file that holds `text`."""
    from isthmus import app

    file = tmp_path / "recipe.toml"
    if text is not None:
        file.write_text(text)
        flags = ("--recipe", str(file), *flags)
    return CliRunner().invoke(app, ["train", "network", "--out", str(tmp_path / "run"), *flags])


def started(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "run" / "recipe.json").read_text())


def test_a_file_says_everything_and_a_flag_overrides_it(tmp_path, rooms):
    text = f'data = "{rooms}"\ntask = "normals"\nweight_decay = 0.5\nseed = 7\n' + SMALL
    text += "[network]\nstride = 8\nwidths = [4, 6, 8]\ntail_widths = [8, 4]\n"
    done = train(tmp_path, text, "--seed", "0", "--batch", "3", "--feature-channels", "5")
    assert done.exit_code == 0, done.output
    assert "on 4 pictures held out" in done.output
    recipe = started(tmp_path)["recipe"]
    assert recipe["data"] == str(rooms)
    assert (recipe["weight_decay"], recipe["steps"]) == (0.5, 2)  # the file's
    assert (recipe["seed"], recipe["batch"]) == (0, 3)  # a flag's, also where it gives what is the default
    assert recipe["learning_rate"] == 2e-3  # nobody's
    network, _ = load_network(tmp_path / "run")
    assert network.config.widths == (4, 6, 8)
    assert (network.config.stride, network.config.feature_channels) == (8, 5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[network]\nstride = 12\n", "recipe.toml: network.stride: stride must be a power of two, not 12"),
        ("stepz = 5\n", "recipe.toml: stepz: there is no such key; did you mean steps?"),
        ("[network]\nstrid = 8\n", "recipe.toml: network.strid: there is no such key; did you mean stride?"),
        ("[netwrok]\nstride = 8\n", "recipe.toml: netwrok: there is no such key; did you mean network?"),
        (
            "zzz = 5\n",
            "recipe.toml: zzz: not one of appearance, augment, batch, category, damaged, data, freeze, holdout,",
        ),
        ('steps = "many"\n', "recipe.toml: steps: Input should be a valid integer"),
        ("holdout = 0\n", "recipe.toml: holdout: Input should be greater than 0"),
        ("learning_rate = -1.0\n", "recipe.toml: learning_rate: Input should be greater than 0"),
        ("network = 3\n", "recipe.toml: network: "),
        ("height = 64\n", "recipe.toml: height: follows from the data; leave it out"),
        ("[network]\nclasses = 2\n", "recipe.toml: network.classes: follows from the data; leave it out"),
        ('task = "depth"\n', "recipe.toml: task: 'depth' is not one of classification"),
        ("label_stride = 2\n", "recipe.toml: label_stride: only for --task normals or segmentation"),
        ("category = 0.5\n", "recipe.toml: category: only for --task normals or segmentation"),
        ("steps = \n", "recipe.toml is not TOML: Invalid value (at line 1"),
    ],
)
def test_a_mistake_names_the_file_and_the_key(tmp_path, rooms, text, said):
    done = train(
        tmp_path, text, "--data", str(rooms), "--holdout" if "holdout" not in text else "--seed", "4"
    )
    assert isinstance(done.exception, DataError), done.output
    assert said in str(done.exception)
    assert "\n" not in str(done.exception)
    assert not (tmp_path / "run").exists()


def test_a_mistake_in_a_flag_names_the_flag(tmp_path, rooms):
    for flags, said in [
        (("--stride", "12"), "--stride: stride must be a power of two"),
        (("--learning-rate", "-1"), "--learning-rate: Input should be greater than 0"),
    ]:
        text = "[network]\nstride = 8\n"
        done = train(tmp_path, text, "--data", str(rooms), "--holdout", "4", *flags)
        assert str(done.exception).startswith(said), done.output
    assert str(train(tmp_path, None).exception).startswith("--data is missing")
    with pytest.raises(FileNotFoundError):
        (tmp_path / "nothing.toml").read_text()
    done = train(tmp_path, None, "--recipe", str(tmp_path / "nothing.toml"))
    assert isinstance(done.exception, DataError)
    assert "nothing.toml: No such file" in str(done.exception)


def test_the_example_is_what_the_flags_say_by_default():
    """docs/network.toml is for reading: it may not say what no longer holds."""
    import inspect
    import tomllib

    from train.commands.commands import network
    from train.networks.network_recipe import DenseRecipe

    example = tomllib.loads((ROOT / "docs" / "network.toml").read_text())
    defaults = {name: p.default for name, p in inspect.signature(network).parameters.items()}
    table = example.pop("network")
    for key in ("stride", "feature_channels"):
        assert table[key] == defaults[key]
    for key in ("steps", "batch", "learning_rate", "label_stride", "damaged", "seed"):
        assert example[key] == defaults[key], key
    del example["damaged"]  # of which pictures there are, not of how they are learnt from
    recipe = DenseRecipe.model_validate({**example, "network": {**table, "outputs": 3}})
    plain = DenseRecipe.model_validate(
        {"data": recipe.data, "task": recipe.task, "steps": recipe.steps, "network": {"outputs": 3}}
    )
    assert recipe == plain


def test_a_network_starts_from_another(tmp_path, rooms):
    flags = ("--data", str(rooms), "--seed", "3")
    first = tmp_path / "first"
    first.mkdir()
    assert train(first, SMALL, *flags).exit_code == 0
    done = train(tmp_path, SMALL + "learning_rate = 1e-12\n", *flags, "--init", str(first / "run"))
    assert done.exit_code == 0, done.output
    own, given = load_network(tmp_path / "run")[0], load_network(first / "run")[0]
    total = len(own.state_dict())
    assert f"{total} of {total} tensors taken from {first / 'run'}" in done.output
    for one, other in zip(own.parameters(), given.parameters(), strict=True):
        assert one.detach().numpy() == pytest.approx(other.detach().numpy(), abs=1e-8)
    assert started(tmp_path)["recipe"]["init"] == str(first / "run")

    other = tmp_path / "other"
    other.mkdir()
    text = SMALL + 'task = "normals"\n'
    done = train(other, text, *flags, "--init", str(first / "run"))
    assert done.exit_code == 0, done.output
    assert "start new: " in done.output
    taken, total = (int(word) for word in done.output.split(" tensors")[0].split()[-3::2])
    assert 0 < taken < total

    done = train(tmp_path, SMALL, *flags, "--init", str(tmp_path / "nowhere"))
    assert "no trained network in" in str(done.exception)


def test_a_run_is_not_resumed_from_another_start(tmp_path, rooms):
    flags = ("--data", str(rooms), "--init", str(tmp_path / "first" / "run"))
    first = tmp_path / "first"
    first.mkdir()
    assert train(first, SMALL, "--data", str(rooms)).exit_code == 0
    assert train(tmp_path, SMALL, *flags).exit_code == 0
    assert train(tmp_path, SMALL, *flags, "--resume").exit_code == 0
    weights = first / "run" / "network.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    done = train(tmp_path, SMALL, *flags, "--resume")
    assert "the network of --init has changed since" in str(done.exception)
