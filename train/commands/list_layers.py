"""What `isthmus network layers` shows: a network's layers, and where it can be cut."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import nn

from train.networks.cutting import Layer, Traced
from train.networks.external_networks import is_foreign, make
from train.networks.load import NetworkSpec, load_network_spec, preprocess_of

FLOAT_BYTES = 4


def show(network: str, size: str | None, every: bool) -> None:
    """Print the table. every: also the layers at which the network cannot be cut. Raises DataError."""
    whole: tuple[type[nn.Module], ...]
    source = NetworkSpec(network=network, size=size)
    if is_foreign(network):
        module, preprocess, whole = make(network, {}).eval(), preprocess_of(source), ()
    else:
        module, card = load_network_spec(source)
        preprocess = card.preprocess
        whole = (
            () if is_foreign(card.network) else (nn.Sequential,)
        )  # reference networks are cut between blocks
    layers = Traced(module, preprocess.height, preprocess.width, whole).layers
    table = Table(
        box=SIMPLE,
        padding=0,
        collapse_padding=True,
        caption=f"for pictures of {preprocess.width} x {preprocess.height}; raw: of the feature as float32; "
        "MMAC: millions of multiply-adds before and after the cut",
    )
    for name, right in (
        ("", True),
        ("split", False),
        ("kind", False),
        ("output", True),
        ("raw bytes", True),
        ("parameters", True),
        ("MMAC edge", True),
        ("MMAC cloud", True),
    ):
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    if every:
        table.add_column("cut")
    for layer in layers:
        if every or not layer.refused:
            table.add_row(*_row(layer, layers[-1]), *(["no" if layer.refused else "clean"] if every else []))
    console = Console()
    console.print(table)
    refused = [layer for layer in layers if layer.refused]
    if refused and not every:
        console.print(f"{len(refused)} layers more at which it cannot be cut: --all names what crosses there")
    for layer in refused if every else ():
        console.print(
            f"{layer.number} {layer.name}: {layer.refused}", markup=False, highlight=False, soft_wrap=True
        )


def _row(layer: Layer, last: Layer) -> list[str]:
    size = FLOAT_BYTES
    for side in layer.shape:
        size *= side
    return [
        str(layer.number),
        layer.name,
        layer.kind,
        " x ".join(map(str, layer.shape)),
        f"{size:,}",
        f"{layer.parameters:,}",
        f"{layer.multiply_adds / 1e6:,.1f}",
        f"{(last.multiply_adds - layer.multiply_adds) / 1e6:,.1f}",
    ]
