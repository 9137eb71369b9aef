"""Context: the tables of z from what is decoded already. Integers only, the same on every machine.

The elements of z are coded in passes: slices of channels in turn, and in each slice first the even cells of a
checkerboard, then the odd ones. A pass predicts its elements from the codebook's maps and from every element that an
earlier pass has settled, by a network of its own:

    maps at the cell; decoded elements around it                      -> x (K, M), one column per cell and image
    x -> hidden layers, ReLU between                                   -> y
    [y; x] -> one linear layer each                                    -> mean in 1/16, scale as one of 64 steps

There are two kinds of networks. `intra` sees decoded elements of z. `inter` knows the whole latent of another frame,
the reference, and predicts z minus the reference: it sees the reference at the cell, the differences decoded so far,
and how much has changed around the cell and in the whole image.

Checkerboards are from He et al., 2021, "Checkerboard context model for efficient learned image compression", slices
of channels from Minnen and Singh, 2020, "Channel-wise autoregressive entropy models", and coding a frame given another
without motion from Liu et al., 2020, "Conditional entropy coding for efficient video compression".

Legend: B images, n channels of z (and of the maps), h x w latent grid, P cells of a pass, K inputs, M = B * P.

The inputs are built by `Passes`, on numpy arrays here and on torch tensors in training, so that both agree on their
order. Layers run as in `shared.codec.exact`: in floats that hold integers, with proven bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.codec.exact import MEAN_STEPS, SCALE_STEPS, Backend, Layer, NumpyBackend, Tensors

Kind = Literal["intra", "inter"]
KINDS: tuple[Kind, ...] = ("intra", "inter")
SLICES = "context.slices"  # int64 (n,): the slice of each channel, 0..S-1

Z_REACH = 255  # elements of z count up to this as context
CHANGE_REACH = 15  # differences from the reference
ACTIVITY_REACH = 2  # one element's share of the activity of its cell
CELL_ACTIVITY_REACH = 255
IMAGE_ACTIVITY_REACH = 1023

Ints = NDArray[np.int32]
Indices = NDArray[np.intp]
Array = Any  # numpy's or torch's


# Joins arrays along their first axis, which numpy and torch name differently.
Join = Callable[[Sequence[Array]], Array]


@dataclass(frozen=True)
class Cells:
    """The cells of one half of the checkerboard on a grid.

    at: (P,) indices in the grid. around: (9, P) indices in the padded grid, row by row; 4 is the cell itself.
    """

    at: NDArray[np.intp]
    around: NDArray[np.intp]

    @property
    def beside(self) -> NDArray[np.intp]:
        """(4, P): above, left, right, below, which belong to the other half."""
        return self.around[[1, 3, 5, 7]]


@lru_cache(maxsize=64)
def cells_of(h: int, w: int, half: int) -> Cells:
    """The even (0) or odd (1) cells of a grid."""
    rows, columns = np.divmod(np.arange(h * w), w)
    chosen = (rows + columns) % 2 == half
    rows, columns = rows[chosen], columns[chosen]
    offsets = [(dy, dx) for dy in range(3) for dx in range(3)]
    around = np.stack([(rows + dy) * (w + 2) + columns + dx for dy, dx in offsets])
    return Cells(np.flatnonzero(chosen), around)


@dataclass(frozen=True)
class Pass:
    """number: 0, 1, .. in coding order. half: of the checkerboard. own: the slice's channels. lower: those before."""

    number: int
    half: int
    own: NDArray[np.intp]
    lower: NDArray[np.intp]


