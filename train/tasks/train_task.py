"""Flow 3: a task that nobody planned, on the bytes of a bundle that is already out there (`isthmus train task`).

    z = what the bundle's edge sends at a random quality;  y_hat = reconstruction(z x inverse gain);  loss = d

Only a fresh FeatureReconstruction of the new network's feature is trained. Fronts, transform, gains and entropy model
of the bundle, and the new network itself, stay as they are, so every byte that an edge sends does too. Out comes a task
folder, which `isthmus cloud add-task` puts into the bundle.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from cloud.networks.networks import feature_shape
from cloud.networks.sizes import CodecConfig, spatial
from cloud.networks.transforms import FeatureReconstruction, Scaling, initialise, interpolated
from shared.bundle import CLOUD, ONNX, TAIL, TASK, WEIGHTS, AddedTask, Bundle, Task
from shared.encoder import Encoder
from shared.errors import DataError
from shared.files import write_atomically
from shared.sealed import FileEntry
from train.bundle.build import tail_spec, without_paths
from train.bundle.export import export_tail
from train.codec.codec_recipe import LABELLED, Crop, Distortion
from train.codec.distortion import crop_for, distortion
from train.codec.split_networks import Head, as_map, check_size
from train.codec.teacher_cache import features_of, network_inputs
from train.codec.train_codec import SAMPLE
from train.data.dataset import Dataset, dataset_digests, in_order, network_input
from train.data.feature_cache import CachedArrays, cached_features
from train.loop.distributed import Precision, Team
from train.loop.run import Run, Schedule, Seed, batches, fit, training_device
from train.loop.scoring import Tally, sheet, sheet_indices, target_of
from train.networks.load import NetworkSpec, cut, load_network_spec, reference_cut

FOLDER = "task"  # of a run: what `add-task` takes
RECONSTRUCTION = "reconstruction."  # before the names of its tensors in a task folder
Z_TYPE = np.int16


class TaskRecipe(NetworkSpec):
    """Everything that decides how an added task comes out. name: by default what its network was trained for.

    width: how many times as wide as the bundle's own the reconstruction is; no edge pays for it. init: a task folder
    for the same bundle whose reconstruction, as wide, is the start.
    """

    data: str
    validation: str | None = None
    bundle: str
    name: str = Field("", pattern=r"^([a-z][a-z0-9_-]{0,63})?$")
    distortion: Distortion = "distill"
    width: float = Field(1.0, gt=0, le=16)
    init: str | None = None
    steps: int = Field(ge=1)
    batch: int = Field(32, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    crop: Crop = 8
    flips: bool = True
    seed: Seed = 0


class AddedHead(nn.Module):
    """z -> y_hat -> the new task's output. Only the reconstruction learns."""

    def __init__(self, head: Head, config: CodecConfig, log_inverse: Tensor | None) -> None:
        super().__init__()
        self.head, self.config = head.requires_grad_(False), config
        self.reconstruction = FeatureReconstruction(head.feature[0], config)
        initialise(self.reconstruction)
        self.scaling = Scaling(head.feature[0]) if config.scaled else None
        self.register_buffer("log_inverse", log_inverse, persistent=False)

    def feature(self, z: Tensor, position: Tensor) -> Tensor:
        """z (B, N, h, w), position (B,) -> y_hat (B, C, H', W')."""
        if self.log_inverse is not None:
            z = z * interpolated(self.log_inverse, position)
        y_hat: Tensor = self.reconstruction(z, spatial(self.head.feature))
        return self.scaling.back(y_hat) if self.scaling else y_hat


