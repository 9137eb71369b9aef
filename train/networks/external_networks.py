"""Networks that are not the reference ones: torchvision's by name, a user's own as "package.module:factory".

A factory is called without arguments and returns a torch.nn.Module whose input is (B, 3, H, W). Nothing is downloaded
unless the weights "DEFAULT" are asked for. What a user's own module may have besides, so that nobody has to give it:

    preprocess             dict: keys of a Preprocess, such as mean and std; without them, ImageNet's
    multiple_of            int: its images' height and width are multiples of it
    task                   str: the kind of its output, where that is a map
    labels                 tuple of str: the names of its outputs
    options                dict: of the kind of its output, such as an id for each class
    published_weights()    its state dict, for the weights "DEFAULT"
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from shared.errors import DataError
from train.networks.torchvision_shim import import_torchvision

TORCHVISION = "torchvision:"
NO_WEIGHTS, PUBLISHED_WEIGHTS = "none", "DEFAULT"
# Heads that only training has; torchvision's published files hold them.
_AUXILIARY = ("aux_classifier.", "aux1.", "aux2.", "AuxLogits.")
# Families of torchvision's that cannot be cut, and why.
_UNCUTTABLE = {
    "detection": "it finds boxes, whose number depends on the image; its backbone can be cut as a network of its own, "
    "given as package.module:factory",
    "optical_flow": "it compares two images; a network here takes one",
    "video": "it takes clips; a network here takes one image",
}


def is_external(name: str) -> bool:
    """Whether a name is one of these networks, not a folder or a reference network."""
    return ":" in name and not Path(name).exists()


def make(name: str, config: dict[str, Any]) -> nn.Module:
    """The network without trained weights.

    config: for one of torchvision's, {"classes": number of outputs} where that differs from the original.

    Raises DataError, also for a network that cannot be cut whatever its weights.
    """
    if name.startswith(TORCHVISION):
        return _torchvision(name.removeprefix(TORCHVISION), config)
    return _own(name)


def _torchvision(model: str, config: dict[str, Any]) -> nn.Module:
    models = import_torchvision().models
    known = models.list_models()
    if model not in known:
        similar = difflib.get_close_matches(model, known, 5, 0.4) or ["resnet18", "squeezenet1_1"]
        raise DataError(f"torchvision has no network {model!r}; it has {', '.join(similar)} and others")
    for family, why in _UNCUTTABLE.items():
        if model in models.list_models(getattr(models, family)):
            raise DataError(f"{TORCHVISION}{model} cannot be cut: {why}")
    options = without_weights(models.get_model_builder(model))
    if config.get("classes"):
        options["num_classes"] = config["classes"]
    if model in ("googlenet", "inception_v3"):
        options |= {"init_weights": False, "transform_input": True}  # the latter as their weights expect it
    with _no_downloads(f"{TORCHVISION}{model}"):
        network: nn.Module = models.get_model(model, **options)
    return network


def without_weights(builder: Callable[..., nn.Module]) -> dict[str, Any]:
    """The arguments with which one of torchvision's builders loads no trained weights, of any part of the network."""
    return {name: None for name in inspect.signature(builder).parameters if name.startswith("weights")}


@contextmanager
def _no_downloads(name: str) -> Iterator[None]:
    """Makes a builder fail that would download weights all the same, by an argument that is not known here."""

    def refuse(*_: Any, **__: Any) -> None:
        raise DataError(f"{name} downloads weights when it is made, so it cannot be used without them")

    download = torch.hub.download_url_to_file
    torch.hub.download_url_to_file = refuse
    try:
        yield
    finally:
        torch.hub.download_url_to_file = download