class Passes:
    """The passes over z for a division of its channels into slices, and the inputs of their networks.

    slices: (n,) the slice of each channel, 0..S-1, none empty. Raises ValueError.
    """

    def __init__(self, slices: NDArray[Any]) -> None:
        slices = np.asarray(slices)
        count = int(slices.max(initial=-1)) + 1
        if slices.ndim != 1 or not count or set(slices.tolist()) != set(range(count)):
            raise ValueError("the slices of the context must be numbered from 0 without a gap")
        self.slices = slices
        self.channels = len(slices)
        self.all = [
            Pass(2 * s + half, half, np.flatnonzero(slices == s), np.flatnonzero(slices < s))
            for s in range(count)
            for half in (0, 1)
        ]

    def reaches(self, kind: Kind, which: Pass, maps_reach: int) -> NDArray[np.int64]:
        """How far each input of a pass's network reaches, (K,)."""
        own, lower = len(which.own), len(which.lower)
        around = 9 * lower + 4 * own * which.half
        parts = [(self.channels, maps_reach)]
        if kind == "intra":
            parts += [(around, Z_REACH)]
        else:
            parts += [
                (own, Z_REACH),
                (around, CHANGE_REACH),
                (9, CELL_ACTIVITY_REACH),
                (1, IMAGE_ACTIVITY_REACH),
            ]
        return np.repeat(np.array([reach for _, reach in parts], np.int64), [count for count, _ in parts])

    def intra_inputs(
        self, which: Pass, cells: Cells, maps: Array, padded: Array, join: Join = np.concatenate
    ) -> Array:
        """x (K, M). maps: (B, n, h * w). padded: z clipped to Z_REACH, (B, n, (h + 2) * (w + 2)), its border 0.

        Elements that no earlier pass has settled are not read.
        """
        return join([_columns(maps[:, :, cells.at][:, :, None]), *self._around(which, cells, padded)])

    def inter_inputs(
        self,
        which: Pass,
        cells: Cells,
        maps: Array,
        reference: Array,
        padded: Array,
        activity: Array,
        join: Join = np.concatenate,
    ) -> Array:
        """x (K, M). maps: (B, n, h * w). reference: (B, n, h * w), clipped to Z_REACH.

        padded: z minus the reference, clipped to CHANGE_REACH, as in `intra_inputs`.
        activity: (B, (h + 2) * (w + 2)) of what the earlier passes have settled; see `activity`.
        """
        around = activity[:, None][:, :, cells.around].clip(0, CELL_ACTIVITY_REACH)
        whole = activity.sum(1).clip(0, IMAGE_ACTIVITY_REACH)
        whole = whole[:, None, None, None] + 0 * around[:, :, :1]
        parts = [_columns(maps[:, :, cells.at][:, :, None])]
        parts += [_columns(reference[:, which.own][:, :, cells.at][:, :, None])]
        parts += [*self._around(which, cells, padded), _columns(around), _columns(whole)]
        return join(parts)

    def _around(self, which: Pass, cells: Cells, padded: Array) -> list[Array]:
        """Lower slices at the nine cells around, and where the other half is known the own slice at its four."""
        parts = []
        if len(which.lower):
            parts.append(_columns(padded[:, which.lower][:, :, cells.around]))
        if which.half:
            parts.append(_columns(padded[:, which.own][:, :, cells.beside]))
        return parts

    def activity(self, which: Pass, h: int, w: int, padded: Array) -> Array:
        """How much the earlier passes have changed, per cell: (B, (h + 2) * (w + 2)), from differences as above."""
        size = abs(padded).clip(0, ACTIVITY_REACH)
        seen = size[:, which.lower].sum(1)
        if which.half:
            even = np.zeros((h + 2) * (w + 2), np.float32)
            even[cells_of(h, w, 0).around[4]] = 1
            own = size[:, which.own].sum(1)
            seen = seen + own * _like(even, own)
        return seen


def _like(values: NDArray[Any], other: Array) -> Array:
    return values.astype(other.dtype) if isinstance(other, np.ndarray) else other.new_tensor(values)


def _columns(x: Array) -> Array:
    """(B, C, O, P) -> (C * O, B * P)."""
    x = x.swapaxes(0, 1).swapaxes(1, 2)
    return x.reshape(x.shape[0] * x.shape[1], -1)


def rows_to_images(y: Array, images: int) -> Array:
    """(C, B * P) -> (B, C, P), the inverse of what `Passes` does to columns."""
    return y.reshape(y.shape[0], images, -1).swapaxes(0, 1)


class _Network:
    """One pass's network on columns x (K, M) -> mean in 1/16 and scale step, (C, M) each. Raises as `Layer` does."""

    def __init__(
        self, name: str, tensors: Tensors, reaches: NDArray[np.int64], outputs: int, backend: Backend
    ) -> None:
        self._xp = backend
        self.hidden: list[Layer] = []
        own = reaches
        while f"{name}.hidden.{len(self.hidden)}.weight" in tensors:
            layer = Layer(f"{name}.hidden.{len(self.hidden)}", tensors, own, backend)
            self.hidden.append(layer)
            own = np.full(layer.outputs, layer.rounding.reach, np.int64)
        both = np.concatenate([own, reaches]) if self.hidden else reaches
        self.mean = Layer(f"{name}.mean", tensors, both, backend)
        self.scale = Layer(f"{name}.scale", tensors, both, backend)
        if self.mean.outputs != outputs or self.scale.outputs != outputs:
            raise ValueError(f"{name}: {outputs} channels need as many means and scales")
        if (self.scale.rounding.low, self.scale.rounding.high) != (0, SCALE_STEPS - 1):
            raise ValueError(f"{name}: scales must end in 0..{SCALE_STEPS - 1}")

    @property
    def layers(self) -> dict[str, Layer]:
        hidden = {f"hidden.{i}": layer for i, layer in enumerate(self.hidden)}
        return hidden | {"mean": self.mean, "scale": self.scale}

    def __call__(self, x: NDArray[Any]) -> tuple[Ints, Ints]:
        xp = self._xp
        own = y = xp.array(x, True)
        for layer in self.hidden:
            y = layer(y)
        both = xp.concatenate([xp.cast(y, True), own]) if self.hidden else own
        return xp.numpy(self.mean(both)).astype(np.int32), xp.numpy(self.scale(both)).astype(np.int32)


