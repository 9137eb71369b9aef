"""Networks that are not the reference ones: torchvision's by name, a user's own by "package.module:factory".

A factory is called without arguments and gives a torch.nn.Module whose input is (B, 3, H, W).
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import urllib.error
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from shared.errors import DataError
from train.networks.torchvision_shim import import_torchvision

TORCHVISION = "torchvision:"
_AUXILIARY = ("aux_classifier.", "aux1.", "aux2.", "AuxLogits.")
ABSENT = "none"  # of weights: as the network was made


def is_foreign(name: str) -> bool:
    """Whether a name is one of these networks, and not a folder or a reference network."""
    return ":" in name and not Path(name).exists()


def make(name: str, config: dict[str, Any]) -> nn.Module:
    """The network without trained weights. config: {"classes": outputs of one of torchvision's}. Raises DataError."""
    if name.startswith(TORCHVISION):
        return _torchvision(name.removeprefix(TORCHVISION), config)
    return _own(name)


def _torchvision(model: str, config: dict[str, Any]) -> nn.Module:
    models = import_torchvision().models
    known = models.list_models()
    if model not in known:
        alike = difflib.get_close_matches(model, known, 5, 0.4) or ["resnet18", "squeezenet1_1"]
        raise DataError(f"torchvision has no network {model!r}; it has {', '.join(alike)} and others")
    options: dict[str, Any] = {"weights": None}
    if config.get("classes"):
        options["num_classes"] = config["classes"]
    if model in models.list_models(models.segmentation):
        options["weights_backbone"] = None
    if model in ("googlenet", "inception_v3"):
        options |= {"init_weights": False, "transform_input": True}  # the latter as their weights expect it
    network: nn.Module = models.get_model(model, **options)
    return network


def _own(name: str) -> nn.Module:
    module, _, factory = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` would have it
    try:
        make = getattr(importlib.import_module(module), factory)
    except AttributeError as error:
        if getattr(error, "obj", None) is not sys.modules.get(module):
            raise DataError(f"{name}: importing {module} failed: {error}") from error
        raise DataError(f"{name}: the module {module} has no {factory!r}") from None
    except (ImportError, ValueError, TypeError) as error:
        raise DataError(f"{name}: {error}; it must be importable here, as package.module:factory") from None
    except Exception as error:  # whatever the user's own module does
        raise DataError(f"{name}: importing {module} failed: {type(error).__name__}: {error}") from error
    try:
        network = make()
    except Exception as error:
        raise DataError(f"{name}() failed: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise DataError(f"{name}() gave a {type(network).__name__}, not a torch.nn.Module")
    return network


def give_weights(network: nn.Module, name: str, weights: str) -> None:
    """Load trained weights. Raises DataError.

    weights: a file (safetensors, or a state dict as torch.save writes it), "DEFAULT" for those that torchvision
    downloads, or "none".
    """
    if weights == ABSENT:
        return
    state = _published(name) if weights == "DEFAULT" else _read(Path(weights))
    if name.startswith(TORCHVISION):  # heads that only training has; its published files hold them
        own = network.state_dict()
        state = {key: value for key, value in state.items() if key in own or not key.startswith(_AUXILIARY)}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{weights} does not fit {name}: {reason[:300]} (for other classes than the original's give --labels)"
        ) from None


def _published(name: str) -> dict[str, Any]:
    if not name.startswith(TORCHVISION):
        raise DataError(f"--weights DEFAULT is for torchvision's networks, not {name}; name a file, or none")
    known = import_torchvision().models.get_model_weights(name.removeprefix(TORCHVISION)).DEFAULT
    try:
        state: dict[str, Any] = known.get_state_dict(progress=True, check_hash=True)
    except (urllib.error.URLError, OSError) as error:
        raise DataError(
            f"the weights of {name} cannot be downloaded ({error}); get {known.url} and name the file in --weights"
        ) from None
    return state


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(f"--weights: no such file: {path}; a file, DEFAULT or none") from None
    except Exception as error:  # the reader of pickles raises whatever a strange file leads it to
        raise DataError(f"--weights {path} cannot be read: {type(error).__name__}: {_line(error)}") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise DataError(f"--weights {path} holds no state dict: tensors by their names")
    return state


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def published_preprocess(name: str) -> dict[str, Any]:
    """How torchvision prepares pictures for a classifier of its own: the keys of a Preprocess; empty for others."""
    known = _default_weights(name)
    how = known.transforms() if known is not None else None
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


def published_labels(name: str) -> tuple[str, ...]:
    """The classes' names of torchvision's own weights; empty for others."""
    known = _default_weights(name)
    return tuple(known.meta.get("categories", ())) if known is not None else ()


def _default_weights(name: str) -> Any:
    if not name.startswith(TORCHVISION):
        return None
    try:
        return import_torchvision().models.get_model_weights(name.removeprefix(TORCHVISION)).DEFAULT
    except (ValueError, AttributeError):
        return None
