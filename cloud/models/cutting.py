"""Any network, cut at any layer. torch.fx traces and cuts it, torchvision names the nodes. Knows no codec and no task.

A layer is a node of the traced graph whose value is a tensor: a module or an operation, under the module's path; layer
0 is the input. Cutting after a layer puts it and what it needs into the front, and what follows into the tail. The
layer's own tensor has to be the only one that crosses: where others do (inside a branch, beside a shortcut) the cut is
refused with their names.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.utils.flop_counter import FlopCounterMode

from cloud.models.compat import import_torchvision
from shared.errors import DataError

INPUT, OUTPUT = "input", "output"
OUT = "out"
_IN_PLACE = {operator.iadd: operator.add, operator.imul: operator.mul, operator.isub: operator.sub}


@dataclass(frozen=True)
class Layer:
    """A place to cut.

    number: of the layers before it. shape: of one picture's value, without the batch. parameters, multiply_adds: of
    all layers up to it. crossing: the names of what the rest of the network needs of them.
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
        """Why this is no place to cut; empty where it is one."""
        if self.crossing != (self.name,):
            return f"{len(self.crossing)} tensors cross there: {', '.join(self.crossing)}"
        if len(self.shape) not in (1, 3):
            return f"its output {list(self.shape)} is neither a map (C, H, W) nor a vector (C,)"
        return ""


