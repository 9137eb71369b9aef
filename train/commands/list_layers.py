"""`isthmus network layers`: prints a network's layers and where it can be cut."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import nn

from shared.bundle import Preprocess
from train.networks.cutting import Layer, Traced
from train.networks.external_networks import is_external, make
from train.networks.load import NetworkSpec, load_network_spec, preprocess_of

FLOAT_BYTES = 4
# Titles of the columns, and whether they hold numbers.
COLUMNS = (
    ("", True),
    ("split", False),
    ("kind", False),
    ("output", True),
    ("raw bytes", True),
    ("parameters", True),
    ("MMAC edge", True),
    ("MMAC cloud", True),
)


def show(network: str, size: str | None, every: bool) -> None:
    """Prints the table. every: also the layers at which the network cannot be cut. Raises DataError."""
    module, preprocess, whole = _loaded(NetworkSpec(network=network, size=size))
    layers = Traced(module, preprocess.height, preprocess.width, whole).layers
    console = Console()
    console.print(_table(layers, preprocess, every))
    refused = [layer for layer in layers if layer.refused]
    if not every:
        if refused:
            console.print(f"at {len(refused)} more layers it cannot be cut: --all names what crosses there")
        return
    for layer in refused:
        line = f"{layer.number} {layer.name}: {layer.refused}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _loaded(spec: NetworkSpec) -> tuple[nn.Module, Preprocess, tuple[type[nn.Module], ...]]:
    """A network, how its images are prepared, and the modules that count as one layer. Raises DataError."""
    if is_external(spec.network):  # its layers do not depend on its weights
        own = make(spec.network, {}).eval()
        return own, preprocess_of(spec, own), ()
    module, card = load_network_spec(spec)
    blocks = (
        () if is_external(card.network) else (nn.Sequential,)
    )  # reference networks are cut between blocks
    return module, card.preprocess, blocks


def _table(layers: Sequence[Layer], preprocess: Preprocess, every: bool) -> Table:
    table = Table(
        box=SIMPLE,
        padding=0,
        collapse_padding=True,
        caption=f"for images of {preprocess.width} x {preprocess.height}; raw bytes: the feature as float32; "
        "MMAC: millions of multiply-adds before and after the cut",
    )
    for title, number in COLUMNS:
        table.add_column(title, justify="right" if number else "left", overflow="fold")
    if every:
        table.add_column("cut")
    for layer in layers:
        if every or not layer.refused:
            table.add_row(*_row(layer, layers[-1]), *(["no" if layer.refused else "clean"] if every else []))
    return table


def _row(layer: Layer, last: Layer) -> list[str]:
    return [
        str(layer.number),
        layer.name,
        layer.kind,
        " x ".join(map(str, layer.shape)),
        f"{FLOAT_BYTES * math.prod(layer.shape):,}",
        f"{layer.parameters:,}",
        f"{layer.multiply_adds / 1e6:,.1f}",
        f"{(last.multiply_adds - layer.multiply_adds) / 1e6:,.1f}",
    ]
