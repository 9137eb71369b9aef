"""Trains a codec (`isthmus codec train`): the whole of it, or what a recipe says that it finishes with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from train.codec.codec_recipe import CodecRecipe
from train.codec.codec_training import CodecTraining
from train.codec.finish import EntropyTraining, SynthesisTraining
from train.data.dataset import Dataset
from train.loop.distributed import Precision, Workers, training_device
from train.loop.interrupts import Interrupts
from train.loop.scores import Scores
from train.loop.training import fit

TRAININGS = {"all": CodecTraining, "entropy": EntropyTraining, "synthesis": SynthesisTraining}


def train_codec(
    recipe: CodecRecipe,
    training: Sequence[Dataset],
    validation: Sequence[Dataset],
    out: Path,
    resume: bool,
    device: str = "cpu",
    features: Path | None = None,
    precision: Precision = "auto",
) -> Scores:
    """Trains a codec, and leaves in `out` what a bundle is built from. Returns its scores on the images held out.

    training, validation: the same images once for each part; the distortions LABELLED need labels.
    features: folder for the features of frozen networks, for several runs; by default in the run's own folder.

    Raises DataError, Interruption.
    """
    with Interrupts() as interrupts:
        # A distortion may leave out the tail of a network that is trained too.
        workers = Workers(training_device(device), precision, all_used=not recipe.train_all)
        chosen = TRAININGS[recipe.trains]
        return fit(chosen(recipe, training, validation, out, resume, workers, features), interrupts)