class Traced:
    """A network's graph, for pictures of one size, and its layers. The network's modules are shared, not copied.

    whole: kinds of modules that are one layer each, whatever they hold.

    Raises DataError where torch.fx cannot follow the network, or the network cannot take such pictures.
    """

    def __init__(
        self, network: nn.Module, height: int, width: int, whole: tuple[type[nn.Module], ...] = ()
    ) -> None:
        self._module, names = _trace(network, whole)
        values = _fixed_shapes(self._module, height, width)
        self._nodes = [
            node
            for node in self._module.graph.nodes
            if isinstance(values[node].value, Tensor) and node.op not in ("get_attr", "output")
        ]
        names[self._nodes[0]] = INPUT
        order = {node: i for i, node in enumerate(self._module.graph.nodes)}
        self.layers: list[Layer] = []
        parameters = multiply_adds = 0
        for number, node in enumerate(self._nodes):
            parameters += _parameters(self._module, node)
            multiply_adds += values[node].multiply_adds
            crossing = [
                names.get(other, other.name)
                for other in order
                if order[other] <= order[node]
                and other.op != "get_attr"
                and any(order[user] > order[node] for user in other.users)
            ]
            shape = tuple(values[node].value.shape[1:])
            kind = _kind(self._module, node)
            self.layers.append(
                Layer(number, names[node], kind, shape, parameters, multiply_adds, tuple(crossing))
            )

    def layer(self, where: int | str) -> Layer:
        """By number or name; "input" and "output" are the first and the last. Raises DataError."""
        if where == OUTPUT:
            return self.layers[-1]
        for layer in self.layers:
            if where in (layer.number, str(layer.number), layer.name):
                return layer
        raise DataError(
            f"the network has no layer {where!r}; it has 0..{len(self.layers) - 1}, from {INPUT} to "
            f"{self.layers[-1].name} (`isthmus split` lists them)"
        )

    def cut(self, where: int | str) -> tuple[nn.Module, nn.Module]:
        """Front and tail; the front is empty at the input, the tail at the output. Raises DataError."""
        layer = self.layer(where)
        if layer.refused:
            raise DataError(
                f"the network cannot be cut at {layer.name}: {layer.refused} (`isthmus split` marks where it can)"
            )
        node, number = self._nodes[layer.number], layer.number
        front = nn.Sequential() if number == 0 else self._part(node, front=True)
        tail = nn.Sequential() if number == len(self._nodes) - 1 else self._part(node, front=False)
        return front, tail

    def _part(self, node: fx.Node, front: bool) -> nn.Module:
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        result = graph.graph_copy(self._module.graph, copies)
        own, given = copies[node], copies[self._nodes[0]]
        if front:
            graph.output(own)
        else:
            with graph.inserting_after(given):
                own.replace_all_uses_with(graph.placeholder("y"))
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


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps what each node gave, and its multiply-adds a picture."""

    def __init__(self, module: fx.GraphModule, batch: int) -> None:
        super().__init__(module)
        self._batch = batch
        self.values: dict[fx.Node, _Value] = {}

    def run_node(self, n: fx.Node) -> Any:
        with FlopCounterMode(display=False) as counter:
            value = super().run_node(n)
        self.values[n] = _Value(value, counter.get_total_flops() // (2 * self._batch))
        return value


def _trace(
    network: nn.Module, whole: tuple[type[nn.Module], ...]
) -> tuple[fx.GraphModule, dict[fx.Node, str]]:
    """The graph, with nothing in it that works in place: a feature that is kept must stay what it was."""
    import_torchvision()
    from torchvision.models.feature_extraction import NodePathTracer  # type: ignore[import-untyped]

    network = network.eval()
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    tracer = NodePathTracer(leaf_modules=whole)
    try:
        graph = tracer.trace(network)
    except Exception as error:  # whatever the network's own code makes of a proxy
        raise DataError(
            f"torch.fx cannot trace {type(network).__name__}, so it cannot be cut: {_line(error)}"
        ) from None
    for node in graph.nodes:
        if node.kwargs.get("inplace"):
            node.kwargs = {**node.kwargs, "inplace": False}
        if node.op == "call_function":
            node.target = _IN_PLACE.get(node.target, node.target)
        if node.op == "output":
            node.args = (_one_tensor(node.args[0]),)
    return fx.GraphModule(tracer.root, graph), dict(tracer.node_to_qualname)


def _one_tensor(output: Any) -> Any:
    """What the network gives: of several things the one named "out" (as torchvision's segmentation networks have), or
    the only one. Raises DataError."""
    if isinstance(output, dict) and (OUT in output or len(output) == 1):
        return output.get(OUT, next(iter(output.values())))
    if isinstance(output, Sequence) and len(output) == 1:
        return output[0]
    if isinstance(output, fx.Node):
        return output
    raise DataError(f"the network gives several things ({output}); wrap it so that it gives one tensor")


def _fixed_shapes(module: fx.GraphModule, height: int, width: int) -> dict[fx.Node, _Value]:
    """Each node's value for two pictures. What a node computes of shapes alone, and would give for any number of
    pictures, becomes a constant, so that no shape has to cross a cut. Raises DataError."""
    two, three = (_values(module, batch, height, width) for batch in (2, 3))
    for node in list(module.graph.nodes):
        constant = two[node].value
        if isinstance(constant, Tensor) or node.op in ("placeholder", "output") or constant is None:
            continue
        if _same(constant, three[node].value):
            for user in list(node.users):
                user.args = map_arg(user.args, lambda n, node=node, c=constant: c if n is node else n)
                user.kwargs = map_arg(user.kwargs, lambda n, node=node, c=constant: c if n is node else n)
    module.graph.eliminate_dead_code()
    module.recompile()
    return two


def _same(one: Any, other: Any) -> bool:
    plain = (int, float, bool, str, torch.Size, torch.dtype, torch.device)
    if isinstance(one, tuple | list) and not isinstance(one, torch.Size):
        return all(isinstance(value, plain) for value in one) and one == other
    return isinstance(one, plain) and bool(one == other)


@torch.no_grad()
def _values(module: fx.GraphModule, batch: int, height: int, width: int) -> dict[fx.Node, _Value]:
    recorder = _Recorder(module, batch)
    try:
        recorder.run(torch.zeros(batch, 3, height, width))
    except Exception as error:  # whatever a module makes of a size that is not its own
        raise DataError(f"the network cannot take pictures of {width} x {height}: {_line(error)}") from None
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
