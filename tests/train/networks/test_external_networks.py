"""Networks of torchvision and of users, by name, with and without weights."""

from __future__ import annotations

import inspect
import socket
import urllib.error
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from shared.errors import DataError
from support.strangers import make_stranger, make_torchvision
from train.networks.external_networks import load_weights, make, without_weights
from train.networks.torchvision_shim import import_torchvision


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("torchvision:resnt18", "has no network 'resnt18'; it has .*resnet18"),
        ("torchvision:", "has no network ''"),
        ("support.strangers:nobody", "the module support.strangers has no 'nobody'"),
        ("nowhere:x", "No module named 'nowhere'"),
        (":x", "importable here"),
        (".a:x", "importable here"),
        ("faulty:x", "importing faulty failed: ZeroDivisionError"),
        ("support.strangers:broken", "failed: KeyError"),
        ("support.strangers:number", "returned a int, not a torch.nn.Module"),
    ],
)
def test_a_wrong_name_is_an_error_of_one_line(
    name: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "faulty.py").write_text("x = 1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match=told) as caught:
        make(name, {})
    assert "\n" not in str(caught.value)


def test_weights_come_from_safetensors_and_from_torch(tmp_path: Path) -> None:
    given = make_stranger("branched").state_dict()
    given = {name: torch.randn_like(tensor) for name, tensor in given.items()}
    save_file(given, tmp_path / "a.safetensors")
    torch.save(given, tmp_path / "b.pth")
    torch.save({"state_dict": given, "epoch": 3}, tmp_path / "c.pth")
    for file in ("a.safetensors", "b.pth", "c.pth"):
        network = make_stranger("branched")
        load_weights(network, "support.strangers:branched", str(tmp_path / file))
        assert all(torch.equal(tensor, given[name]) for name, tensor in network.state_dict().items())


def test_wrong_weights_are_an_error_of_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "other.pth")
    torch.save(nn.Linear(2, 3), tmp_path / "module.pth")
    network = make_stranger("branched")
    for weights, told in [
        (tmp_path / "nope.pth", "no such file"),
        (tmp_path / "text.pth", "cannot be read"),
        (tmp_path / "text.safetensors", "cannot be read"),
        (tmp_path / "list.pth", "no state dict"),
        (tmp_path / "module.pth", "cannot be read"),
        (tmp_path / "other.pth", "does not fit support.strangers:branched"),
        (tmp_path, "cannot be read"),
        ("DEFAULT", "DEFAULT is for torchvision's networks"),
    ]:
        with pytest.raises(DataError, match=told) as caught:
            load_weights(network, "support.strangers:branched", str(weights))
        assert "\n" not in str(caught.value)
        assert caught.value.setting == ("labels" if "does not fit" in told else "weights")

    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route")

    import_torchvision()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(DataError, match=r"cannot be downloaded .*https://.*resnet18"):
        load_weights(make_torchvision("resnet18"), "torchvision:resnet18", "DEFAULT")


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection, and no file that was downloaded before."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))


def test_no_builder_of_torchvision_is_left_a_way_to_trained_weights() -> None:
    models = import_torchvision().models
    names = models.list_models()
    assert len(names) > 100
    for name in names:
        builder = models.get_model_builder(name)
        parameters = inspect.signature(builder).parameters
        for key in parameters.keys() - without_weights(builder).keys():
            assert not any(word in key for word in ("weight", "pretrain")), (name, key)
            assert not isinstance(parameters[key].default, models.WeightsEnum), (name, key)


@pytest.mark.parametrize(
    "name",
    ["squeezenet1_1", "googlenet", "quantized_shufflenet_v2_x0_5", "lraspp_mobilenet_v3_large"],
)
def test_making_a_network_downloads_nothing(name: str, no_network: None) -> None:
    assert make(f"torchvision:{name}", {}).state_dict()


def test_a_builder_that_downloads_all_the_same_fails(
    no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, before = import_torchvision().models, torch.hub.download_url_to_file

    def sly(model: str, **_: object) -> nn.Module:
        torch.hub.load_state_dict_from_url("https://example.org/sly-01234567.pth")
        raise AssertionError("not reached")

    monkeypatch.setattr(models, "get_model", sly)
    with pytest.raises(DataError, match="torchvision:resnet18 downloads weights when it is made"):
        make("torchvision:resnet18", {})
    assert torch.hub.download_url_to_file is before


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("fasterrcnn_resnet50_fpn", "it finds boxes"),
        ("ssd300_vgg16", "it finds boxes"),
        ("raft_small", "it compares two images"),
        ("swin3d_t", "it takes clips"),
    ],
)
def test_a_network_that_cannot_be_cut_says_why(name: str, why: str, no_network: None) -> None:
    with pytest.raises(DataError, match=f"torchvision:{name} cannot be cut: {why}") as caught:
        make(f"torchvision:{name}", {})
    assert "\n" not in str(caught.value)
