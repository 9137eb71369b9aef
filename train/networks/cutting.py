"""Cuts any network at any layer. torch.fx traces it, torchvision names the nodes. Knows no codec and no task.

A layer is a node of the traced graph whose value is a tensor: a module or an operation, named by the module's path.
Layer 0 is the input. A cut after a layer puts the layer and what it needs into the front, and the rest into the tail.
Only the layer's own tensor may cross the cut. Where others do as well (inside a branch, next to a shortcut) the cut is
refused, and the error names them.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.utils.flop_counter import FlopCounterMode

from shared.errors import DataError
from train.networks.torchvision_shim import import_torchvision

INPUT, OUTPUT = "input", "output"
OUT = "out"
_OPERATORS = {
    getattr(operator, f"i{name}"): getattr(operator, name) for name in ("add", "sub", "mul", "truediv")
}


@dataclass(frozen=True)
class Layer:
    """A place to cut.

    number: how many layers come before it.
    shape: of its value for one image, without the batch.
    parameters, multiply_adds: sums over all layers up to it; the latter for one image.
    crossing: the layers up to it whose values the rest of the network needs.
    """

    number: int
    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    crossing: tuple[str, ...]

    @property
    def refused(self) -> str:
        """Why the network cannot be cut here; empty where it can."""
        if not self.shape:
            return "its first dimension is not the batch"
        if self.crossing != (self.name,):
            return f"{len(self.crossing)} tensors cross there: {', '.join(self.crossing)}"
        if len(self.shape) not in (1, 3):
            return f"its output {list(self.shape)} is neither a map (C, H, W) nor a vector (C,)"
        return ""


class Traced:
    """A network's graph for images of one size, and its layers. The network's modules are shared, not copied.

    whole: kinds of modules that count as one layer each, whatever they hold.

    Raises DataError where torch.fx cannot trace the network, or the network cannot take images of that size.
    """

    def __init__(
        self, network: nn.Module, height: int, width: int, whole: tuple[type[nn.Module], ...] = ()
    ) -> None:
        network = network.eval()
        self._module, names = _trace(network, whole)
        values, more = (_values(self._module, batch, height, width) for batch in (2, 3))
        _out_of_place(self._module, values)
        self._count = _fixed_shapes(self._module, values, more)
        _check(self._module, network, height, width)
        order = list(self._module.graph.nodes)
        free = _without_image(order, self._count)
        self._nodes = [
            node
            for node in order
            if node not in free and node.op != "output" and isinstance(values[node].value, Tensor)
        ]
        names[self._nodes[0]] = INPUT
        self.layers: list[Layer] = []
        parameters = multiply_adds = 0
        for number, node in enumerate(self._nodes):
            parameters += _parameters(self._module, node)
            multiply_adds += values[node].multiply_adds
            at = order.index(node)
            later = set(order[at + 1 :])
            crossing = [
                names.get(other, other.name)
                for other in order[: at + 1]
                if other not in free and not later.isdisjoint(other.users)
            ]
            shape = tuple(values[node].value.shape[1:]) if _first_is_batch(values[node], more[node]) else ()
            kind = _kind(self._module, node)
            self.layers.append(
                Layer(number, names[node], kind, shape, parameters, multiply_adds, tuple(crossing))
            )

    def layer(self, where: int | str) -> Layer:
        """A layer by number or name; "input" and "output" are the first and the last. Raises DataError.

        The name of a module that holds layers stands for its last one, as "blocks.3" for "blocks.3.1.add". Digits are
        a number, even where a layer's name consists of digits.
        """
        if where == OUTPUT:
            return self.layers[-1]
        by_number = {str(layer.number): layer for layer in self.layers}
        by_name = {layer.name: layer for layer in self.layers}
        within = {str(where): layer for layer in self.layers if layer.name.startswith(f"{where}.")}
        if found := by_number.get(str(where)) or by_name.get(str(where)) or within.get(str(where)):
            return found
        raise DataError(
            f"the network has no layer {where!r}; it has 0..{len(self.layers) - 1}, from {INPUT} to "
            f"{self.layers[-1].name} (`isthmus network layers` lists them)",
            setting="split",
        )

    def cut(self, where: int | str) -> tuple[nn.Module, nn.Module]:
        """Front and tail. The front is empty at the input, the tail at the output. Raises DataError."""
        layer = self.layer(where)
        if layer.refused:
            raise DataError(
                f"the network cannot be cut at {layer.name}: {layer.refused}; "
                "`isthmus network layers` shows where it can",
                setting="split",
            )
        node, number = self._nodes[layer.number], layer.number
        front = nn.Sequential() if number == 0 else self._part(node, front=True)
        tail = nn.Sequential() if number == len(self._nodes) - 1 else self._part(node, front=False)
        return front, tail

    def _part(self, node: fx.Node, front: bool) -> nn.Module:
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        result = graph.graph_copy(self._module.graph, copies)
        own, image = copies[node], copies[self._nodes[0]]
        if front:
            graph.output(own)
        else:
            with graph.inserting_after(image):
                y = graph.placeholder("y")
            own.replace_all_uses_with(y)
            with graph.inserting_after(y):
                copies[self._count].replace_all_uses_with(graph.call_method("size", (y, 0)))
            graph.output(result)
        part = fx.GraphModule(self._module, graph)
        graph = part.graph
        graph.eliminate_dead_code()
        if not front:
            graph.erase_node(next(iter(graph.nodes)))
        part.delete_all_unused_submodules()
        part.recompile()
        return part


class _Value(NamedTuple):
    value: Any
    multiply_adds: int


Values = dict[fx.Node, _Value]


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps each node's value, and its multiply-adds per image."""

    def __init__(self, module: fx.GraphModule, batch: int) -> None:
        super().__init__(module)
        self._batch = batch
        self.values: Values = {}

    def run_node(self, n: fx.Node) -> Any:
        with FlopCounterMode(display=False) as counter:
            value = super().run_node(n)
        self.values[n] = _Value(value, counter.get_total_flops() // (2 * self._batch))
        return value


def _trace(
    network: nn.Module, whole: tuple[type[nn.Module], ...]
) -> tuple[fx.GraphModule, dict[fx.Node, str]]:
    """The graph and the names of its nodes. Raises DataError."""
    import_torchvision()
    from torchvision.models.feature_extraction import NodePathTracer  # type: ignore[import-untyped]

    tracer = NodePathTracer(leaf_modules=whole)
    try:
        graph = tracer.trace(network)
    except Exception as error:  # whatever the network's own code raises at a proxy
        raise DataError(
            f"torch.fx cannot trace {type(network).__name__}, so it cannot be cut: {_line(error)}"
        ) from None
    for node in graph.nodes:
        if node.op == "output":
            node.args = (_one_tensor(node.args[0]),)
    return fx.GraphModule(tracer.root, graph), dict(tracer.node_to_qualname)


def _one_tensor(output: Any) -> Any:
    """The network's output: of several values the one named "out" (torchvision's segmentation networks), or the only
    one. Raises DataError."""
    if isinstance(output, dict) and (OUT in output or len(output) == 1):
        return output.get(OUT, next(iter(output.values())))
    if isinstance(output, Sequence) and len(output) == 1:
        return output[0]
    if isinstance(output, fx.Node | Tensor):
        return output
    raise DataError(f"the network returns several values ({output}); wrap it so that it returns one tensor")


def _fixed_shapes(module: fx.GraphModule, two: Values, three: Values) -> fx.Node:
    """Makes sure that no shape has to cross a cut, and returns the node that holds the batch size.

    Values that the network computes from shapes alone become constants where they are the same for any batch size,
    and are read from that node where they are the batch size. two, three: the nodes' values for batches of two and
    of three.
    """
    graph = module.graph
    image = next(iter(graph.nodes))
    with graph.inserting_after(image):
        count = graph.call_method("size", (image, 0))
    for node in list(two):
        value, other = two[node].value, three[node].value
        if isinstance(value, Tensor) or value is None or node.op in ("placeholder", "output"):
            continue
        if (value, other) == (2, 3):
            node.replace_all_uses_with(count)
        elif _same(value, other):
            replaced = _replacing(node, value)
            for user in list(node.users):
                user.args = map_arg(user.args, replaced)
                user.kwargs = map_arg(user.kwargs, replaced)
    for node in reversed(list(graph.nodes)):
        if not node.users and node is not count and not node.is_impure():
            graph.erase_node(node)
    module.recompile()
    return count


def _replacing(node: fx.Node, value: Any) -> Callable[[fx.Node], Any]:
    """Gives the value for the node, and every other node as it is."""
    return lambda other: value if other is node else other


def _without_image(order: Sequence[fx.Node], count: fx.Node) -> set[fx.Node]:
    """The nodes that need no image, only its batch size: parameters, and what is computed from these alone."""
    free = {count}
    for node in order:
        if node.op not in ("placeholder", "output") and free.issuperset(node.all_input_nodes):
            free.add(node)
    return free


def _first_is_batch(two: _Value, three: _Value) -> bool:
    shapes = two.value.shape, three.value.shape
    return bool(shapes[0]) and shapes[0][0] == 2 and shapes[1][0] == 3


def _out_of_place(module: fx.GraphModule, values: Values) -> None:
    """Replaces in-place operations, because a feature that crosses a cut must not change afterwards.

    Later nodes read the result of such an operation instead of the tensor that it overwrote.
    """
    for node in list(module.graph.nodes):
        if not isinstance(values[node].value, Tensor) or not _made_pure(module, node):
            continue
        overwritten = node.args[0] if node.args else node.kwargs["input"]
        overwritten.replace_all_uses_with(node, delete_user_cb=lambda user, node=node: user > node)
    module.recompile()


def _made_pure(module: fx.GraphModule, node: fx.Node) -> bool:
    """Makes a node that works in place return a new tensor. Returns whether it worked in place."""
    if node.op == "call_module":
        layer = module.get_submodule(str(node.target))
        if not getattr(layer, "inplace", False):
            return False
        pure = copy.copy(layer)
        pure.inplace = False  # type: ignore[assignment]
        module.set_submodule(str(node.target), pure)
        return True
    if node.kwargs.get("inplace"):
        node.kwargs = {**node.kwargs, "inplace": False}
        return True
    if node.op not in ("call_function", "call_method"):
        return False
    if node.target in _OPERATORS:
        node.target = _OPERATORS[node.target]
        return True
    name = _kind(module, node)
    home = torch.Tensor if node.op == "call_method" else torch
    if not name.endswith("_") or name.endswith("__") or not hasattr(home, name[:-1]):
        return False
    node.target = name[:-1] if node.op == "call_method" else getattr(torch, name[:-1])
    return True


def _check(module: fx.GraphModule, network: nn.Module, height: int, width: int) -> None:
    """Raises DataError where the graph, without its in-place operations, computes something else than the network."""
    x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = _one_tensor(network(x.clone()))
        traced = module(x)
    if not torch.allclose(traced, wanted, rtol=1e-3, atol=1e-5, equal_nan=True):
        raise DataError(
            f"{type(network).__name__} cannot be cut: its trace by torch.fx computes something else than the network, "
            "as happens where a network overwrites parts of its tensors or draws random numbers"
        )


def _same(one: Any, other: Any) -> bool:
    plain = (int, float, bool, str, torch.Size, torch.dtype, torch.device)
    if isinstance(one, tuple | list) and not isinstance(one, torch.Size):
        return all(isinstance(value, plain) for value in one) and one == other
    return isinstance(one, plain) and bool(one == other)


@torch.no_grad()
def _values(module: fx.GraphModule, batch: int, height: int, width: int) -> Values:
    recorder = _Recorder(module, batch)
    try:
        recorder.run(torch.zeros(batch, 3, height, width))
    except Exception as error:  # whatever a module raises at a size that it was not made for
        raise DataError(f"the network cannot take images of {width} x {height}: {_line(error)}") from None
    return recorder.values


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _parameters(module: fx.GraphModule, node: fx.Node) -> int:
    if node.op != "call_module":
        return 0
    return sum(parameter.numel() for parameter in module.get_submodule(str(node.target)).parameters())


def _kind(module: fx.GraphModule, node: fx.Node) -> str:
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))).__name__
    return "" if node.op == "placeholder" else getattr(node.target, "__name__", str(node.target))
