"""The commands of `isthmus train` that make a bundle, measure it, and take networks out of it or into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared.errors import DataError
from train.commands.options import DamagedFiles, Data, Kind, Labels, Size, Split, Weights
from train.commands.recipe_file import Told
from train.echo import echo_once, progress_bar


def build(
    run: Annotated[Path, typer.Argument(help="A run folder of `isthmus train single` or `multi`.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="The bundle to make.")],
    name: Annotated[str | None, typer.Option(help="Its name; that of the folder if absent.")] = None,
    pictures: Annotated[int, typer.Option(help="The last so many are used.", min=1)] = 1000,
    default_quality: Annotated[
        int | None, typer.Option(help="Used where none is asked for; by default where the scale is 1.")
    ] = None,
    weight_bits: Annotated[int, typer.Option(min=4, max=16)] = 12,
    activation_bits: Annotated[int, typer.Option(min=4, max=16)] = 12,
    licence: Annotated[
        str,
        typer.Option(help="Of the weights, for the manifest. Rooms and what learns from them: Apache-2.0."),
    ] = "not stated",
    damaged: DamagedFiles = "refuse",
) -> None:
    """Make a bundle of a trained codec, and report what its integers cost on pictures that it did not train on."""
    from shared.codec.exact import InexactError
    from train.bundle.build import build as make
    from train.codec.quantise import BitWidths as Bits
    from train.codec.split_networks import cards_of
    from train.data.open_dataset import open_datasets

    precision = Bits(weight_bits, activation_bits)
    card = cards_of(run)[0]
    (view,) = open_datasets(
        data,
        [card.task],
        -pictures,
        None,
        [False],
        preprocess=card.preprocess,
        damaged=damaged,
        progress=progress_bar,
    )
    try:
        report = make(
            run,
            out,
            name or out.name,
            view,
            default_quality=default_quality,
            precision=precision,
            licences={"weights": licence},
        )
    except InexactError as error:
        raise DataError(f"{error} (--weight-bits, --activation-bits)") from None
    typer.echo(f"{out}: means over {report.pictures} pictures")
    for quality, level in report.levels.items():
        typer.echo(f" quality {quality}: {level.decoded} decoded to exactly their z")
        rows = [
            ("float model", level.float_bits_v / 8, level.float_bits_z / 8, ""),
            (
                "integer model",
                level.integer_bits_v / 8,
                level.integer_bits_z / 8,
                f"{level.integer_excess:+.2%}",
            ),
            ("written", level.bytes_v, level.bytes_z, f"{level.coded_excess:+.2%}"),
        ]
        for label, b_v, b_z, excess in rows:
            typer.echo(
                f"  {label:14} b_v {b_v:7.2f}  b_z {b_z:7.2f}  together {b_v + b_z:7.2f} bytes  {excess}"
            )
        typer.echo(f"  with container {level.bytes_total:.2f} bytes")
    for layer, (bound, kind) in report.bounds.items():
        typer.echo(f"  {layer:12} partial sums <= {bound:>18,}  exact in {kind}")


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    data: Data,
    network: Annotated[
        list[Path], typer.Option(help="Uncompressed networks to compare with, each for the task of its kind.")
    ] = [],  # noqa: B006
    quality: Annotated[list[int], typer.Option(help="Qualities; by default the bundle's levels.")] = [],  # noqa: B006
    count: Annotated[int | None, typer.Option(help="Only the first pictures of the set.", min=1)] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Put the figures into the bundle's manifest.")
    ] = False,
    damaged: DamagedFiles = "refuse",
) -> None:
    """Every task's figures and true bytes of a bundle, beside the uncompressed networks and in agreement with them."""
    from shared.bundle import Bundle
    from train.bundle.build import add_figures
    from train.bundle.evaluate import evaluate_bundle
    from train.data.open_dataset import open_datasets
    from train.networks.network_folder import load_network

    opened = Bundle.open(bundle)
    kinds: dict[str, Path] = {}
    for folder in network:
        card = load_network(folder)[1]
        if card.task in kinds:
            raise DataError(f"--network {folder}: {kinds[card.task]} is a network for {card.task} already")
        if card.preprocess != opened.manifest.preprocess:
            raise DataError(
                f"--network {folder}: it takes pictures in another way than {bundle} (size or cut)"
            )
        for task in opened.tasks:
            if task.kind == card.task != "normals" and task.labels != card.labels:
                raise DataError(f"--network {folder}: its classes are not those of the bundle's {task.name}")
        kinds[card.task] = folder
    views = open_datasets(
        data,
        [task.kind for task in opened.tasks],
        0,
        count,
        [task.kind not in kinds for task in opened.tasks],
        preprocess=opened.manifest.preprocess,
        damaged=damaged,
        labels=[task.labels for task in opened.tasks],
        progress=progress_bar,
    )
    names = {task.name: task.kind for task in opened.tasks}
    result = evaluate_bundle(
        opened,
        dict(zip(names, views, strict=True)),
        {name: kinds[kind] for name, kind in names.items() if kind in kinds},
        quality or None,
    )
    typer.echo(f"{result.pictures} pictures")
    rows = [("uncompressed", "", result.uncompressed)]
    rows += [(f"quality {q}", f"{rate.bytes_mean:.1f} bytes", rate.tasks) for q, rate in result.rates.items()]
    for where, size, tasks in rows:
        told = "; ".join(
            f"{task} " + ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
            for task, figures in tasks.items()
        )
        typer.echo(f"  {where:13} {size:12} {told}")
    if write:
        add_figures(bundle, {"evaluation": result.model_dump(mode="json")})


