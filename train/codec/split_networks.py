"""Trained networks cut in two with a codec between the halves: what a training trains, and a bundle deploys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cloud.networks.networks import as_feature, feature_shape
from cloud.networks.sizes import Shape
from cloud.networks.transforms import base_network
from shared.bundle import Preprocess
from shared.errors import DataError
from shared.kinds import KINDS
from shared.types import TaskKind
from train.codec.codec_recipe import CodecRecipe, Part, sizes_of
from train.codec.feature_codec import ENTROPY, JointCodec
from train.codec.prior_choice import codec_of
from train.data.dataset import Dataset
from train.loop.run import BEST, CHECKPOINT, RECIPE
from train.networks.load import cut, load_network_spec, reference_cut
from train.networks.network_folder import NetworkCard, network_of

CARDS = "networks.json"


@dataclass(frozen=True)
class Network:
    """A loaded network with its name in the codec."""

    name: str
    card: NetworkCard
    module: nn.Module


def load_networks(parts: Sequence[Part], seed: int = 0) -> list[Network]:
    """The networks of a codec's parts. seed: draws the weights of those that have none. Raises DataError."""
    out: list[Network] = []
    for k, part in enumerate(parts):
        module, card = load_network_spec(part, seed + k)
        out.append(Network(part.name or card.task, card, module))
    names = [network.name for network in out]
    if len(set(names)) < len(names):
        raise DataError(f"two networks are named {max(names, key=names.count)!r}; give each part a name")
    if any(network.card.preprocess != out[0].card.preprocess for network in out):
        raise DataError("the networks take images of different sizes or normalisation; train them on one")
    return out


class Head(nn.Module):
    """A network's tail after the codec. feature: shape of the feature of one image."""

    def __init__(self, tail: nn.Module, kind: TaskKind, feature: Shape) -> None:
        super().__init__()
        self.tail, self.kind, self.feature = tail, kind, feature

    def forward(self, y: Tensor, *, light: bool = False) -> Tensor:
        """The task's output from its feature (B, C, H', W'): logits (B, K), or a map (B, K or 3, H, W).

        light: leaves out the interpolation that ends the network of a map.
        """
        tail = self.tail
        if light and isinstance(tail, nn.Sequential) and len(tail) and isinstance(tail[-1], nn.Upsample):
            tail = tail[:-1]
        out: Tensor = tail(as_feature(y, self.feature))
        return out if KINDS[self.kind].mapped else out.flatten(1)


class SplitNetworks(nn.Module):
    """Fronts -> codec -> heads. Raises DataError.

    base: answers the recipe's base task from v (B, V), where there is one; its output is that of the task's head.
    """

    names: list[str]
    heads: Sequence[Head]
    codec: JointCodec
    base: nn.Module | None

    def __init__(self, networks: Sequence[Network], recipe: CodecRecipe) -> None:
        super().__init__()
        self.names = [network.name for network in networks]
        preprocess = networks[0].card.preprocess
        self.fronts, heads = nn.ModuleList(), []
        for network in networks:
            front, tail = cut(network.module, network.card)
            self.fronts.append(front)
            shape = feature_shape(front, preprocess.height, preprocess.width)
            heads.append(Head(tail, network.card.task, shape))
        self.heads = nn.ModuleList(heads)  # type: ignore[assignment]
        features = [head.feature for head in heads]
        scaled = recipe.scaled
        if scaled is None:
            scaled = not all(reference_cut(network.card) for network in networks)
        config = sizes_of(recipe, features).model_copy(update={"scaled": scaled})
        self.codec = JointCodec(features, config, codec_of(recipe.prior))
        self.base = base_network(config, self._outputs(recipe.base)) if recipe.base else None

    def _outputs(self, base: str) -> int:
        """The number of outputs of the base task's head. Raises DataError."""
        if base not in self.names:
            raise DataError(f"the base {base!r} is not one of the codec's tasks", setting="base")
        head = self.heads[self.names.index(base)]
        if KINDS[head.kind].mapped:
            raise DataError(f"{base} has a map, which v cannot hold; a base needs a vector", setting="base")
        training = head.training
        with torch.no_grad():
            count = head.eval()(torch.zeros(1, *head.feature)).shape[1]
        head.train(training)
        return int(count)

    def features(self, x: Tensor) -> list[Tensor]:
        """The fronts' features of x (B, 3, H, W), each (B, C_k, H_k, W_k)."""
        return [as_map(front(x)) for front in self.fronts]

    def freeze_networks(self) -> None:
        for part in (*self.fronts, *self.heads):
            part.requires_grad_(False)


