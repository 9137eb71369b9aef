"""Networks that are not the reference ones: cut at any layer, trained for, built, served."""

from __future__ import annotations

import sys
import urllib.error
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from cloud.engine.bundle_model import CloudModel
from shared.bundle import MANIFEST, ONNX, TAIL, Bundle
from shared.encoder import Encoder
from shared.errors import BundleDamagedError, DataError
from shared.image import to_input
from train.bundle.build import build
from train.codec.codec_recipe import CodecRecipe, Part
from train.codec.split_networks import load_run
from train.codec.teacher_cache import network_inputs
from train.codec.train_codec import train_codec
from train.networks.cutting import Traced
from train.networks.external_networks import give_weights, make
from train.networks.load import NetworkSpec, cut, load_network_spec
from train.networks.torchvision_shim import import_torchvision
from train.tasks.task_recipe import TaskRecipe
from train.tasks.train_task import train_task
from train.tasks.trainable_head import FOLDER

SIDE = 64
MODULE = '''
import torch
from torch import nn


class Branched(nn.Module):
    """Two branches, a shortcut, steps in place, and the number of pictures read before the first layer."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, 2, 1)
        self.b = nn.Conv2d(8, 8, 3, 1, 1)
        self.c = nn.Conv2d(8, 8, 1)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        n, _, h, w = x.shape
        y = self.a(x)
        z = self.b(self.act(y))
        z += self.c(y)
        z = z + y
        z.relu_()
        return self.head(z.view(n, 8, (h // 2) * (w // 2)).mean(-1))


class Choosing(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Assigning(nn.Module):
    def forward(self, x):
        y = x * 2
        y[:, 0] = 0
        return y


class Overwriting(nn.Module):
    def forward(self, x):
        y = x * 2
        y.view(-1).fill_(1)
        return y


class Two(nn.Module):
    def forward(self, x):
        return x, x * 2


class Unknown(nn.Module):
    """Holds an operator that ONNX has not, in its first or its last part."""

    def __init__(self, first):
        super().__init__()
        self.first, self.a, self.b = first, nn.Conv2d(3, 4, 3, 8, 1), nn.Linear(4, 3)

    def forward(self, x):
        y = self.a(x)
        if self.first:
            y = y * torch.linalg.svdvals(y).mean()
        y = torch.relu(y)
        y = y.mean((2, 3)) if self.first else torch.linalg.svdvals(y).mean(-1) + y.mean((2, 3))
        return self.b(y)


def branched():
    torch.manual_seed(0)
    return Branched()


def first():
    return Unknown(True)


def last():
    return Unknown(False)


def broken():
    raise KeyError("x")


def number():
    return 3
'''


@pytest.fixture(scope="module", autouse=True)
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A user's own module, `strangers`, which can be imported."""
    folder = tmp_path_factory.mktemp("strangers")
    (folder / "strangers.py").write_text(MODULE)
    (folder / "faulty.py").write_text("x = 1 / 0\n")
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


def vision(name: str) -> nn.Module:
    torch.manual_seed(0)
    return make(f"torchvision:{name}", {}).eval()


def own(name: str) -> nn.Module:
    return make(f"strangers:{name}", {}).eval()


