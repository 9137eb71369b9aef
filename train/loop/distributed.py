"""The processes that train together, joined by Lightning Fabric; usually one. Knows no model and no loss.

    torchrun --nproc-per-node 2 -m isthmus network train ...

Each process takes its share of each step's batch, every size-th item from its rank on, and the gradients are averaged,
so several processes take the steps of one:

- a mean over anything but images divides by `mean_count`, because the shares may hold unequal numbers of it;
- random values are drawn for the whole batch, and each process keeps its `share` of them (`rand_like`);
- batch normalisation sees the whole batch (`Workers.setup`).
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal, Protocol, TypeVar

import torch
import torch.distributed
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.errors import DataError

Precision = Literal["auto", "32", "bf16-mixed"]
PATIENCE = timedelta(days=1)  # for processes that wait while the leader computes the features
MEETING = timedelta(minutes=1)  # torchrun's meeting point is there before the processes are


class Metric(Protocol):
    """An accumulator, such as those of `train.kinds`."""

    def merge(self, other: Any) -> None: ...


M = TypeVar("M", bound=Metric)
T = TypeVar("T")


def started_by_torchrun() -> bool:
    return torch.distributed.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1


def training_device(name: str) -> torch.device:
    """The device called `name`; "auto" is a GPU where there is one. Raises DataError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises both for a device that is absent
        reason = str(error).splitlines()[0]
        raise DataError(f"the device {name} cannot be used: {reason}", setting="device") from None
    return device