def as_map(y: Tensor) -> Tensor:
    """(B, C) or (B, C, H, W) -> (B, C, H, W)."""
    return y if y.dim() == 4 else y[:, :, None, None]


def check_size(data: Dataset, preprocess: Preprocess) -> None:
    """Raises DataError where a set's images have not the size that the network was trained with."""
    height, width = data.size
    if (height, width) != (preprocess.height, preprocess.width):
        raise DataError(
            f"the images are {width} x {height}, the network takes {preprocess.width} x {preprocess.height}",
            setting="data",
        )


OF_ENTROPY = tuple(f"core.{part}." for part in ENTROPY)


def load_codec_weights(model: SplitNetworks, recipe: CodecRecipe, folder: Path) -> None:
    """Starts `model` from the codec of the run in `folder`, whose levels may differ. Raises DataError.

    Each level starts from the one with the nearest scale of lambda there, its gains moved by the ratio of the scales.
    Where the entropy model has other sizes there, it starts anew, and all of it if the recipe says so.
    """
    old, old_recipe, _ = load_run(folder)
    where = np.interp(np.log(recipe.scales), np.log(old_recipe.scales), np.arange(len(old_recipe.scales)))
    nearest = torch.from_numpy(np.rint(where).astype(np.int64))
    moved = torch.tensor(np.log(recipe.scales) - np.log(old_recipe.scales)[nearest], dtype=torch.float32)
    state = old.codec.state_dict()
    for name, tensor in state.items():
        if name.startswith(("core.gains.", "core.prior.")):
            state[name] = tensor[nearest]
    for name, sign in (("core.gains.log_gain", 0.5), ("core.gains.log_inverse", -0.5)):
        if name in state:
            state[name] = state[name] + sign * moved[:, None]
    own = model.codec.state_dict()

    def fits(name: str) -> bool:
        return name in state and name in own and state[name].shape == own[name].shape

    entropy = {name for name in own.keys() | state.keys() if name.startswith(OF_ENTROPY)}
    if not all(fits(name) for name in (own.keys() | state.keys()) - entropy):
        raise DataError(f"the codec in {folder} has other sizes or features", setting="init")
    parts = [
        part
        for part in OF_ENTROPY
        if not recipe.anew and all(fits(name) for name in entropy if name.startswith(part))
    ]
    if recipe.trains == "synthesis" and len(parts) < len(OF_ENTROPY):
        raise DataError(f"the entropy model in {folder} has other sizes; synthesis keeps it", setting="init")
    kept = {
        name: tensor for name, tensor in state.items() if name not in entropy or name.startswith(tuple(parts))
    }
    model.codec.load_state_dict({**own, **kept})
    if model.base is not None and old.base is not None and old_recipe.base == recipe.base:
        model.base.load_state_dict(old.base.state_dict())


def cards_of(run: Path) -> list[NetworkCard]:
    """The cards of a run's networks. Raises DataError."""
    try:
        return [NetworkCard.model_validate(card) for card in json.loads((run / CARDS).read_text())]
    except FileNotFoundError:
        raise DataError(f"no codec training in {run} ({CARDS} is missing)") from None
    except (ValueError, TypeError) as error:
        raise DataError(f"{run / CARDS} cannot be read: {str(error).splitlines()[0]}") from None


def load_run(run: Path) -> tuple[SplitNetworks, CodecRecipe, list[NetworkCard]]:
    """The trained model of a run folder, in evaluation mode. Raises DataError."""
    try:
        recipe = CodecRecipe.model_validate(json.loads((run / RECIPE).read_text())["recipe"])
        cards = cards_of(run)
        best = run / BEST  # older trainings have none
        state = torch.load(
            best if best.is_file() else run / CHECKPOINT, map_location="cpu", weights_only=True
        )
        networks = [
            Network(part.name or card.task, card, network_of(card).eval())
            for part, card in zip(recipe.parts, cards, strict=True)
        ]
        model = SplitNetworks(networks, recipe)
        model.load_state_dict(state["model"])
        _check_finished(run, recipe)
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise DataError(f"no finished codec training in {run} ({missing} is missing)") from None
    except (ValueError, KeyError, RuntimeError, TypeError) as error:
        raise DataError(f"the run in {run} cannot be read: {str(error).splitlines()[0]}") from None
    return model.eval(), recipe, cards


def _check_finished(run: Path, recipe: CodecRecipe) -> None:
    """Raises DataError for a training that stopped before its last step, or is still running."""
    if (run / "figures.json").is_file():
        return
    state = torch.load(run / CHECKPOINT, map_location="cpu", weights_only=True)
    if state["step"] < recipe.steps:
        raise DataError(
            f"the training in {run} is at step {state['step']} of {recipe.steps}; resume it first"
        )