def whole(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    out = network(x.clone())
    return out["out"] if isinstance(out, dict) else out


# The cut


@torch.no_grad()
def assert_cuts(network: nn.Module, every: int = 1, side: int = SIDE) -> Traced:
    """At every clean layer front and tail are the network, for a number of pictures that it was not traced with."""
    x = torch.randn(5, 3, side, side)
    wanted, traced = whole(network, x), Traced(network, side, side)
    clean = [layer for layer in traced.layers if not layer.refused]
    for layer in [*clean[::every], clean[-1]]:
        front, tail = traced.cut(layer.number)
        y = front(x.clone())
        kept = y.clone()
        assert torch.equal(tail(y), wanted), layer
        assert torch.equal(y, kept), f"the tail overwrites its feature at {layer}"
        assert tuple(y.shape[1:]) == layer.shape
    assert torch.equal(whole(network, x), wanted), "the network itself stays as it was"
    return traced


def test_a_branched_network_is_cut_wherever_one_tensor_crosses() -> None:
    traced = assert_cuts(own("branched"))
    layers = {layer.name: layer for layer in traced.layers}
    assert [layer.name for layer in traced.layers if not layer.refused][:3] == ["input", "a", "act"]
    assert layers["b"].crossing == ("act", "b")
    with pytest.raises(DataError, match="cannot be cut at b: 2 tensors cross there: act, b"):
        traced.cut("b")
    assert "neither a map" in layers["view"].refused
    front, tail = traced.cut("input")
    assert len(list(front.children())) == 0
    assert not list(traced.cut("output")[1].parameters())
    assert sum(p.numel() for p in tail.parameters()) == traced.layers[-1].parameters


def test_layers_are_named_by_number_or_name() -> None:
    traced = Traced(own("branched"), SIDE, SIDE)
    assert traced.layer(1) == traced.layer("1") == traced.layer("a")
    assert traced.layer("input").number == 0
    assert traced.layer("output") == traced.layers[-1]
    for wrong in (99, "nope", ""):
        with pytest.raises(DataError, match=r"has no layer .* it has 0\.\.\d+, from input to head"):
            traced.layer(wrong)
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(5, 6, 1))
    assert Traced(plain, 8, 8).layer("1").shape == (4, 8, 8), "a number is a number, not the layer named 1"


@pytest.mark.parametrize("name", ["squeezenet1_1", "resnet18", "mobilenet_v3_small"])
def test_torchvisions_networks_are_cut_exactly(name: str) -> None:
    traced = assert_cuts(vision(name), every=5)
    assert len([layer for layer in traced.layers if not layer.refused]) > 20


def test_the_layers_are_counted_as_torchvision_counts_them() -> None:
    layers = Traced(vision("resnet18"), 224, 224).layers
    assert layers[-1].parameters == 11_689_512
    assert layers[-1].multiply_adds / 1e6 == pytest.approx(1814, abs=1)
    named = {layer.name: layer for layer in layers}
    assert named["layer3.1.relu_1"].shape == (256, 14, 14)
    assert named["layer3.1.relu_1"].refused == ""
    assert named["layer3.1.conv1"].crossing == ("layer3.0.relu_1", "layer3.1.conv1")
    parts = (named["conv1"].parameters, named["conv1"].multiply_adds)
    assert parts == (64 * 3 * 49, 64 * 3 * 49 * 112 * 112)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Choosing", "torch.fx cannot trace Choosing"),
        ("Assigning", "torch.fx cannot trace Assigning.*item assignment"),
        ("Overwriting", "gives something else than itself"),
        ("Two", "gives several things"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_a_line(name: str, told: str) -> None:
    with pytest.raises(DataError, match=told) as caught:
        Traced(own(name), SIDE, SIDE)
    assert "\n" not in str(caught.value)


def test_pictures_of_the_wrong_size_are_named() -> None:
    with pytest.raises(DataError, match="cannot take pictures of 8 x 8"):
        Traced(vision("squeezenet1_1"), 8, 8)


# Names and weights


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("torchvision:resnt18", "has no network 'resnt18'; it has .*resnet18"),
        ("torchvision:", "has no network ''"),
        ("strangers:nobody", "the module strangers has no 'nobody'"),
        ("nowhere:x", "No module named 'nowhere'"),
        (":x", "importable here"),
        (".a:x", "importable here"),
        ("faulty:x", "importing faulty failed: ZeroDivisionError"),
        ("strangers:broken", "failed: KeyError"),
        ("strangers:number", "gave a int, not a torch.nn.Module"),
    ],
)
def test_a_wrong_name_is_told_in_a_line(name: str, told: str) -> None:
    with pytest.raises(DataError, match=told) as caught:
        make(name, {})
    assert "\n" not in str(caught.value)


