"""`isthmus codec try`: from networks and images to a bundle and its plot against other codecs.

    network import -> codec train -> bundle build -> bench rate

It runs these commands, each in a process of its own, and prints them, so that they can be repeated one by one with
other settings. Each of them goes on where it was stopped, and so does the whole.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from shared.errors import DataError
from shared.files import refuse_foreign_folder, write_atomically
from shared.process.child_process import ISTHMUS
from train.commands.options import (
    BATCH_MAX,
    COUNT_MAX,
    NETWORK,
    SPEC,
    STEPS_MAX,
    Data,
    Device,
    Force,
    Size,
    Split,
    TrainTable,
    Weights,
)

RECORD = "try.json"  # in `out`: what was asked for
START_SHARE = 1 / 3  # of the steps, for what predicts the latent of the start
RATE = 6e-5  # after a start from answers, which a higher one forgets
ENTROPY_RATE = 10.0  # times that
SCALES = "scales=[0.1,0.3,0.6,1,2]"

app = TrainTable()


@dataclass(frozen=True)
class Request:
    """What is tried, as `RECORD` keeps it. split, weights, lambda_: once for all networks or once for each."""

    network: tuple[str, ...]
    split: tuple[str, ...]
    weights: tuple[str, ...]
    size: str | None
    fit: str | None
    data: str
    test: str
    lambda_: tuple[float, ...]
    steps: int
    batch: int
    views: int


@app.command(name="try")
def try_(
    out: Annotated[Path, typer.Option(help="folder of all that comes of it")],
    network: Annotated[list[str], typer.Option(help=f"{NETWORK}; once for each network")],
    data: Data,
    test: Annotated[str, typer.Option(help=f"images of the plot, which nothing learns from: {SPEC}")],
    split: Annotated[list[str], Split] = [],  # noqa: B006
    weights: Annotated[list[str], Weights] = [],  # noqa: B006
    size: Annotated[str | None, Size] = None,
    fit: Annotated[
        str | None, typer.Option(help="how other images become that size: crop, stretch or letterbox")
    ] = None,
    lambda_: Annotated[
        list[float],
        typer.Option(
            "--lambda", help="weight of a task's errors, in bits; once for all or for each", min=0, max=1e12
        ),
    ] = [30_000.0],  # noqa: B006
    steps: Annotated[
        int, typer.Option(help="steps of the optimiser, of all trainings", min=3, max=STEPS_MAX)
    ] = 3000,
    batch: Annotated[int, typer.Option(help="images in a step", min=1, max=BATCH_MAX)] = 16,
    views: Annotated[
        int, typer.Option(help="crops of each image to learn from; more for few images", min=1, max=1000)
    ] = 8,
    count: Annotated[
        int | None, typer.Option(help="only the first images of the test set", min=1, max=COUNT_MAX)
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="few images and settings in the plot")] = False,
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Train a codec for networks of yours, build its bundle, and plot its bytes against those of other codecs.

    Prints the commands that it runs. Started again, it goes on where it stopped.
    """
    refuse_foreign_folder(out, (RECORD,), force=force)
    request = Request(
        tuple(network),
        tuple(split),
        tuple(weights),
        size,
        fit,
        data,
        test,
        tuple(lambda_),
        steps,
        batch,
        views,
    )
    # What the plot needs: a mistake of the last step must not cost the hours of those before it.
    import av  # noqa: F401
    import bjontegaard  # noqa: F401

    _check_images("data", data)
    _check_images("test", test)
    _keep(request, out)
    for words in _commands(request, out, device):
        _run(words)
    plot = ["bench", "rate", out / "bundle", *_each("network", _folders(request, out)), "--data", test]
    less = [*(["--count", count] if count else []), *(["--quick"] if quick else [])]
    _run([*plot, "--out", out / "rate", *less, "--device", device])
    typer.echo(f"{out / 'rate' / 'rate.html'}: the plot; {out / 'bundle'}: the bundle")


def _check_images(option: str, images: str) -> None:
    """Raises DataError for a set that is not there."""
    from train.data.formats import list_set, parse

    try:
        for spec in parse(images):
            list_set(spec)
    except DataError as error:
        raise DataError(error.args[0], setting=option) from None


