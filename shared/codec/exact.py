"""The exact path: hyperprior v -> the table that codes each element of z. Integers only, the same on every machine.

Legend: B images, V elements of v, n groups (= channels of z), tau codebook entries, h x w latent grid, P = h * w.

    v (B, V)  -> HyperpriorGenerator: linear layers, ReLU between     -> A (B, n, tau)
    A x Codebook (tau, h, w)                                           -> maps (B, n, P)
    maps -> ProbabilityPredictor, two branches of 1 x 1 convolutions   -> mean in 1/16, scale as one of 64 steps
    -> table index = 16 * scale + fraction of the mean, offset = whole part of the mean

It runs in floats that hold integers. While every partial sum stays below 2**24 in float32 or 2**53 in float64, every
product and sum is exact, so any order of addition, thread count, library or GPU gives the same number. Each layer's
bound is proven from its weights when the path is loaded (`ExactPath.bounds`), and the narrower float is used where
it holds.

The last generator layer and the codebook are both linear, with no rounding between them, so for one grid they fold
into a single matrix. It is used where that is less work, and gives the same integers.

It works on numpy arrays and, with a torch `Backend`, on torch tensors of any device. It imports neither torch nor any
bundle code.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

MEAN_STEPS = 16  # the mean is quantised to 1/16
SCALE_STEPS = 64  # the scale to one of 64 values
FLOAT32_EXACT = 1 << 24
FLOAT64_EXACT = 1 << 53

_INT32_REACH = 1 << 31
_FOLD_BYTES_MAX = 64 << 20
_FOLDS_KEPT = 4

Tensors = Mapping[str, NDArray[Any]]


class InexactError(ValueError):
    """A layer's partial sums could exceed 2**53, so its result might differ between machines."""


class Backend(Protocol):
    """The few operations that the path needs. numpy's and torch's are below and in `cloud.engine.exact_torch`."""

    def array(self, values: NDArray[Any], wide: bool) -> Any:
        """Converts to the backend, as float64 if `wide`, else float32."""

    def cast(self, x: Any, wide: bool) -> Any: ...

    def floor(self, x: Any) -> Any: ...

    def clip(self, x: Any, low: float, high: float) -> Any: ...

    def concatenate(self, rows: Sequence[Any]) -> Any: ...

    def numpy(self, x: Any) -> NDArray[Any]: ...


class NumpyBackend:
    def array(self, values: NDArray[Any], wide: bool) -> Any:
        return np.ascontiguousarray(values, np.float64 if wide else np.float32)

    def cast(self, x: Any, wide: bool) -> Any:
        return x.astype(np.float64 if wide else np.float32, copy=False)

    def floor(self, x: Any) -> Any:
        return np.floor(x)

    def clip(self, x: Any, low: float, high: float) -> Any:
        return np.clip(x, low, high)

    def concatenate(self, rows: Sequence[Any]) -> Any:
        return np.concatenate(rows)

    def numpy(self, x: Any) -> NDArray[Any]:
        return np.asarray(x)


@dataclass(frozen=True)
class Rounding:
    """x -> clamp(floor(x / 2**shift + 1/2), low, high), exact in floats for shift >= 1."""

    shift: int
    low: int
    high: int

    def __post_init__(self) -> None:
        if self.shift < 1 or self.low > self.high or self.reach >= FLOAT32_EXACT:
            raise ValueError(f"a rounding needs shift >= 1 and -2**24 < low <= high < 2**24, not {self}")

    @classmethod
    def from_tensor(cls, spec: NDArray[Any]) -> Rounding:
        shift, low, high = (int(s) for s in spec)
        return cls(shift, low, high)

    def tensor(self) -> NDArray[np.int64]:
        return np.array([self.shift, self.low, self.high], np.int64)

    def apply(self, x: Any, backend: Backend) -> Any:
        half = float(1 << (self.shift - 1))
        return backend.clip(backend.floor((x + half) * 2.0**-self.shift), self.low, self.high)

    @property
    def reach(self) -> int:
        return max(abs(self.low), abs(self.high))