def _own(name: str) -> nn.Module:
    module, _, factory = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` would have it
    try:
        call = getattr(importlib.import_module(module), factory)
    except AttributeError as error:
        if getattr(error, "obj", None) is not sys.modules.get(module):
            raise DataError(f"{name}: importing {module} failed: {error}") from error
        raise DataError(f"{name}: the module {module} has no {factory!r}") from None
    except (ImportError, ValueError, TypeError) as error:
        raise DataError(f"{name}: {error}; it must be importable here, as package.module:factory") from None
    except Exception as error:  # whatever the user's own module does
        raise DataError(f"{name}: importing {module} failed: {type(error).__name__}: {error}") from error
    try:
        network = call()
    except Exception as error:
        raise DataError(f"{name}() failed: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise DataError(f"{name}() returned a {type(network).__name__}, not a torch.nn.Module")
    return network


def load_weights(network: nn.Module, name: str, weights: str) -> None:
    """Loads trained weights into a network that `make` made. Raises DataError.

    weights: a file (safetensors, or a state dict as torch.save writes it), "DEFAULT" for those that torchvision
    publishes, which are downloaded, or that a module of one's own names, or "none".
    """
    if weights == NO_WEIGHTS:
        return
    state = _published(name, network) if weights == PUBLISHED_WEIGHTS else _read(Path(weights))
    if name.startswith(TORCHVISION):
        own = network.state_dict()
        state = {key: value for key, value in state.items() if key in own or not key.startswith(_AUXILIARY)}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{weights} does not fit {name}: {reason[:300]}; if its classes are not the original's, name them",
            setting="labels",
        ) from None


def _published(name: str, network: nn.Module) -> dict[str, Any]:
    if not name.startswith(TORCHVISION):
        own = getattr(network, "published_weights", None)
        if own is None:
            raise DataError(
                f"{PUBLISHED_WEIGHTS} is for torchvision's networks; the weights of {name} are a file or "
                f"{NO_WEIGHTS}",
                setting="weights",
            )
        return dict(own())
    published = _published_weights(name)
    if published is None:
        raise DataError(f"torchvision publishes no weights for {name}", setting="weights")
    try:
        state: dict[str, Any] = published.get_state_dict(progress=True, check_hash=True)
    except (urllib.error.URLError, OSError) as error:
        raise DataError(
            f"the weights of {name} cannot be downloaded ({error}); get {published.url} and name the file",
            setting="weights",
        ) from None
    return state


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(
            f"no such file: {path}; weights are a file, {PUBLISHED_WEIGHTS} or {NO_WEIGHTS}",
            setting="weights",
        ) from None
    except Exception as error:  # the reader of pickles raises whatever a strange file leads it to
        reason = (str(error).splitlines() or [""])[0]
        raise DataError(
            f"{path} cannot be read: {type(error).__name__}: {reason}", setting="weights"
        ) from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise DataError(f"{path} holds no state dict, which is tensors by their names", setting="weights")
    return state


def published_preprocess(name: str, network: nn.Module) -> dict[str, Any]:
    """How a network's images are prepared: keys of a Preprocess, as torchvision publishes them for a classifier or
    the module itself has them; empty where neither does."""
    if not name.startswith(TORCHVISION):
        return dict(getattr(network, "preprocess", {}))
    published = _published_weights(name)
    how = published.transforms() if published is not None else None
    if how is None or len(getattr(how, "crop_size", ())) != 1:
        return {}
    (crop,), (resize,) = how.crop_size, how.resize_size
    return {
        "height": crop,
        "width": crop,
        "resize": resize,
        "interpolation": how.interpolation.value,
        "mean": tuple(how.mean),
        "std": tuple(how.std),
    }


def published_labels(name: str, network: nn.Module) -> tuple[str, ...]:
    """The class names of torchvision's own weights, or those that the module has; empty for others."""
    if not name.startswith(TORCHVISION):
        return tuple(getattr(network, "labels", ()))
    published = _published_weights(name)
    return tuple(published.meta.get("categories", ())) if published is not None else ()


def _published_weights(name: str) -> Any:
    """The weights of one of torchvision's networks, not loaded yet; None where there are none."""
    try:
        return import_torchvision().models.get_model_weights(name.removeprefix(TORCHVISION)).DEFAULT
    except (ValueError, AttributeError):
        return None