def _keep(request: Request, out: Path) -> None:
    """Writes the request down, or compares it with the one that the folder began with. Raises DataError."""
    new = json.loads(json.dumps(asdict(request)))
    try:
        old = json.loads((out / RECORD).read_text())
    except FileNotFoundError:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / RECORD, json.dumps(new, indent=1).encode())
        return
    except ValueError:
        raise DataError(f"{out / RECORD} cannot be read; choose another folder", setting="out") from None
    changed = sorted(key for key in new if new[key] != old.get(key))
    if changed:
        raise DataError(
            f"{out} was begun with other options ({', '.join(changed).replace('_', '')}); repeat them, or choose "
            "another folder",
            setting="out",
        )


def _commands(request: Request, out: Path, device: str) -> Iterator[Sequence[object]]:
    """All but the plot, each once those before it are done. Raises DataError."""
    from train.kinds import TRAINING_KINDS
    from train.networks.external_networks import is_external
    from train.networks.network_folder import CARD

    folders = _folders(request, out)
    weights = _spread("weights", request.weights, len(folders))
    for name, folder, weight in zip(request.network, folders, weights, strict=True):
        if is_external(name) and not (folder / CARD).exists():
            given = {"weights": weight, "size": request.size, "fit": request.fit}
            flags = [
                word for key, value in given.items() if value is not None for word in (f"--{key}", value)
            ]
            again = ["--force"] if folder.exists() else []  # what a killed import left
            yield ["network", "import", name, *flags, "--out", folder, *again]
    parts = [
        *_each("network", folders),
        *_each("split", request.split),
        *_each("lambda", request.lambda_),
    ]
    images = ["--data", request.data, "--batch", request.batch, "--features", out / "features"]
    more = ["--set", SCALES, "--set", f"views={request.views}", "--set", "flips=false"]
    common = [
        "codec",
        "train",
        *parts,
        *images,
        *more,
        "--set",
        "preset=blocks",
        "--device",
        device,
        "--resume",
    ]
    if all(TRAINING_KINDS[_kind(folder)].softmax for folder in folders):
        first = max(1, round(request.steps * START_SHARE))
        start = ["start=answers", "trains=entropy", "learning_rate=2e-3"]
        yield [*common, *_each("set", start), "--steps", first, "--out", out / "start"]
        gentle = [f"init={out / 'start'}", f"learning_rate={RATE:g}", f"entropy_rate={ENTROPY_RATE:g}"]
        gentle += ["rate=rounded", "distortion_first=0", "rate_ramp=0"]
        yield [*common, *_each("set", gentle), "--steps", request.steps - first, "--out", out / "codec"]
    else:
        yield [*common, "--steps", request.steps, "--out", out / "codec"]
    if not (out / "bundle").exists():
        yield ["bundle", "build", out / "codec", "--data", request.data, "--out", out / "bundle"]


def _folders(request: Request, out: Path) -> list[Path]:
    """Each network's folder: its own, or the one that it is imported to."""
    from train.networks.external_networks import is_external

    return [
        out / f"network-{number}" if is_external(name) else Path(name)
        for number, name in enumerate(request.network, 1)
    ]


def _kind(folder: Path) -> str:
    """The kind of a network's answers. Raises DataError."""
    from train.networks.network_folder import load_network

    return load_network(folder)[1].task


def _spread(option: str, values: Sequence[str], count: int) -> list[str | None]:
    """One value for each of `count` networks. Raises DataError."""
    if len(values) not in (0, 1, count):
        raise DataError(
            f"--{option} is given {len(values)} times, for {count} networks; give it once or {count} times"
        )
    given: list[str | None] = [*values] or [None]
    return given * (count // len(given))


def _each(option: str, values: Sequence[object]) -> list[object]:
    return [word for value in values for word in (f"--{option}", value)]


def _run(words: Sequence[object]) -> None:
    """Prints and runs a command of ours. Exits with its status where it fails, as it has said why; raises DataError
    where it was killed."""
    texts = list(map(str, words))
    typer.echo(f"\n$ {shlex.join(['isthmus', *texts])}")
    status = subprocess.run([*ISTHMUS, *texts]).returncode
    if status < 0:
        raise DataError(f"isthmus {' '.join(texts[:2])} was killed by signal {-status}; start again to go on")
    if status:
        raise typer.Exit(status)