def train_task(
    recipe: TaskRecipe,
    training: Dataset,
    validation: Dataset,
    out: Path,
    resume: bool,
    device: str = "cpu",
    features: Path | None = None,
    precision: Precision = "auto",
) -> dict[str, float]:
    """Train, leaving a task folder in out/task. Returns its figures, by "name@quality". Raises IsthmusError.

    training, validation: the distortions LABELLED need labels. features: keeps the new network's features, for other
    runs too; by default the run's own folder.
    """
    team = Team(training_device(device), precision)
    place = team.device
    bundle = Bundle.open(recipe.bundle)
    network, card = load_network_spec(recipe)
    name = recipe.name or card.task
    if any(task.name == name for task in bundle.tasks):
        raise DataError(f"{recipe.bundle} has a task {name!r} already; give this one another --name")
    if card.preprocess != bundle.manifest.preprocess:
        raise DataError(
            f"{recipe.network} takes pictures in another way than {recipe.bundle} (size, crop or normalisation)"
        )
    front, tail = cut(network, card)
    preprocess = card.preprocess
    for pictures in (training, validation):
        check_size(pictures, preprocess)
    feature = feature_shape(front, preprocess.height, preprocess.width)
    torch.manual_seed(recipe.seed)
    config, log_inverse = reconstruction_of(bundle, recipe.width)
    config = config.model_copy(update={"scaled": not reference_cut(card)})
    model = AddedHead(Head(tail, card.task, feature), config, log_inverse)
    if recipe.init is not None:
        start_from(model, bundle, Path(recipe.init))
    crop = crop_for(model.head, recipe.crop) if recipe.distortion != "feature" else None
    size = len(training)
    positions = _positions(bundle, size * (2 if recipe.flips else 1), recipe.seed)
    team.check_batch(min(recipe.batch, len(positions)))
    inputs = {**network_inputs([recipe], [network]), f"the bundle {recipe.bundle}": _made_of(bundle)}
    inputs |= dataset_digests(training, validation)
    run = Run(out, recipe.model_dump(mode="json"), resume, inputs, team, type(recipe))
    front.to(place).eval()
    model.to(place)
    encoder = Encoder(bundle, threads=torch.get_num_threads())
    with team.leader_first():
        z_of = _latents(out / "latents", encoder, training, positions, recipe)
        y_of = features_of((features or out / "features") / name, front, training, preprocess, recipe.flips)

    if model.scaling:
        sample = np.linspace(0, size - 1, min(size, SAMPLE)).astype(np.int64)
        model.scaling.measure(y_of.batch(sample).to(place))

    def data(start: int) -> Iterator[NDArray[np.int64]]:
        yield from map(team.share, batches(len(positions), recipe.batch, recipe.seed, start, recipe.steps))

    def loss_of(indices: NDArray[np.int64], step: int) -> tuple[Tensor, dict[str, float]]:
        model.eval()  # the tail's normalisation stays as it is; the reconstruction has none
        z, given = z_of.batch(indices).to(place), y_of.batch(indices).to(place)
        position = torch.from_numpy(positions[indices]).to(place)
        made = model.feature(z, position)
        labels = recipe.distortion in LABELLED
        truth = training.labels(indices % size, indices >= size) if labels else None
        heads = model.head, model.head
        d = distortion(recipe.distortion, *heads, made, given, truth, crop, team.variance).mean()
        return d, {"distortion": float(d.detach())}

    def validate(most: int | None = 256) -> dict[str, float]:
        return evaluate_task(model, encoder, front, validation, team, most)

    def pictures() -> dict[str, NDArray[np.uint8]]:
        return {name: task_sheet(model, encoder, front, validation)} if card.task != "classification" else {}

    fit(
        run,
        model,
        Schedule(recipe.steps, recipe.learning_rate),
        data,
        loss_of,
        seed=recipe.seed,
        validate=validate,
        pictures=pictures,
        show=("distortion",),
    )
    figures = validate(None)
    about = Task(
        name=name,
        kind=card.task,
        labels=card.labels,
        **tail_spec(card),
        feature=feature,
    )
    training_told = {
        "network": without_paths(card.recipe),
        "task": without_paths(recipe.model_dump(mode="json")),
    }
    if team.leads:
        save_task(out / FOLDER, bundle, about, model, training_told, figures)
    return figures


def start_from(model: AddedHead, bundle: Bundle, folder: Path) -> None:
    """Give `model` the reconstruction of a task folder. Raises DataError, BundleDamagedError."""
    tensors = load_tensors(bundle.read_task(folder).read(folder)[WEIGHTS])
    own = {
        name.removeprefix(RECONSTRUCTION): t for name, t in tensors.items() if name.startswith(RECONSTRUCTION)
    }
    try:
        model.reconstruction.load_state_dict(own)
    except RuntimeError:
        raise DataError(
            f"--init {folder}: its reconstruction has another --width, or is of another feature"
        ) from None


def reconstruction_of(bundle: Bundle, width: float) -> tuple[CodecConfig, Tensor | None]:
    """Sizes of a fresh reconstruction for this bundle's z, and the bundle's log inverse gains (L, N)."""
    config = CodecConfig.model_validate(bundle.manifest.codec)
    wide = tuple(max(1, round(channels * width)) for channels in config.reconstruction)
    return (
        config.model_copy(update={"reconstruction": wide}),
        load_tensors(bundle.read(CLOUD)).get("gains.log_inverse"),
    )


def _made_of(bundle: Bundle) -> str:
    """SHA-256, hex, of the digests of the bundle's files; its figures may be measured anew meanwhile."""
    files = sorted((name, entry.sha256) for name, entry in bundle.manifest.files.items())
    return hashlib.sha256(repr(files).encode()).hexdigest()


def _positions(bundle: Bundle, count: int, seed: int) -> NDArray[np.float32]:
    """The level at which each picture is coded, float in 0..L-1."""
    last = len(bundle.manifest.qualities) - 1
    return (np.random.default_rng((seed, 3)).random(count) * last).astype(np.float32)


