"""Trained networks cut in two with a codec between the halves: the thing that is trained, and that a bundle deploys."""

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
from shared.bundle import Preprocess
from shared.errors import DataError
from shared.types import TaskKind
from train.codec.codec_recipe import CodecRecipe, Part, sizes_of
from train.codec.feature_codec import JointCodec
from train.codec.prior_choice import codec_of
from train.data.dataset import Dataset
from train.networks.load import cut, load_network_spec, reference_cut
from train.networks.network_folder import NetworkCard, network_of

CARDS = "networks.json"


@dataclass(frozen=True)
class Network:
    """A loaded network with its name in the codec."""

    name: str
    card: NetworkCard
    module: nn.Module


def load_networks(parts: Sequence[Part]) -> list[Network]:
    """Raises DataError."""
    out: list[Network] = []
    for part in parts:
        module, card = load_network_spec(part)
        out.append(Network(part.name or card.task, card, module))
    names = [network.name for network in out]
    if len(set(names)) < len(names):
        raise DataError(f"two networks are named {max(names, key=names.count)!r}; give each part a name")
    if any(network.card.preprocess != out[0].card.preprocess for network in out):
        raise DataError("the networks take pictures of different sizes or normalisation; train them on one")
    return out


class Head(nn.Module):
    """A network's tail behind the codec. feature: shape of one picture's feature that it takes."""

    def __init__(self, tail: nn.Module, kind: TaskKind, feature: Shape) -> None:
        super().__init__()
        self.tail, self.kind, self.feature = tail, kind, feature

    def forward(self, y: Tensor, *, light: bool = False) -> Tensor:
        """The task's output from its feature (B, C, H', W'): logits (B, K), or a map (B, K or 3, H, W).

        light: a map without the interpolation that ends its network.
        """
        tail = self.tail
        if light and isinstance(tail, nn.Sequential) and len(tail) and isinstance(tail[-1], nn.Upsample):
            tail = tail[:-1]
        out: Tensor = tail(as_feature(y, self.feature))
        return out.flatten(1) if self.kind == "classification" else out


class SplitNetworks(nn.Module):
    """Fronts -> codec -> heads, the thing that a bundle deploys. Raises DataError."""

    def __init__(self, networks: Sequence[Network], recipe: CodecRecipe) -> None:
        super().__init__()
        self.names = [network.name for network in networks]
        preprocess = networks[0].card.preprocess
        self.fronts, self.heads = nn.ModuleList(), nn.ModuleList()
        for network in networks:
            front, tail = cut(network.module, network.card)
            self.fronts.append(front)
            shape = feature_shape(front, preprocess.height, preprocess.width)
            self.heads.append(Head(tail, network.card.task, shape))
        features = [head.feature for head in self.heads]
        scaled = recipe.scaled
        if scaled is None:
            scaled = not all(reference_cut(network.card) for network in networks)
        config = sizes_of(recipe, features).model_copy(update={"scaled": scaled})
        self.codec = JointCodec(features, config, codec_of(recipe.prior))

    def features(self, x: Tensor) -> list[Tensor]:
        """The fronts' features of x (B, 3, H, W), each (B, C_k, H_k, W_k)."""
        return [as_map(front(x)) for front in self.fronts]

    def freeze_networks(self) -> None:
        for part in (self.fronts, self.heads):
            part.requires_grad_(False)


def as_map(y: Tensor) -> Tensor:
    """(B, C) or (B, C, H, W) -> (B, C, H, W)."""
    return y if y.dim() == 4 else y[:, :, None, None]


@torch.no_grad()
def _check_finished(run: Path, recipe: CodecRecipe) -> None:
    """Raises DataError for a training that was ended before its last step, or that still goes on."""
    if (run / "figures.json").is_file():
        return
    state = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)
    if state["step"] < recipe.steps:
        raise DataError(
            f"the training in {run} is at step {state['step']} of {recipe.steps}; go on with --resume first"
        )


def start_from(model: SplitNetworks, recipe: CodecRecipe, folder: Path) -> None:
    """Give `model` the codec of the run in `folder`, each level that of the nearest scale of lambda there, its gains
    moved by what the scales differ. Raises DataError."""
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
    if state.keys() != own.keys() or any(state[name].shape != own[name].shape for name in own):
        raise DataError(f"--init {folder}: its codec is of other sizes, features or prior than this one")
    model.codec.load_state_dict(state)


def check_size(pictures: Dataset, preprocess: Preprocess) -> None:
    """Raises DataError where the network was trained on pictures of another size."""
    height, width = pictures.images(np.zeros(1, np.int64)).shape[1:3]
    if (height, width) != (preprocess.height, preprocess.width):
        raise DataError(
            f"--data has pictures of {width} x {height}, --network takes {preprocess.width} x {preprocess.height}"
        )


def cards_of(run: Path) -> list[NetworkCard]:
    """Those of a run's networks. Raises DataError."""
    try:
        return [NetworkCard.model_validate(card) for card in json.loads((run / CARDS).read_text())]
    except FileNotFoundError:
        raise DataError(
            f"no codec training in {run} ({CARDS} is missing); see `isthmus train multi`"
        ) from None
    except (ValueError, TypeError) as error:
        raise DataError(f"{run / CARDS} cannot be read: {str(error).splitlines()[0]}") from None


def load_run(run: Path) -> tuple[SplitNetworks, CodecRecipe, list[NetworkCard]]:
    """The trained model of a run folder, in evaluation mode. Raises DataError."""
    try:
        recipe = CodecRecipe.model_validate(json.loads((run / "recipe.json").read_text())["recipe"])
        cards = cards_of(run)
        best = run / "best.pt"  # trainings of before it was kept have none
        state = torch.load(
            best if best.is_file() else run / "checkpoint.pt", map_location="cpu", weights_only=True
        )
        networks = [
            Network(part.name or card.task, card, network_of(card).eval())
            for part, card in zip(recipe.parts, cards, strict=True)
        ]
        model = SplitNetworks(networks, recipe)
        model.load_state_dict(state["model"])
        _check_finished(run, recipe)
    except FileNotFoundError as error:
        raise DataError(
            f"no finished codec training in {run} ({Path(error.filename).name} is missing); see `isthmus train multi`"
        ) from None
    except (ValueError, KeyError, RuntimeError, TypeError) as error:
        raise DataError(f"the run in {run} cannot be read: {str(error).splitlines()[0]}") from None
    return model.eval(), recipe, cards