class Layer:
    """y = rounding(W x + b) on columns: x (..., K, M) -> (..., O, M). reaches (K,): of the inputs."""

    def __init__(self, name: str, tensors: Tensors, reaches: NDArray[np.int64], backend: Backend) -> None:
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        _check_shapes(name, weight, bias)
        if weight.shape[1] != len(reaches):
            raise ValueError(f"{name}: weight {weight.shape} does not take {len(reaches)} inputs")
        self.outputs = len(weight)
        self.rounding = Rounding.from_tensor(tensors[f"{name}.rounding"])
        half = 1 << (self.rounding.shift - 1)
        self.bound = int(_row_reach(name, weight, bias, reaches).max()) + half
        self.wide = _wide(name, self.bound)
        self.backend = backend
        self.weight = backend.array(weight, self.wide)
        self.bias = backend.array(bias[:, None], self.wide)

    @property
    def proven(self) -> tuple[int, str]:
        """The largest partial sum, and the float type that the layer therefore runs in."""
        return self.bound, _float_name(self.wide)

    def __call__(self, x: Any) -> Any:
        x = self.weight @ self.backend.cast(x, self.wide) + self.bias
        return self.rounding.apply(x, self.backend)


class ExactPath:
    """Computes the table indices and offsets of z from v.

    tensors: the integers of `entropy.safetensors`: generator.{i}.weight/bias/rounding, last.weight/bias,
    codebook.entries (tau, h0, w0), codebook.rounding, mean.{i}.*, scale.{i}.*, v.reach.
    Raises InexactError if a bound cannot be proven, ValueError or KeyError if the tensors do not fit together.
    """

    def __init__(self, tensors: Tensors, backend: Backend | None = None) -> None:
        self._xp = backend or NumpyBackend()
        self.v_reach = int(tensors["v.reach"][0])
        if not 0 <= self.v_reach < FLOAT32_EXACT:
            raise InexactError(f"v.reach is {self.v_reach}; it is 0 or more and float32 must hold it")
        self._last_weight, self._last_bias = tensors["last.weight"], tensors["last.bias"]
        _check_shapes("last", self._last_weight, self._last_bias)
        self.v_size = tensors.get("generator.0.weight", self._last_weight).shape[1]
        self._generator, width, reach = self._layers("generator", tensors, self.v_size, self.v_reach)
        if self._last_weight.shape[1] != width:
            raise ValueError(f"last: weight {self._last_weight.shape} does not take {width} inputs")
        _check_reach("codebook", tensors["codebook.entries"])
        self._entries = tensors["codebook.entries"].astype(np.int64)
        self._maps_rounding = Rounding.from_tensor(tensors["codebook.rounding"])
        self.tau = len(self._entries)
        self.groups, rest = divmod(len(self._last_weight), self.tau)
        if rest or self.groups == 0 or self._entries.ndim != 3:
            raise ValueError("the last generator layer's rows are not groups x tau")
        reaches = np.full(width, reach, np.int64)
        rows = _row_reach("last", self._last_weight, self._last_bias, reaches).reshape(self.groups, self.tau)
        entry_reach = np.abs(self._entries).max(axis=(1, 2)).astype(object)
        half = 1 << (self._maps_rounding.shift - 1)
        # Holds for the folded matrix too, and on every grid: a resized entry never exceeds its largest value.
        self._maps_bound = max(int((rows * entry_reach).sum(axis=1).max()) + half, int(rows.max()))
        self._wide = _wide("codebook", self._maps_bound)
        reach = self.maps_reach = self._maps_rounding.reach
        self._mean, means, _ = self._layers("mean", tensors, self.groups, reach)
        self._scale, scales, _ = self._layers("scale", tensors, self.groups, reach)
        if not self._mean or not self._scale or means != self.groups or scales != self.groups:
            raise ValueError(f"both branches of the predictor must end in {self.groups} channels")
        last = self._scale[-1].rounding
        if (last.low, last.high) != (0, SCALE_STEPS - 1):
            raise ValueError(f"the scale branch must end in 0..{SCALE_STEPS - 1}")
        # Matrices per grid, ready for use; few are kept, because a camera seldom changes its image size.
        self._grids: OrderedDict[tuple[int, int, bool], Any] = OrderedDict()
        self._last: tuple[Any, Any] | None = None
        self._lock = threading.Lock()

    def _layers(self, name: str, tensors: Tensors, inputs: int, reach: int) -> tuple[list[Layer], int, int]:
        """Reads {name}.0, {name}.1 and so on; also returns the last one's number of outputs and how far these reach."""
        layers: list[Layer] = []
        while f"{name}.{len(layers)}.weight" in tensors:
            layer = Layer(f"{name}.{len(layers)}", tensors, np.full(inputs, reach, np.int64), self._xp)
            layers.append(layer)
            inputs, reach = layer.outputs, layer.rounding.reach
        return layers, inputs, reach

    def bounds(self) -> dict[str, tuple[int, str]]:
        """Returns each layer's proven largest partial sum, and the float type that it therefore runs in."""
        layers = {f"generator.{i}": layer for i, layer in enumerate(self._generator)}
        layers |= {f"mean.{i}": layer for i, layer in enumerate(self._mean)}
        layers |= {f"scale.{i}": layer for i, layer in enumerate(self._scale)}
        out = {name: layer.proven for name, layer in layers.items()}
        out["codebook"] = (self._maps_bound, _float_name(self._wide))
        return out

    def __call__(
        self, v: NDArray[np.int32], h: int, w: int, fold: bool | None = None
    ) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
        """Maps v (B, V) int32 to table indices and offsets, (B, n, h, w) each; z is coded minus its offset.

        fold: forces or forbids the folded matrix; None takes whichever is less work.
        """
        xp, maps = self._xp, self._maps(v, h, w, fold)
        mean, scale = maps, maps
        for layer in self._mean:
            mean = layer(mean)
        for layer in self._scale:
            scale = layer(scale)
        shape = (len(v), self.groups, h, w)
        mean_16 = xp.numpy(mean).astype(np.int32).reshape(shape)
        index = xp.numpy(scale).astype(np.intp).reshape(shape) * MEAN_STEPS + mean_16 % MEAN_STEPS
        return index, mean_16 // MEAN_STEPS

    def maps(self, v: NDArray[np.int32], h: int, w: int) -> NDArray[Any]:
        """The codebook's combination for v (B, V) int32: whole numbers in floats, (B, n, h * w)."""
        return self._xp.numpy(self._maps(v, h, w, None))

    def _maps(self, v: NDArray[np.int32], h: int, w: int, fold: bool | None) -> Any:
        xp = self._xp
        clamped = np.clip(v, -self.v_reach, self.v_reach)
        x: Any = xp.array(clamped.T, False)  # (V, B): each weight is read once for all images
        for layer in self._generator:
            x = layer(x)
        x = xp.cast(x, self._wide)
        if self._fold_pays(h, w) if fold is None else fold:
            weight, bias = self._grid(h, w, True)
            maps = (weight @ x + bias).T.reshape(len(v), self.groups, h * w)
        else:
            weight, bias, entries = self._grid(h, w, False)
            maps = (weight @ x + bias).T.reshape(len(v), self.groups, self.tau) @ entries
        return self._maps_rounding.apply(maps, xp)

    def _fold_pays(self, h: int, w: int) -> bool:
        inputs, cells = self._last_weight.shape[1], h * w
        small = self.groups * cells * inputs * 8 <= _FOLD_BYTES_MAX
        return bool(small and inputs * cells < self.tau * (inputs + cells))

    def _grid(self, h: int, w: int, fold: bool) -> Any:
        key = (h, w, fold)
        with self._lock:
            if key in self._grids:
                self._grids.move_to_end(key)
                return self._grids[key]
            entries = resize_entries(self._entries, h, w).reshape(self.tau, h * w)
            made = self._folded(entries) if fold else (*self._unfolded(), self._xp.array(entries, self._wide))
            self._grids[key] = made
            if len(self._grids) > _FOLDS_KEPT:
                self._grids.popitem(last=False)
            return made

    def _folded(self, entries: NDArray[np.int64]) -> tuple[Any, Any]:
        weight = self._last_weight.astype(np.float64).reshape(self.groups, self.tau, -1)
        bias = self._last_bias.astype(np.float64).reshape(self.groups, self.tau)
        # In float64, which the bound above makes exact; int64 matrix products are many times slower.
        flat = entries.T.astype(np.float64) @ weight  # (n, P, K)
        shift = bias @ entries.astype(np.float64)  # (n, P)
        array = self._xp.array
        return array(flat.reshape(-1, flat.shape[-1]), self._wide), array(shift.reshape(-1, 1), self._wide)

    def _unfolded(self) -> tuple[Any, Any]:
        """Returns the unfolded last layer: one copy for all grids, because it is by far the largest matrix."""
        if self._last is None:
            array = self._xp.array
            self._last = array(self._last_weight, self._wide), array(self._last_bias[:, None], self._wide)
        return self._last