def _latents(
    folder: Path, encoder: Encoder, pictures: Dataset, positions: NDArray[np.float32], recipe: TaskRecipe
) -> CachedArrays:
    preprocess, manifest = encoder.bundle.manifest.preprocess, encoder.bundle.manifest

    def compute(indices: NDArray[np.int64], flip: NDArray[np.bool_]) -> NDArray[np.int16]:
        u = encoder.features(network_input(pictures.images(indices), preprocess, flip).numpy())
        _, z = encoder.latents(u, positions[indices + flip * len(pictures)])
        return z.clip(np.iinfo(Z_TYPE).min, np.iinfo(Z_TYPE).max).astype(Z_TYPE)

    of = {
        "edge_sha256": manifest.edge_sha256,
        "fingerprint": manifest.fingerprint,
        "seed": recipe.seed,
    }
    return cached_features(folder, compute, pictures, of, recipe.flips)


@torch.no_grad()
def evaluate_task(
    model: AddedHead,
    encoder: Encoder,
    front: nn.Module,
    view: Dataset,
    team: Team,
    most: int | None = None,
) -> dict[str, float]:
    """Figures of the task, "@uncompressed" and "@quality" of each level, on the first `most` pictures.

    Without labels those of the agreement with the uncompressed network. The processes count together.
    """
    model.eval()
    place = next(model.parameters()).device
    manifest = encoder.bundle.manifest
    qualities = [level.quality for level in manifest.qualities]
    tally = Tally()
    for indices in team.part(in_order(min(len(view), most or len(view)), 32)):
        x = network_input(view.images(indices), manifest.preprocess)
        u = encoder.features(x.numpy())
        plain = model.head(as_map(front(x.to(place))))
        target = target_of(model.head.kind, view, indices, plain)
        if target.labelled:
            tally.count("", "uncompressed", plain, target)
        for level, quality in enumerate(qualities):
            tally.count("", str(quality), _answered(model, encoder, u, level), target)
    return team.merged(tally).figures()


def _answered(model: AddedHead, encoder: Encoder, u: NDArray[np.float32], level: float) -> Tensor:
    """The task's outputs from what the edge sends of u (B, N, h, w) at a level."""
    place = next(model.parameters()).device
    at = np.full(len(u), level, np.float32)
    _, z = encoder.latents(u, at)
    made = model.feature(torch.from_numpy(z).to(place, torch.float32), torch.from_numpy(at).to(place))
    out: Tensor = model.head(made)
    return out


@torch.no_grad()
def task_sheet(model: AddedHead, encoder: Encoder, front: nn.Module, view: Dataset) -> NDArray[np.uint8]:
    """The first pictures, a row each: input, prediction without the codec, with it at the default quality, truth."""
    model.eval()
    bundle = encoder.bundle
    x = network_input(view.images(sheet_indices(view)), bundle.manifest.preprocess)
    plain = model.head(as_map(front(x.to(next(model.parameters()).device))))
    level = bundle.position(bundle.quality(None))
    return sheet(model.head.kind, view, plain, _answered(model, encoder, encoder.features(x.numpy()), level))


def save_task(
    folder: Path,
    bundle: Bundle,
    task: Task,
    model: AddedHead,
    training: dict[str, object],
    figures: dict[str, float],
) -> None:
    """Write a task folder for `bundle`; one that is there gives way to it."""
    tensors = {f"{RECONSTRUCTION}{n}": t for n, t in model.reconstruction.state_dict().items()}
    if model.scaling:
        tensors |= {f"scaling.{n}": t for n, t in model.scaling.state_dict().items()}
    tail = export_tail(model.head.cpu()) if task.network == ONNX else None
    if tail is None:
        tensors |= {f"tail.{n}": t for n, t in model.head.tail.state_dict().items()}
    data = save_tensors({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
    added = AddedTask(
        task=task,
        fingerprint=bundle.manifest.fingerprint,
        edge_sha256=bundle.manifest.edge_sha256,
        codec=model.config.model_dump(mode="json"),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        training=training,
        figures=figures,
        licences=bundle.manifest.licences,
        file=_entry(data),
        tail=None if tail is None else _entry(tail),
    )
    folder.mkdir(exist_ok=True)
    (folder / TASK).unlink(
        missing_ok=True
    )  # first, so that a kill in between leaves nothing that looks whole
    write_atomically(folder / WEIGHTS, data)
    if tail is not None:
        write_atomically(folder / TAIL, tail)
    write_atomically(folder / TASK, added.sealed_json())


def _entry(data: bytes) -> FileEntry:
    return FileEntry(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