def test_weights_come_from_safetensors_and_from_torch(tmp_path: Path) -> None:
    given = own("branched").state_dict()
    given = {name: torch.randn_like(tensor) for name, tensor in given.items()}
    save_file(given, tmp_path / "a.safetensors")
    torch.save(given, tmp_path / "b.pth")
    torch.save({"state_dict": given, "epoch": 3}, tmp_path / "c.pth")
    for file in ("a.safetensors", "b.pth", "c.pth"):
        network = own("branched")
        give_weights(network, "strangers:branched", str(tmp_path / file))
        assert all(torch.equal(tensor, given[name]) for name, tensor in network.state_dict().items())


def test_wrong_weights_are_told_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "other.pth")
    torch.save(nn.Linear(2, 3), tmp_path / "module.pth")
    network = own("branched")
    for weights, told in [
        (tmp_path / "nope.pth", "no such file"),
        (tmp_path / "text.pth", "cannot be read"),
        (tmp_path / "text.safetensors", "cannot be read"),
        (tmp_path / "list.pth", "no state dict"),
        (tmp_path / "module.pth", "cannot be read"),
        (tmp_path / "other.pth", "does not fit strangers:branched"),
        (tmp_path, "cannot be read"),
        ("DEFAULT", "for torchvision's networks"),
    ]:
        with pytest.raises(DataError, match=told) as caught:
            give_weights(network, "strangers:branched", str(weights))
        assert "\n" not in str(caught.value)

    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route")

    import_torchvision()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(DataError, match=r"cannot be downloaded .*https://.*resnet18.*--weights"):
        give_weights(vision("resnet18"), "torchvision:resnet18", "DEFAULT")


def test_labels_decide_the_number_of_classes(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\n\nnewt\n")
    labels = str(tmp_path / "labels.txt")
    asked = NetworkSpec(network="torchvision:squeezenet1_1", weights="none", size="64x64", labels=labels)
    network, card = load_network_spec(asked)
    assert card.labels == ("cat", "dog", "newt")
    assert network(torch.zeros(1, 3, SIDE, SIDE)).shape == (1, 3)
    plain = load_network_spec(asked.model_copy(update={"labels": None, "size": None}))[1]
    assert len(plain.labels) == 1000
    assert (plain.preprocess.height, plain.preprocess.resize) == (224, 256)
    for changed, told in [
        ({"weights": None}, "say which --weights"),
        ({"size": "64"}, "is not HEIGHTxWIDTH"),
        ({"task": "segmentation"}, "is no segmentation"),
        ({"labels": str(tmp_path / "nope")}, "--labels"),
        ({"network": "strangers:branched"}, "3 outputs for 2 labels"),
    ]:
        if "network" in changed:
            (tmp_path / "labels.txt").write_text("cat\ndog\n")
        with pytest.raises(DataError, match=told):
            load_network_spec(asked.model_copy(update=changed))
    with pytest.raises(DataError, match="--split LAYER"):
        cut(network, card)


# From a network to answers


class Pictures:
    """Noise of 64 x 64, without labels."""

    def __init__(self, count: int) -> None:
        self.values = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)

    size, form, names = (SIDE, SIDE), None, ()

    def __len__(self) -> int:
        return len(self.values)

    def images(self, indices: np.ndarray) -> np.ndarray:
        return self.values[indices]


PICTURES = Pictures(12)
BRANCHED = {"network": "strangers:branched", "size": "64x64"}


def trained(out: Path, *parts: dict) -> Path:
    """A run folder after two steps."""
    made = tuple(Part(**{"lambda_": 100.0, "distortion": "feature", **part}) for part in parts)
    recipe = CodecRecipe(data="noise", parts=made, steps=2, batch=4, flips=False, crop=2)
    views = [PICTURES] * len(parts)
    train_codec(recipe, views, views, out, resume=False)
    return out