class Workers:
    """This process and the others of its training.

    rank: 0..size - 1; the process of rank 0 leads: it alone writes and prints.
    device: this process's.
    precision: "auto" is bf16-mixed on a GPU, otherwise 32.
    all_used: every trained parameter takes part in each loss. Where one does not, pass False, or torch raises
        RuntimeError.

    Raises DataError.
    """

    def __init__(self, device: torch.device, precision: Precision = "auto", all_used: bool = True) -> None:
        if device.type not in ("cpu", "cuda", "mps"):
            raise DataError(f"training runs on cpu, cuda or mps, not on {device.type}", setting="device")
        if precision == "auto":
            precision = "bf16-mixed" if device.type == "cuda" else "32"
        self.precision = precision
        torch.backends.cudnn.benchmark = True  # batches have one shape
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it greets each process
        self._fabric = _fabric_for(device, "32-true" if precision == "32" else precision, all_used)
        self._fabric.launch()
        _leave_at_exit()
        self.rank, self.size, self.device = (
            self._fabric.global_rank,
            self._fabric.world_size,
            self._fabric.device,
        )

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def check_batch(self, size: int) -> None:
        """Raises DataError for a batch that does not divide evenly."""
        if size % self.size:
            raise DataError(
                f"a batch of {size} does not divide among {self.size} processes; change either",
                setting="batch",
            )

    def share(self, items: NDArray[Any]) -> NDArray[Any]:
        """This process's part of values for a whole batch, (B, ...). Raises DataError."""
        self.check_batch(len(items))
        return items[self.rank :: self.size]

    def part(self, batches: Iterable[T]) -> Iterator[T]:
        """This process's batches of a validation, every size-th; it may get one less than another process."""
        return itertools.islice(batches, self.rank, None, self.size)

    def rand_like(self, x: Tensor) -> Tensor:
        """Uniform noise shaped like x, (B / size, ...): this process's share of one draw for (B, ...)."""
        return self._drawn(torch.rand, x)

    def randn_like(self, x: Tensor) -> Tensor:
        """Normal noise, shared like `rand_like`."""
        return self._drawn(torch.randn, x)

    def _drawn(self, draw: Callable[..., Tensor], x: Tensor) -> Tensor:
        whole = draw((len(x) * self.size, *x.shape[1:]), dtype=x.dtype, device=x.device)
        return whole[self.rank :: self.size]

    def variance(self, x: Tensor, over: tuple[int, ...] | None = None) -> Tensor:
        """Variance over all processes (equal shares); no gradient flows through it.

        over: dimensions, including that of the images; they remain with size 1. By default all, and none remains.
        """
        x, keep = x.detach(), over is not None
        over = over or tuple(range(x.dim()))
        if self.size == 1:
            return x.var(over, keepdim=keep)
        mean: Any = self._fabric.all_reduce(x.mean(over, keepdim=True), reduce_op="mean")
        squares: Any = self._fabric.all_reduce((x - mean).square().sum(over, keepdim=keep), reduce_op="sum")
        variance: Tensor = squares / (x.numel() // mean.numel() * self.size - 1)
        return variance

    def mean_count(self, count: Tensor) -> Tensor:
        """The divisor for a sum over `count` items that makes the processes' average the mean over all items.

        Never 0, so that a sum over no item stays 0.
        """
        total: Any = self._fabric.all_reduce(count.detach().clone(), reduce_op="sum")
        divisor: Tensor = total.clamp(min=1) / self.size
        return divisor

    def mean(self, scalars: Mapping[str, float]) -> dict[str, float]:
        """Means over the processes, which all have the same names."""
        if self.size == 1:
            return dict(scalars)
        values = torch.tensor(list(scalars.values()), dtype=torch.float32, device=self.device)
        means: Any = self._fabric.all_reduce(values, reduce_op="mean")
        return dict(zip(scalars, means.tolist(), strict=True))

    def any(self, here: bool) -> bool:
        """Whether `here` is true in any process."""
        if self.size == 1:
            return here
        total: Any = self._fabric.all_reduce(torch.tensor(float(here), device=self.device), reduce_op="sum")
        return bool(total)

    def merged(self, metric: M) -> M:
        """The counts of all processes together, in each of them."""
        if self.size > 1:
            counted: list[Any] = [None] * self.size
            torch.distributed.all_gather_object(counted, metric)
            metric = counted[0]
            for other in counted[1:]:
                metric.merge(other)
        return metric

    def setup(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[Any, Any]:
        """Wraps both, so that calling the module applies the precision and joins the gradients."""
        if self.size > 1:
            if self.device.type == "cuda":
                module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
            else:
                _share_batch_norms(module)
        wrapped: tuple[Any, Any] = self._fabric.setup(module, optimiser)
        return wrapped

    def backward(self, loss: Tensor) -> None:
        self._fabric.backward(loss)

    def wait(self) -> None:
        """Waits until all processes are here."""
        self._fabric.barrier()

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Lets the leader run the block first; the others follow, and find what it left on disk."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()


def _fabric_for(device: torch.device, precision: Any, all_used: bool) -> Fabric:
    """Raises DataError."""
    if not started_by_torchrun():
        devices: Any = 1 if device.type == "cpu" else [device.index or 0]
        return Fabric(
            accelerator=device.type, devices=devices, plugins=[LightningEnvironment()], precision=precision
        )
    _check_meeting_point()
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    if device.type == "cuda" and torch.cuda.device_count() < here:
        raise DataError(
            f"torchrun started {here} processes, one a GPU, but there are {torch.cuda.device_count()}"
        )
    return Fabric(
        accelerator=device.type,
        devices=here,
        num_nodes=int(os.environ["WORLD_SIZE"]) // here,
        strategy=DDPStrategy(find_unused_parameters=not all_used, timeout=PATIENCE),
        precision=precision,
    )


def _leave_at_exit() -> None:
    """Ends the process group before the interpreter goes: its threads may hold Python objects, and a thread that needs
    the interpreter's lock after that is unwound through C++ that cannot be ("terminate called without an active
    exception", SIGABRT). Fabric does this for NCCL only."""
    if torch.distributed.is_initialized():
        atexit.unregister(_leave)
        atexit.register(_leave)


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _check_meeting_point() -> None:
    """Raises DataError where no process could join: torch would try for as long as `PATIENCE`."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return  # the process of rank 0 opens it, perhaps later than this one looks
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        torch.distributed.TCPStore(host, port, is_master=False, timeout=MEETING)  # type: ignore[attr-defined]
    except RuntimeError:
        raise DataError(
            f"the processes cannot meet at {host}:{port}, which torchrun chose; give it another address "
            "(torchrun --local-addr)"
        ) from None


def _sum(x: Tensor) -> Tensor:
    """The sum over all processes, through which gradients flow."""
    total: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
    return total


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes, and of its gradient. torch's own is deprecated for a private one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Sum.forward(ctx, grad)


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the images of all processes; torch's own SyncBatchNorm runs on GPUs only."""

    @classmethod
    def from_plain(cls, plain: nn.BatchNorm2d) -> SharedBatchNorm:
        """Takes over the parameters and statistics of `plain` themselves, not copies."""
        shared = cls(plain.num_features, plain.eps, plain.momentum, plain.affine, plain.track_running_stats)
        for kind in ("_parameters", "_buffers"):
            getattr(shared, kind).update(getattr(plain, kind))
        return shared.train(plain.training)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.running_mean is None or self.running_var is None:
            return super().forward(x)
        processes = torch.distributed.get_world_size()
        count = processes * x.numel() // x.shape[1]
        mean = _sum(x.mean((0, 2, 3))) / processes
        centred = x - mean[:, None, None]
        variance = _sum(centred.square().mean((0, 2, 3))) / processes
        with torch.no_grad():
            assert self.num_batches_tracked is not None  # kept with the running statistics
            self.num_batches_tracked.add_(1)
            weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, weight)
            self.running_var.lerp_(variance * count / (count - 1), weight)
        out = centred * torch.rsqrt(variance + self.eps)[:, None, None]
        if self.affine:
            out = out * self.weight[:, None, None] + self.bias[:, None, None]
        return out


def _share_batch_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            setattr(module, name, SharedBatchNorm.from_plain(child))
        else:
            _share_batch_norms(child)
