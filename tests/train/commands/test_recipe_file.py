"""Recipe files, --set and flags: what each may say, which counts, and how a mistake is reported."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from shared.errors import DataError
from train.commands import codec as codec_command
from train.commands import network as network_command
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
    """`isthmus network train --recipe` of a file that holds `text`."""
    from isthmus import app

    file = tmp_path / "recipe.toml"
    if text is not None:
        file.write_text(text)
        flags = ("--recipe", str(file), *flags)
    return CliRunner().invoke(app, ["network", "train", "--out", str(tmp_path / "run"), *flags])


def started(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "run" / "recipe.json").read_text())


def test_flags_and_set_override_the_file(tmp_path, rooms):
    text = f'data = "{rooms}"\ntask = "normals"\nweight_decay = 0.5\nseed = 7\nlearning_rate = 0.1\n' + SMALL
    text += "[network]\nstride = 8\nwidths = [4, 6, 8]\ntail_widths = [8, 4]\nfeature_channels = 3\n"
    sets = ("--set", "seed=9", "--set", "seed=0", "--set", "network.feature_channels=5")
    done = train(tmp_path, text, *sets, "--batch", "3", "--set", "learning_rate=2e-3")
    assert done.exit_code == 0, done.output
    assert "on 4 held-out images" in done.output
    recipe = started(tmp_path)["recipe"]
    assert recipe["data"] == str(rooms)
    assert (recipe["weight_decay"], recipe["steps"]) == (0.5, 2)  # from the file
    assert (recipe["seed"], recipe["batch"]) == (0, 3)  # the last --set, a flag
    assert recipe["learning_rate"] == 2e-3
    network, _ = load_network(tmp_path / "run")
    assert network.config.widths == (4, 6, 8)
    assert (network.config.stride, network.config.feature_channels) == (8, 5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[network]\nstride = 12\n", "recipe.toml:2: network.stride: stride must be a power of two, not 12"),
        ("stepz = 5\n", "recipe.toml:1: stepz: there is no such key; did you mean steps?"),
        (
            "\n[network]\nstrid = 8\n",
            "recipe.toml:3: network.strid: there is no such key; did you mean stride?",
        ),
        ("[netwrok]\nstride = 8\n", "recipe.toml:2: netwrok: there is no such key; did you mean network?"),
        (
            "zzz = 5\n",
            "recipe.toml:1: zzz: not one of appearance, augment, batch, damaged, data, freeze, holdout,",
        ),
        ('seed = 1\nsteps = "many"\n', "recipe.toml:2: steps: Input should be a valid integer"),
        ("holdout = 0\n", "recipe.toml:1: holdout: Input should be greater than 0"),
        ("holdout = 12\n", "12 held out of 12 rooms leave none to train on (recipe.toml:1: holdout)"),
        ("learning_rate = -1.0\n", "recipe.toml:1: learning_rate: Input should be greater than 0"),
        ("network = 3\n", "recipe.toml:1: network: "),
        ("height = 64\n", "recipe.toml:1: height: follows from the data; leave it out"),
        ("[network]\nclasses = 2\n", "recipe.toml:2: network.classes: follows from the data; leave it out"),
        ('task = "depths"\n', "recipe.toml:1: task: 'depths' is not one of classification"),
        ("label_stride = 2\n", "recipe.toml:1: label_stride: only for tasks that make a map"),
        ("category = 0.5\n", "recipe.toml:1: category: only for tasks that make a map"),
        ('size = "9"\n', "'9' is not HEIGHTxWIDTH, as in 224x224, up to 4096 each (recipe.toml:1: size)"),
        ("steps = \n", "recipe.toml is not TOML: Invalid value (at line 1"),
    ],
)
def test_a_mistake_names_the_file_the_line_and_the_key(tmp_path, rooms, text, said):
    done = train(
        tmp_path, text, "--data", str(rooms), "--set", "holdout=4" if "holdout" not in text else "seed=4"
    )
    assert isinstance(done.exception, DataError), done.output
    assert said in str(done.exception).replace(f"{tmp_path}/", "")
    assert "\n" not in str(done.exception)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--set", "network.stride=12"), "--set network.stride: stride must be a power of two"),
        (("--set", "learning_rate=-1"), "--set learning_rate: Input should be greater than 0"),
        (("--set", "network.strid=8"), "--set network.strid: there is no such key; did you mean stride?"),
        (("--set", "stride"), "--set 'stride' is not KEY=VALUE"),
        (("--set", "network..stride=8"), "is not KEY=VALUE"),
        (("--set", "seed.x=8"), "seed is a value and holds no x"),
        (("--set", "size=9x"), "'9x' is not HEIGHTxWIDTH, as in 224x224, up to 4096 each (--set size)"),
        (("--task", "depths"), "--task: 'depths' is not one of classification"),
        # Neither of the two outranks the other.
        (("--steps", "3", "--set", "steps=4"), "--steps and --set steps give the same setting; give it once"),
    ],
)
def test_a_mistake_on_the_command_line_names_what_was_typed(tmp_path, rooms, flags, said):
    text = "seed = 1\nholdout = 4\n[network]\nstride = 8\n"
    done = train(tmp_path, text, "--data", str(rooms), *flags)
    assert isinstance(done.exception, DataError), done.output
    assert said in str(done.exception)
    assert not (tmp_path / "run").exists()


def test_what_is_missing(tmp_path):
    assert str(train(tmp_path, None).exception).startswith("--data is missing")
    done = train(tmp_path, None, "--recipe", str(tmp_path / "nothing.toml"))
    assert isinstance(done.exception, FileNotFoundError)  # `main` makes one line of it


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("[1, 2]", [1, 2]),
        ("true", True),
        ('"3"', "3"),
        ("runs/front", "runs/front"),  # no TOML: a string
        ("64x64", "64x64"),
        ("", ""),
        ("1\nother = 2", "1\nother = 2"),
    ],
)
def test_values_of_set(text, value):
    from train.commands.recipe_file import _assignment

    assert _assignment(f"a.b = {text}") == ("a.b", value)


def test_lines_of_keys():
    from train.commands.recipe_file import _lines_of

    text = "a = 1\n# b = 2\n\n[t]\nb = [\n  1,\n]\n[[p]]\nx = 1\n[[p]]\nx = { y = 2 }\nz.w = 1\n"
    assert _lines_of(text) == {
        "a": 1,
        "t": 4,
        "t.b": 5,
        "p.0": 8,
        "p.0.x": 9,
        "p.1": 10,
        "p.1.x": 11,
        "p.1.z.w": 12,
    }


def test_the_examples_are_what_holds_by_default():
    """docs/network.toml and docs/codec.toml are for reading: they may not say what no longer holds."""
    from train.codec.codec_recipe import CodecRecipe, spread
    from train.networks.network_recipe import DenseRecipe

    def split(name: str, defaults: dict) -> tuple[dict, dict]:
        """The example without what only the command takes, and what a file without any settings would give."""
        example = tomllib.loads((ROOT / "docs" / name).read_text())
        plain = {key: value for key, value in defaults.items() if key not in ("damaged", "task")}
        assert example.pop("damaged", defaults["damaged"]) == defaults["damaged"]
        return example, plain

    example, plain = split("network.toml", network_command.DEFAULTS)
    outputs = {"network": {**example.pop("network"), "outputs": 3}}
    given = {"data": example["data"], "task": example["task"], "network": {"outputs": 3}}
    assert DenseRecipe.model_validate({**example, **outputs}) == DenseRecipe.model_validate(
        {**plain, **given}
    )

    example, plain = split("codec.toml", codec_command.DEFAULTS)
    assert all(part["lambda"] == codec_command.LAMBDA for part in example["parts"])
    plain |= {"data": example["data"], "parts": example["parts"], "qualities": spread(len(plain["scales"]))}
    plain["context"] = "slices"  # the command's default for the codebook
    assert CodecRecipe.model_validate(example) == CodecRecipe.model_validate(plain)


def test_a_network_starts_from_another(tmp_path, rooms):
    flags = ("--data", str(rooms), "--set", "seed=3")
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
    assert "the network to start from has changed since" in str(done.exception)