def assert_answers(bundle: Path, run: Path) -> None:
    """What the cloud makes of the edge's z is what front, codec and tail make in one process."""
    opened, (model, _, _) = Bundle.open(bundle), load_run(run)
    encoder, cloud = Encoder(opened), CloudModel(opened)
    x = to_input(PICTURES.values[:3], opened.manifest.preprocess)
    _, z = encoder.latents(encoder.features(x))
    names: Sequence[str] = [task.name for task in opened.tasks]
    made = cloud.outputs(z, {name: range(3) for name in names}, [50] * 3)
    with torch.no_grad():
        ys, _ = model.codec(model.features(torch.from_numpy(x)))
        for k, name in enumerate(model.names):
            wanted = model.heads[k](ys[k])
            assert torch.allclose(made[name].reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def branched_run(tmp_path_factory: pytest.TempPathFactory, module: None) -> Path:
    return trained(tmp_path_factory.mktemp("branched") / "run", {**BRANCHED, "split": "act"})


@pytest.fixture(scope="module")
def branched_bundle(branched_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("branched") / "bundle"
    build(branched_run, out, "branched", PICTURES)
    return out


def test_a_foreign_tail_is_a_file_of_the_bundle(branched_bundle: Path, branched_run: Path) -> None:
    assert_answers(branched_bundle, branched_run)
    (task,) = Bundle.open(branched_bundle).tasks
    assert (task.network, task.network_config, task.split) == (ONNX, {"of": "strangers:branched"}, "act")
    assert "tail.classification.onnx" in Bundle.open(branched_bundle).manifest.files
    for file in branched_bundle.iterdir():
        assert str(branched_run.parent).encode() not in file.read_bytes()
        assert b"/site-packages/" not in file.read_bytes()
        assert b"strangers.py" not in file.read_bytes()


@pytest.mark.parametrize("layer", ["input", "output"])
def test_the_image_and_the_output_can_be_what_is_coded(tmp_path: Path, layer: str) -> None:
    run = trained(tmp_path / "run", {**BRANCHED, "split": layer})
    build(run, tmp_path / "bundle", "ends", PICTURES)
    assert_answers(tmp_path / "bundle", run)


def test_features_of_different_strides_share_a_codec(tmp_path: Path, tiny_network: Path) -> None:
    """A reference network's, cut where it always is, and a torchvision network's."""
    names = tmp_path / "names"
    names.write_text("a\nb\n")
    vision = {
        "network": "torchvision:squeezenet1_1",
        "weights": "none",
        "size": "64x64",
        "labels": str(names),
        "split": "features.4.cat",
        "name": "squeezed",
    }
    run = trained(tmp_path / "run", {"network": str(tiny_network)}, vision)
    build(run, tmp_path / "bundle", "both", PICTURES)
    assert_answers(tmp_path / "bundle", run)
    opened = Bundle.open(tmp_path / "bundle")
    grids = [task.feature[1:] for task in opened.tasks]
    assert grids[0] != grids[1]
    assert {"tail.squeezed.onnx"} == {name for name in opened.manifest.files if name.startswith("tail.")}
    assert str(tmp_path).encode() not in (tmp_path / "bundle" / MANIFEST).read_bytes()


def test_a_segmentation_network_of_torchvision(tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.write_text("a\nb\nc\n")
    part = {
        "network": "torchvision:lraspp_mobilenet_v3_large",
        "weights": "none",
        "size": "64x64",
        "labels": str(names),
        "task": "segmentation",
        "split": "backbone.3.add",
    }
    # Its tail knows the size of its map by heart, so that no piece of a feature goes through it.
    run = trained(tmp_path / "run", part | {"distortion": "distill"})
    build(run, tmp_path / "bundle", "maps", PICTURES)
    assert_answers(tmp_path / "bundle", run)


@pytest.mark.parametrize(("name", "what"), [("first", "front"), ("last", "tail")])
def test_an_operator_that_onnx_has_not_is_named(tmp_path: Path, name: str, what: str) -> None:
    run = trained(tmp_path / "run", {**BRANCHED, "network": f"strangers:{name}", "split": "relu"})
    with pytest.raises(DataError, match=rf"network's {what} cannot be exported .*svd") as caught:
        build(run, tmp_path / "bundle", "x", PICTURES)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "bundle").exists()


def test_a_missing_or_damaged_tail_is_told(tmp_path: Path, branched_bundle: Path) -> None:
    import shutil

    bundle = shutil.copytree(branched_bundle, tmp_path / "copy")
    file = bundle / "tail.classification.onnx"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BundleDamagedError, match=r"tail.classification.onnx is not the file"):
        CloudModel(Bundle.open(bundle))
    file.unlink()
    with pytest.raises(BundleDamagedError, match=r"cannot read .*tail.classification.onnx"):
        CloudModel(Bundle.open(bundle))


def test_a_foreign_task_is_added_to_a_bundle(tmp_path: Path, tiny_bundle: Path) -> None:
    import shutil

    from cloud.task_folders import add_task

    own = shutil.copytree(tiny_bundle, tmp_path / "own")
    before = {path.name: path.read_bytes() for path in own.iterdir() if path.is_file()}
    recipe = TaskRecipe(
        data="noise",
        bundle=str(own),
        name="mood",
        steps=2,
        batch=4,
        flips=False,
        split="act",
        distortion="feature",
        **BRANCHED,
    )
    train_task(recipe, PICTURES, PICTURES, tmp_path / "run", resume=False)
    assert (tmp_path / "run" / FOLDER / TAIL).exists()
    add_task(own, tmp_path / "run" / FOLDER)
    assert {name: (own / name).read_bytes() for name in before} == before
    opened = Bundle.open(own)
    z = np.zeros((2, *_latent(opened)), np.int32)
    out = CloudModel(opened).outputs(z, {"mood": [0, 1], "classification": [1]}, [50, 50])
    assert out["mood"].shape == (2, 3)


def _latent(bundle: Bundle) -> tuple[int, ...]:
    codec = bundle.manifest.codec
    return codec["latent_channels"], *codec["grid"]


# As a user meets it


def isthmus(*arguments: object) -> None:
    from isthmus import app

    app([str(argument) for argument in arguments], standalone_mode=False)


def test_layers_shows_every_layer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    isthmus("network", "layers", "strangers:branched", "--size", "64x64", "--all")
    told = capsys.readouterr().out
    assert "3 b: 2 tensors cross there: act, b" in told
    assert max(map(len, told.splitlines())) <= 100
    assert "clean" in told
    isthmus("network", "layers", "strangers:branched", "--size", "64x64")
    assert "--all names what crosses there" in capsys.readouterr().out


def test_commands_from_pictures_to_an_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, value in enumerate(PICTURES.values):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.fromarray(value).save(tmp_path / "pictures" / f"{i:02}.png")
    data, folder = f"images:{tmp_path / 'pictures'}", tmp_path / "network"
    isthmus("network", "import", "strangers:branched", "--size", "64x64", "--split", "act", "--out", folder)
    steps = ("--steps", 2, "--batch", 4, "--set", "holdout=4", "--set", "flips=false")
    isthmus("codec", "train", "--data", data, "--network", folder, *steps, "--out", tmp_path / "run")
    isthmus("bundle", "build", tmp_path / "run", "--data", data, "--out", tmp_path / "bundle")
    isthmus("inspect", tmp_path / "bundle")
    assert "tail.classification.onnx" in capsys.readouterr().out
    picture, stream = tmp_path / "pictures" / "00.png", tmp_path / "a.isthmus"
    isthmus("edge", "encode", picture, "--bundle", tmp_path / "bundle", "-o", stream)
    isthmus("cloud", "decode", stream, "--bundle", tmp_path / "bundle")
    assert "class 0" in capsys.readouterr().out


def test_a_network_without_weights_is_drawn_from_the_seed(tmp_path: Path) -> None:
    """So that a run of it can be resumed: its weights are among a run's inputs. Nothing else is drawn anew."""
    spec = NetworkSpec(network="torchvision:squeezenet1_1", weights="none", size="64x64")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = network_inputs([spec], [load_network_spec(spec, 3)[0]])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert network_inputs([spec], [load_network_spec(spec, 3)[0]]) == first
    assert network_inputs([spec], [load_network_spec(spec, 4)[0]]) != first
