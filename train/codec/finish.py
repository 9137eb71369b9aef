"""What a trained codec finishes with, in runs of their own: its entropy model, and what comes after the latent.

    EntropyTraining     H_z + H_v (+ d_base) of latents that stay as they are, bit by bit
    SynthesisTraining   sum_k lambda_k d_k of truly rounded latents: reconstruction, separation and tails

Both read u, what the edge makes of an image, from a cache. The first changes streams and no answer, but the base's;
the second answers and no stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from train.codec.codec_recipe import total_of, weighted
from train.codec.codec_training import CodecBatch, CodecTraining, draw_levels
from train.codec.feature_codec import entropy_modules
from train.codec.teacher_cache import latents_of
from train.data.feature_cache import CachedArrays
from train.loop.journal import Scalars
from train.loop.schedule import batch_indices
from train.loop.scores import Scores
from train.loop.training import is_logged

SHOWN = 64  # images of a validation that only shows


class _Finishing(CodecTraining):
    """A codec whose u is known. A batch's inputs begin with u (B, N, h, w)."""

    us: CachedArrays

    def _fill_latents(self, folder: Path) -> None:
        with self.workers.leader_first():
            self.us = latents_of(
                folder / "latents", self.model, self.cached, self.training[0], self.recipe.flips
            )
        self.us.keep_on(self.device)

    def _learning(self) -> list[nn.Module]:
        """The parts that learn."""
        raise NotImplementedError

    def _freeze(self) -> None:
        self.model.requires_grad_(False)
        for module in self._learning():
            module.requires_grad_(True)
        super()._freeze()

    def batches(self, start: int) -> Iterator[CodecBatch]:
        recipe = self.recipe
        for whole in batch_indices(self.items, recipe.batch, recipe.seed, start, recipe.steps):
            indices = self.workers.share(whole)
            inputs = [self.us.batch(indices), *self._inputs(indices)]
            yield CodecBatch([tensor.to(self.device) for tensor in inputs], indices)

    def _latents(self, batch: CodecBatch) -> tuple[Tensor, Tensor | None, Tensor]:
        """z (B, N, h, w), rounded, the images' positions, and their scales of lambda."""
        position, scale = draw_levels(len(batch.indices), self.log_scales, self.workers)
        with torch.no_grad():
            return self.model.codec.core.z_of(batch.inputs[0], position).round(), position, scale


class EntropyTraining(_Finishing):
    """The entropy model, and the base, where there is one."""

    def _learning(self) -> list[nn.Module]:
        base = [self.model.base] if self.model.base is not None else []
        return [*entropy_modules(self.model.codec.core), *base]

    def loss(self, batch: CodecBatch, step: int) -> tuple[Tensor, Scalars]:
        recipe, core = self.recipe, self.model.codec.core
        core.train()
        z, position, scale = self._latents(batch)
        rate = core.rate(z, z, position, noisy=True)
        bits = rate.bits_z + rate.bits_v
        base = self._base_distance(CodecBatch(batch.inputs[1:], batch.indices), rate.v)
        loss = (scale**-recipe.balance * (bits + recipe.base_lambda * base)).mean() / total_of(recipe)
        if not is_logged(step, self.plan):
            return loss, {}
        distance = float(base.detach().mean())
        sizes = {"bytes": float(bits.detach().mean()) / 8, "bytes_v": float(rate.bits_v.detach().mean()) / 8}
        return loss, {**sizes, "distortion": distance}


class SynthesisTraining(_Finishing):
    """Everything after the latent but the inverse gains, which tasks read that have been added to a bundle.

    Validations show the tasks' metrics on few images, and do not choose the weights: those of the last step are kept.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.plan = replace(self.plan, better=None)

    def validate(self) -> Scores:
        return self._evaluate(SHOWN)

    def _learning(self) -> list[nn.Module]:
        return [self.model.codec.core.reconstruction, self.model.codec.separation, *self.model.heads]

    def loss(self, batch: CodecBatch, step: int) -> tuple[Tensor, Scalars]:
        model, recipe = self.model, self.recipe
        model.eval()  # batch normalisations keep what they have measured
        z, position, scale = self._latents(batch)
        given = batch.inputs[1:]
        y_hat = model.codec.core.reconstruct(z, position, model.codec.grid)
        decoded = [model.codec.separation(y_hat, k) for k in range(len(given))]
        distances = self._distances(batch.indices, decoded, given)
        distance = weighted(recipe, distances, scale)
        loss = (scale ** (1 - recipe.balance) * distance).mean()
        scalars = {f"d/{n}": float(d.detach().mean()) for n, d in zip(model.names, distances, strict=True)}
        return loss, scalars | {"distortion": float(distance.detach().mean()), "bytes": 0.0}