def recover(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    out: Annotated[Path, typer.Option(help="Folder that gets a network's folder for each task.")],
) -> None:
    """The uncompressed networks of a bundle, from its files: to measure it, or to train for the cameras that run it."""
    from shared.bundle import Bundle
    from train.networks.from_bundle import Recovered, recovered_networks
    from train.networks.network_folder import save_network

    found = list(recovered_networks(Bundle.open(bundle)))
    taken = [str(out / one.name) for one in found if isinstance(one, Recovered) and (out / one.name).exists()]
    if taken:
        raise DataError(f"{taken[0]} exists already; delete it, or choose another --out")
    for one in found:
        if isinstance(one, Recovered):
            (out / one.name).mkdir(parents=True)
            save_network(one.network, one.card, out / one.name)
            echo_once(
                f"{out / one.name}: {one.card.task}, {len(one.card.labels)} outputs, cut after layer {one.card.split}"
            )
        else:
            echo_once(one)


def import_(
    network: Annotated[str, typer.Argument(help="torchvision:NAME or package.module:factory.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    weights: Annotated[str | None, Weights] = None,
    split: Annotated[str | None, Split] = None,
    kind: Annotated[str | None, Kind] = None,
    size: Annotated[str | None, Size] = None,
    labels: Annotated[str | None, Labels] = None,
) -> None:
    """Put any trained network into a folder, as `isthmus train network` leaves its own."""
    from train.networks.load import NetworkSpec, cut, is_foreign, load_network_spec
    from train.networks.network_folder import save_network

    if not is_foreign(network):
        raise DataError(f"{network!r} is neither torchvision:NAME nor package.module:factory")
    told = {"split": split, "weights": weights, "task": kind, "size": size, "labels": labels}
    source = Told(told, None, set()).recipe(NetworkSpec, network=network)
    module, card = load_network_spec(source)
    if split is not None:
        cut(module, card)
    out.mkdir(parents=True, exist_ok=True)
    save_network(module, card, out)
    how = card.preprocess
    echo_once(f"{out}: {card.task}, {len(card.labels)} outputs, pictures of {how.width} x {how.height}")