class Step(NamedTuple):
    """What one pass codes, for B images. table, offset: (B, C, P); z is coded minus its offset, with that table."""

    which: Pass
    cells: Cells
    table: Indices
    offset: Ints


class ContextModel:
    """The networks of all passes, loaded.

    maps_reach: how far the codebook's maps reach. Raises InexactError if a bound cannot be proven, ValueError or
    KeyError if the tensors do not fit together.
    """

    def __init__(self, tensors: Tensors, maps_reach: int, backend: Backend | None = None) -> None:
        xp = backend or NumpyBackend()
        self.passes = Passes(tensors[SLICES])
        self._networks = {
            kind: [
                _Network(
                    f"{kind}.{one.number}",
                    tensors,
                    self.passes.reaches(kind, one, maps_reach),
                    len(one.own),
                    xp,
                )
                for one in self.passes.all
            ]
            for kind in KINDS
            if f"{kind}.0.mean.weight" in tensors
        }
        if "intra" not in self._networks:
            raise ValueError("a context needs networks of the kind intra")

    @property
    def inter(self) -> bool:
        """Whether a frame can be coded given another one."""
        return "inter" in self._networks

    @property
    def layers(self) -> dict[str, Layer]:
        """Every layer by its name."""
        return {
            f"{kind}.{number}.{name}": layer
            for kind, networks in self._networks.items()
            for number, network in enumerate(networks)
            for name, layer in network.layers.items()
        }

    def run(self, maps: NDArray[Any], z: Ints, reference: Ints | None, visit: Callable[[Step], None]) -> None:
        """Goes through the passes; `visit` codes or decodes the elements of one.

        maps: (B, n, h * w). z: (B, n, h, w) int32, whole when encoding; when decoding `visit` fills it in.
        reference: (B, n, h, w) int32, or None for a frame by itself.
        """
        images, n, h, w = z.shape
        flat = z.reshape(images, n, h * w)
        padded = np.zeros((images, n, (h + 2) * (w + 2)))
        kind: Kind = "intra" if reference is None else "inter"
        base = None if reference is None else reference.reshape(images, n, h * w)
        clipped = None if base is None else np.clip(base, -Z_REACH, Z_REACH)
        for which, network in zip(self.passes.all, self._networks[kind], strict=True):
            cells = cells_of(h, w, which.half)
            if not len(cells.at):
                continue
            if clipped is None:
                x = self.passes.intra_inputs(which, cells, maps, padded)
            else:
                activity = self.passes.activity(which, h, w, padded)
                x = self.passes.inter_inputs(which, cells, maps, clipped, padded, activity)
            mean, scale = network(x)
            mean, scale = rows_to_images(mean, images), rows_to_images(scale, images)
            offset = mean // MEAN_STEPS
            every = np.arange(images)
            own = np.ix_(every, which.own, cells.at)
            if base is not None:
                offset = wrapped(offset.astype(np.int64) + base[own])
            visit(Step(which, cells, scale.astype(np.intp) * MEAN_STEPS + mean % MEAN_STEPS, offset))
            settled = flat[own]
            if base is None:
                known = np.clip(settled, -Z_REACH, Z_REACH)
            else:
                known = np.clip(wrapped(settled.astype(np.int64) - base[own]), -CHANGE_REACH, CHANGE_REACH)
            padded[np.ix_(every, which.own, cells.around[4])] = known


def wrapped(numbers: NDArray[np.int64]) -> Ints:
    """Wraps modulo 2**32 into int32, so that adding an offset and taking it away is the identity for every int32."""
    return numbers.astype(np.uint32).view(np.int32)
