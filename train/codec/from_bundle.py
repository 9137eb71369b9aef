"""Recovers the codec of a bundle as a run folder, from which another training can start (`isthmus codec recover`).

    edge.onnx -> fusion, transform           extractor.onnx -> gains, extractor
    cloud.safetensors -> the rest after z    entropy.safetensors -> generator, codebook, context, prior of v

A bundle holds its entropy model as integers, and floats are made of them again. Without a context it is not recovered:
it begins anew, and is trained again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load as load_integers
from safetensors.torch import load as load_tensors
from torch import Tensor

from shared.bundle import CLOUD, EDGE, ENTROPY, EXTRACTOR, Bundle
from shared.codec.context import SLICES
from shared.errors import DataError
from shared.files import new_folder, refuse_existing, write_atomically
from train.codec.codec_recipe import CodecRecipe
from train.codec.from_integers import entropy_floats, fit_prior
from train.codec.split_networks import CARDS, Network, SplitNetworks
from train.loop.run import BEST, CHECKPOINT, RECIPE
from train.networks.from_bundle import Recovered, recovered_networks


def recover_codec(bundle: Bundle, out: Path) -> bool:
    """Writes the run folder `out`. Returns whether the entropy model is trained.

    Raises DataError where a network of the bundle is not in its files, BundleError.
    """
    refuse_existing(out)
    own = {task.name for task in bundle.manifest.tasks}
    networks = []
    for found in recovered_networks(bundle):
        if found.name not in own:
            continue
        if not isinstance(found, Recovered):
            raise DataError(f"{found.name}: {found.why}; the codec cannot be recovered without it")
        networks.append(Network(found.name, found.card, found.network))
    recipe = _recipe(bundle)
    model = SplitNetworks(networks, recipe)
    state = model.codec.state_dict()
    kept = _codec_tensors(bundle)
    unknown = [
        name for name, tensor in kept.items() if name not in state or state[name].shape != tensor.shape
    ]
    if unknown:
        raise DataError(f"{bundle.path}: {unknown[0]} does not fit the codec that its manifest describes")
    model.codec.load_state_dict({**state, **kept})
    integers = load_integers(bundle.read(ENTROPY))
    known = SLICES in integers
    if known:
        fit_prior(model.codec.core.prior, integers)
    if model.base is not None:
        model.base.load_state_dict(_base(bundle))
    cards = [network.card.model_dump(mode="json") for network in networks]
    with new_folder(out) as folder:
        about = {
            "recipe": recipe.model_dump(mode="json"),
            "inputs": {"the bundle": bundle.manifest.fingerprint},
        }
        write_atomically(folder / RECIPE, json.dumps(about, indent=1).encode())
        write_atomically(folder / CARDS, json.dumps(cards, indent=1).encode())
        write_atomically(folder / "figures.json", b"{}")
        trained = {"model": model.state_dict(), "step": recipe.steps, "figures": {}}
        for name in (BEST, CHECKPOINT):
            torch.save(trained, folder / name)
    return known


def _recipe(bundle: Bundle) -> CodecRecipe:
    """What the codec was trained by; it begins anew."""
    given: dict[str, Any] = dict(bundle.manifest.training.get("codec", {}))
    try:
        return CodecRecipe.model_validate({**given, "trains": "all", "init": None})
    except ValueError as error:
        raise DataError(
            f"{bundle.path}: its manifest does not say how its codec was trained: {error}"
        ) from None


def _codec_tensors(bundle: Bundle) -> dict[str, Tensor]:
    """The codec's tensors by their name in `JointCodec`. Raises BundleError."""
    import onnx
    from onnx import numpy_helper

    def initialisers(file: str) -> dict[str, Tensor]:
        graph = onnx.load_from_string(bundle.read(file)).graph
        return {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}

    out: dict[str, Tensor] = {}
    for name, tensor in initialisers(EDGE).items():
        if name.startswith("fusion."):
            out[name] = tensor
        elif name.startswith("transform."):
            out[f"core.{name}"] = tensor
    levels, channels = len(bundle.manifest.qualities), bundle.manifest.codec.get("latent_channels")
    for tensor in initialisers(EXTRACTOR).values():
        if tensor.shape == (levels, channels) and levels > 1:  # the exporter gives it no name
            out["core.gains.log_gain"] = tensor
    for name, tensor in initialisers(EXTRACTOR).items():
        if name.startswith("core.extractor."):
            out[name] = tensor
    integers = load_integers(bundle.read(ENTROPY))
    if SLICES in integers:
        out |= {f"core.{name}": tensor for name, tensor in entropy_floats(integers).items()}
    for name, tensor in load_tensors(bundle.read(CLOUD)).items():
        if name == "gains.log_inverse" or name.startswith("reconstruction."):
            out[f"core.{name}"] = tensor
        elif name.startswith("separation."):
            out[name] = tensor
    return out


def _base(bundle: Bundle) -> dict[str, Tensor]:
    """The tensors of the network that answers the base task. Raises BundleError."""
    tensors = load_tensors(bundle.read(CLOUD))
    return {n.removeprefix("base."): tensor for n, tensor in tensors.items() if n.startswith("base.")}
