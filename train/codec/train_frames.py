"""Teaches a codec to code a frame given another one (`isthmus codec frames`).

    u of each frame of a sequence, at any level -> z, an element keeping the integer of the frame before it while u lies
    near enough, as on an edge -> the bits of z given that frame's z

Only the context's networks of the kind inter learn. Frames by themselves are coded as before, and everything after z
stays, so that this can be done to any codec with a context. The result is a codec's run folder, OUT/codec.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from shared.bundle import Preprocess
from shared.errors import DataError
from shared.files import write_atomically
from shared.types import Frozen
from train.codec.codec_training import FIGURES, FILES, draw_levels
from train.codec.context_model import Latents
from train.codec.halves import EdgeHalf
from train.codec.split_networks import CARDS, SplitNetworks, load_run
from train.codec.teacher_cache import features_of
from train.data.clip_set import ClipSet
from train.data.dataset import dataset_digest
from train.data.formats import list_set, parse
from train.data.motion_set import MotionSet
from train.data.room_set import RoomSet
from train.loop.distributed import Workers, training_device
from train.loop.interrupts import Interrupts
from train.loop.journal import Scalars
from train.loop.run import BEST, CHECKPOINT, RECIPE, Run, sha256_of
from train.loop.schedule import Schedule, Seed, batch_indices
from train.loop.scores import Score, Scores
from train.loop.training import Better, Plan, Training, fit
from train.rooms.dataset import INDEX_NAME

START_LOG_SCALE = -2.0
VALIDATED = 64  # sequences of each validation
CODEC = "codec"


class FramesRecipe(Frozen):
    """Everything that decides how a codec learns frames.

    codec: its run folder. data: a set of sequences of rooms, a folder of videos, or photographs (images:FOLDER or
        another format of `train.data.formats`). holdout: sequences held out, the last ones.
    frames: images of a sequence of videos or photographs. fps, every: see `train.data.clip_set`.
    sequences: how many are made from photographs; see `train.data.motion_set`.
    holds: how much further than half a step u may move before an element changes; one is drawn for each sequence. The
        last is the one that is validated. lags: how many frames lie between a frame and its reference, drawn as well.
    """

    codec: str
    data: str
    steps: int = Field(1500, ge=1)
    batch: int = Field(32, ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    holds: tuple[Annotated[float, Field(ge=0, le=100)], ...] = Field((0.0, 0.15, 0.3), min_length=1)
    lags: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 2), min_length=1)
    holdout: int = Field(50, ge=1)
    fps: float = Field(5.0, gt=0, le=1000)
    frames: int = Field(8, ge=2, le=1000)
    every: int = Field(1, ge=1)
    sequences: int = Field(400, ge=2, le=100_000)
    seed: Seed = 0


class FramesBatch(NamedTuple):
    """u of sequences, (B, F, N, h, w)."""

    u: Tensor


def train_frames(recipe: FramesRecipe, out: Path, resume: bool, device: str = "cpu") -> Scores:
    """Trains, and leaves the codec in OUT/codec. Returns bytes of a frame at each quality. Raises DataError."""
    with Interrupts() as interrupts:
        return fit(FramesTraining(recipe, out, resume, Workers(training_device(device))), interrupts)


class FramesTraining(Training[FramesBatch, Scores]):
    """The bits of a frame given another one."""

    model: SplitNetworks

    def __init__(self, recipe: FramesRecipe, out: Path, resume: bool, workers: Workers) -> None:
        self.recipe, self.workers, self.device = recipe, workers, workers.device
        source = Path(recipe.codec)
        self.model, self.codec_recipe, cards = load_run(source)
        self.core = self.model.codec.core
        if self.core.context is None:
            raise DataError(f"the codec in {source} has no context, which frames need", setting="codec")
        data = self._opened(cards[0].preprocess)
        self.frames = data.frames
        if self.frames < 1 + max(recipe.lags):
            raise DataError(
                f"{recipe.data} has sequences of length {data.frames}; they need {1 + max(recipe.lags)} frames or more "
                "(isthmus rooms render --frames)",
                setting="data",
            )
        self.count = len(data) // self.frames - recipe.holdout
        if self.count < 1:
            raise DataError(f"{recipe.holdout} sequences held out of {len(data) // self.frames} leave none")
        inputs = {
            f"the codec {source}": sha256_of(source / BEST),
            "the set of sequences": dataset_digest(data),
        }
        self.run = Run(out, recipe.model_dump(mode="json"), resume, inputs, workers, FramesRecipe)
        half, folder = EdgeHalf(self.model), out / "latents"
        self.us = features_of(folder, half, data, cards[0].preprocess, flips=False)
        self.model.requires_grad_(False)
        self.model.to(self.device)
        self.core.context.networks["inter"].requires_grad_(True)
        self.log_scales = torch.tensor(self.codec_recipe.scales, device=self.device).log()[:, None]
        self._measure()
        schedule = Schedule(recipe.steps, recipe.learning_rate)
        self.plan = Plan(schedule, recipe.seed, better=Better("loss", "min"), shown=("bytes",))

    def _opened(self, preprocess: Preprocess) -> RoomSet | ClipSet | MotionSet:
        """Raises DataError."""
        recipe, path = self.recipe, Path(self.recipe.data)
        if (path / INDEX_NAME).is_file():
            return RoomSet(path)
        if path.exists():
            return ClipSet(path, preprocess, frames=recipe.frames, fps=recipe.fps, every=recipe.every)
        readers = [item.read for spec in parse(recipe.data) for item in list_set(spec).items]
        return MotionSet(
            readers, preprocess, sequences=recipe.sequences, frames=recipe.frames, seed=recipe.seed
        )

    @torch.no_grad()
    def _measure(self) -> None:
        context = self.core.context
        assert context is not None
        if not context.trained("inter"):  # most elements stay
            for network in context.of_kind("inter"):
                network.log_scale.bias.fill_(START_LOG_SCALE)
        rows = np.linspace(0, self.count - 1, min(self.count, 64)).astype(np.int64)
        torch.manual_seed(self.recipe.seed)
        position, _ = draw_levels(len(rows), self.log_scales, self.workers)
        before, z = self._pair(self._sequences(rows), position, self.recipe.holds[0], 1)
        maps = self.core.maps(self.core.extract(z).round(), z.shape[2], z.shape[3])
        context.measure(Latents(z, maps, before))

    def _sequences(self, rows: NDArray[np.int64]) -> Tensor:
        """u (B, F, N, h, w) of sequences."""
        indices = (rows[:, None] * self.frames + np.arange(self.frames)).ravel()
        u = self.us.batch(indices).to(self.device)
        return u.reshape(len(rows), self.frames, *u.shape[1:])

    def _pair(
        self, u: Tensor, position: Tensor | None, hold: float, lag: int, last: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """A frame's z and the z that follows it, (B, N, h, w) each, of sequences coded from their first frame on."""
        places = list(range(0, self.frames, lag))
        end = int(torch.randint(1, len(places), ())) if last is None else last
        z = self.core.z_of(u[:, 0], position).round()
        before = z
        for place in places[1 : end + 1]:
            s = self.core.z_of(u[:, place], position)
            before, z = z, torch.where((s - z).abs() <= 0.5 + hold, z, s.round())
        return before, z

    def batches(self, start: int) -> Iterator[FramesBatch]:
        recipe = self.recipe
        for rows in batch_indices(
            self.count, min(recipe.batch, self.count), recipe.seed, start, recipe.steps
        ):
            yield FramesBatch(self._sequences(self.workers.share(rows)))

    def loss(self, batch: FramesBatch, step: int) -> tuple[Tensor, Scalars]:
        recipe = self.recipe
        with torch.no_grad():
            position, _ = draw_levels(len(batch.u), self.log_scales, self.workers)
            hold = recipe.holds[int(torch.randint(len(recipe.holds), ()))]
            lag = recipe.lags[int(torch.randint(len(recipe.lags), ()))]
            before, z = self._pair(batch.u, position, hold, lag)
            v = self.core.extract(z if step % 2 else before).round()
            coded = (z != before).flatten(1).any(1).float()  # the others are frames of type S
        bits = self.core.bits_given(z, v, before)
        mean = (bits * coded).sum() / coded.sum().clamp(min=1)
        return mean / 1000, {"bytes": float(mean.detach()) / 8}

    @torch.no_grad()
    def validate(self) -> Scores:
        """Mean bytes of the frames of held-out sequences at each quality, those of type S being 0, and their mean."""
        rows = np.arange(self.count, self.count + min(self.recipe.holdout, VALIDATED))
        u, levels = self._sequences(rows), len(self.codec_recipe.qualities)
        scores, total = [], 0.0
        for level, quality in enumerate(self.codec_recipe.qualities):
            position = torch.full((len(u),), float(level), device=self.device) if levels > 1 else None
            sizes = []
            for last in range(1, self.frames):
                before, z = self._pair(u, position, self.recipe.holds[-1], 1, last)
                bits = self.core.bits_given(z, self.core.extract(before).round(), before)
                sizes.append(torch.where((z != before).flatten(1).any(1), bits / 8, 0.0))
            mean = float(torch.stack(sizes).mean())
            scores.append(Score("bytes", mean, quality=quality))
            total += mean
        return Scores([*scores, Score("loss", total / levels)])

    def result(self, scores: Scores) -> Scores:
        if self.workers.leads:
            source, out = Path(self.recipe.codec), self.run.folder / CODEC
            out.mkdir(exist_ok=True)
            for name in (RECIPE, CARDS, FIGURES, FILES):
                if (source / name).is_file() or name != FILES:  # older trainings have none
                    shutil.copyfile(source / name, out / name)
            self.run.save_best({"model": self.model.state_dict(), "step": self.recipe.steps, "figures": {}})
            for name in (BEST, CHECKPOINT):
                write_atomically(out / name, (self.run.folder / BEST).read_bytes())
        return scores