def resize_entries(entries: NDArray[np.int64], h: int, w: int) -> NDArray[np.int64]:
    """Resizes the codebook, bilinearly between cell centres, in integers: (tau, h0, w0) -> (tau, h, w)."""
    if entries.shape[1:] == (h, w):
        return entries
    for axis, size in ((1, h), (2, w)):
        old = entries.shape[axis]
        # The centre of new cell i lies at ((2 i + 1) * old - size) / (2 * size) in old cells.
        centre = np.clip((2 * np.arange(size) + 1) * old - size, 0, 2 * size * (old - 1))
        left, part = np.divmod(centre, 2 * size)
        right = np.minimum(left + 1, old - 1)
        part = part.reshape((-1, 1) if axis == 1 else (-1,))
        mixed = np.take(entries, left, axis) * (2 * size - part) + np.take(entries, right, axis) * part
        entries = (mixed + size) // (2 * size)
    return entries


def _check_shapes(name: str, weight: NDArray[Any], bias: NDArray[Any]) -> None:
    if weight.ndim != 2 or weight.size == 0 or bias.shape != weight.shape[:1]:
        raise ValueError(f"{name}: weight {weight.shape} and bias {bias.shape} do not fit together")


def _check_reach(name: str, values: NDArray[Any]) -> None:
    """Checks that values fit 32 bits, so that the sums of the proof itself cannot overflow. Raises InexactError."""
    if values.size == 0 or not -_INT32_REACH <= int(values.min()) <= int(values.max()) <= _INT32_REACH:
        raise InexactError(f"{name}: a weight exceeds {_INT32_REACH}; use fewer bits")


def _row_reach(
    name: str, weight: NDArray[Any], bias: NDArray[Any], reaches: NDArray[np.int64]
) -> NDArray[Any]:
    """Returns each row's largest |partial sum| for inputs within +-reaches, as Python integers that cannot overflow."""
    _check_reach(name, weight)
    total = np.abs(bias.astype(object))
    for reach in np.unique(reaches).tolist():
        of_reach = weight if (reaches == reach).all() else weight[:, reaches == reach]
        # Both signs separately: |x| of the lowest int8 is no int8, and a wider copy of 33 million weights is large.
        rows = of_reach.clip(min=0).sum(axis=1, dtype=np.int64)
        rows = rows - of_reach.clip(max=0).sum(axis=1, dtype=np.int64)
        total = total + rows.astype(object) * int(reach)
    return np.asarray(total)


def _wide(name: str, bound: int) -> bool:
    if bound >= FLOAT64_EXACT:
        raise InexactError(
            f"{name}: partial sums can reach {bound}, float64 is exact below {FLOAT64_EXACT}; use fewer bits"
        )
    return bound >= FLOAT32_EXACT


def _float_name(wide: bool) -> str:
    return "float64" if wide else "float32"
