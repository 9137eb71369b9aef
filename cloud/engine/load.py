"""Loads a bundle into memory, ready to answer. Knows no server.

Bundle -> CloudModel (torch) and Encoder (ONNX Runtime) -> one warm-up pass
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.errors import BundleDamagedError

if TYPE_CHECKING:
    from cloud.engine.bundle_model import CloudModel


@dataclass(frozen=True)
class Loaded:
    """A bundle's model and the encoder of its edge half."""

    model: CloudModel
    encoder: Encoder


def load(bundle: Bundle, device: str = "cpu", threads: int | None = None, encode_threads: int = 1) -> Loaded:
    """Loads a bundle and answers once, so that the first request meets a warm model. Blocks for seconds.

    device: torch's name of it. threads: torch's; None keeps torch's choice. encode_threads: ONNX Runtime's.
    Raises BundleError or a subclass.
    """
    from cloud.engine.bundle_model import (
        CloudModel,  # brings torch, seconds; a server's ports are open before it
    )

    try:
        model = CloudModel(bundle, device, threads)
        encoder = Encoder(bundle, encode_threads)
    except (KeyError, ValueError) as error:  # tensors that are intact and still do not make a codec
        raise BundleDamagedError(f"{bundle.path} does not make a model: {error}") from error
    model.warm_up()
    return Loaded(model, encoder)
