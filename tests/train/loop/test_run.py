"""Run folders: what a run may be resumed with."""

from __future__ import annotations

import json

import pytest

from cloud.networks.networks import ClassifierConfig
from shared.errors import DataError
from train.codec.codec_recipe import CodecRecipe, Part
from train.loop.run import Run
from train.networks.network_recipe import NetworkRecipe


def test_a_run_is_resumed_from_the_same_inputs_only(tmp_path):
    out = tmp_path / "run"
    Run(out, {"steps": 1}, inputs={"the network": "aa", "the pictures": "bb"})
    Run(out, {"steps": 1}, resume=True, inputs={"the network": "aa", "the pictures": "bb", "later": "cc"})
    with pytest.raises(DataError, match=r"the pictures has changed since .*run was started"):
        Run(out, {"steps": 1}, resume=True, inputs={"the network": "aa", "the pictures": "xx"})
    about = json.loads((out / "recipe.json").read_text())
    del about["inputs"]  # an older folder
    (out / "recipe.json").write_text(json.dumps(about))
    Run(out, {"steps": 1}, resume=True, inputs={"the network": "zz"})
    Run(out, {"steps": 1, "init": None}, resume=True)  # an older recipe
    with pytest.raises(DataError, match=r"other settings \(init\)"):
        Run(out, {"steps": 1, "init": "runs/other"}, resume=True)


def test_a_setting_that_an_older_run_does_not_list_has_its_default(tmp_path):
    """Also where it lies deeper; and a run is not taken for one with another value of it."""
    sizes = ClassifierConfig(classes=3)
    network = NetworkRecipe(data="x", steps=1, network=sizes)
    codec = CodecRecipe(data="x", steps=1, parts=(Part(network="n", lambda_=1.0),))
    old = network.model_dump(mode="json")
    del old["freeze"], old["appearance"], old["network"]["dilations"]
    Run(tmp_path / "network", old)
    Run(tmp_path / "network", network.model_dump(mode="json"), resume=True, kind=NetworkRecipe)
    wider = network.model_copy(update={"network": sizes.model_copy(update={"dilations": (1, 2)})})
    with pytest.raises(DataError, match=r"other settings \(network\)"):
        Run(tmp_path / "network", wider.model_dump(mode="json"), resume=True, kind=NetworkRecipe)
    old = codec.model_dump(mode="json")
    del old["hyper"], old["balance"]
    Run(tmp_path / "codec", old)
    Run(tmp_path / "codec", codec.model_dump(mode="json"), resume=True, kind=CodecRecipe)
    second = codec.model_copy(update={"hyper": 2}).model_dump(mode="json")
    with pytest.raises(DataError, match=r"other settings \(hyper\)"):
        Run(tmp_path / "codec", second, resume=True, kind=CodecRecipe)
    with pytest.raises(DataError, match="other settings"):  # a training of another kind
        Run(tmp_path / "network", codec.model_dump(mode="json"), resume=True, kind=CodecRecipe)
