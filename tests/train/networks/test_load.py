"""A network and its card, from a spec."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shared.errors import DataError
from support.strangers import BRANCHED, SIDE
from train.codec.teacher_cache import network_inputs
from train.networks.load import NetworkSpec, cut, load_network_spec


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
        ({"weights": None}, "choose its weights"),
        ({"size": "64"}, "is not HEIGHTxWIDTH"),
        ({"task": "segmentation"}, "is no segmentation"),
        ({"labels": str(tmp_path / "nope")}, "nope cannot be read"),
        ({"network": "support.strangers:branched"}, "3 outputs for 2 labels"),
    ]:
        if "network" in changed:
            (tmp_path / "labels.txt").write_text("cat\ndog\n")
        with pytest.raises(DataError, match=told):
            load_network_spec(asked.model_copy(update=changed))
    with pytest.raises(DataError, match="choose the layer after which"):
        cut(network, card)


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


def test_a_network_is_imported_with_a_letterbox() -> None:
    spec = NetworkSpec.model_validate({**BRANCHED, "fit": "letterbox"})
    assert load_network_spec(spec)[1].preprocess.fit == "letterbox"
