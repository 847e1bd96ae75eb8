"""A float network and its sim side by side, layer after layer: all batches come to a layer before the next one runs.

Techniques that change a layer by what comes to it need that, since what comes to it depends on the layers that were
changed before. All samples as one batch would do as well, and take memory for all of them. Here a node of the network's
graph runs on batch after batch; what later nodes read of it is kept until then, and beyond HELD in a folder.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.hooks import RemovableHandle

from bitladder.quantize.sim.batches import Batches
from bitladder.quantize.sim.graph import Runner, graph_of, places
from bitladder.quantize.sim.hooks import hooked
from bitladder.quantize.sim.lean import plain_tensors
from bitladder.quantize.sim.spill import Spill, Spilled

__all__ = ["Layer", "Seen", "in_lockstep"]

HELD = 2**29
"""Bytes of activations, of both networks, that are kept in memory from node to node."""


@dataclass(frozen=True)
class Seen:
    """What a batch brings to a layer.

    `added`: what the layer's output is added to, in the float network and in the sim; None where there is nothing of
    the output's shape.
    """

    float_inputs: tuple[Any, ...]
    float_output: Tensor
    inputs: tuple[Any, ...]
    added: tuple[Tensor, Tensor] | None


def in_lockstep(
    reference: nn.Module,
    model: nn.Module,
    layers: Iterable[str],
    batches: Batches,
    folder: Path,
    visit: Callable[["Layer"], None],
    added_to: Mapping[str, str] | None = None,
) -> None:
    """Visit layers in the order in which they run, each at its first call; later ones see what was changed in it.

    Args:
        reference: the float network.
        model: the sim's, whose modules have the same names; gradients are off while it is visited.
        layers: their names; those that are not called are passed over.
        batches: run one at a time.
        folder: takes what memory should not hold, for a while.
        visit: gets each layer.
        added_to: the module that gives what a layer's output is added to, by the layer's name; passed over where that
            module is no call of the graph, but inside one.

    """
    sample = batches.one()
    graph = graph_of(reference, sample)
    at = places(reference, graph, sample, layers)
    nodes = list(graph.nodes)
    nodes = nodes[: max(map(nodes.index, at.values()), default=-1) + 1]  # nothing after the last layer is asked for
    calls = {str(node.target): node for node in nodes if node.op == "call_module"}
    added = {name: calls[other] for name, other in (added_to or {}).items() if name in at and other in calls}
    reads = {node: {*node.all_input_nodes, *(added[name] for name in added if at[name] is node)} for node in nodes}
    last = {one: node for node in nodes for one in (node, *reads[node])}
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as spilled, torch.no_grad(), plain_tensors():
        spill = Spill(Path(spilled), HELD)
        pair = tuple(_Values(network, graph, spill, len(batches)) for network in (reference, model))
        for number, batch in enumerate(batches):
            for network in pair:
                network.start(number, batch)
        for node in nodes:
            for name in (name for name, place in at.items() if place is node):
                visit(Layer(name, node, added.get(name), *pair))
            if node is nodes[-1]:
                break
            for number in range(len(batches)):
                for network in pair:
                    network.finish(node, number, [one for one in (node, *reads[node]) if last[one] is node])


class Layer:
    """A layer that is visited, before it runs in the sim."""

    def __init__(self, name: str, node: fx.Node, added: fx.Node | None, reference: "_Values", model: "_Values") -> None:
        """Take its name, the node that calls it, that whose value its output is added to, and both networks."""
        self.name, self._node, self._added, self._reference, self._model = name, node, added, reference, model

    def batches(self) -> Iterator[Seen]:
        """Run the float layer, and give what comes to both, batch by batch."""
        for number, inputs in enumerate(self.inputs()):
            float_inputs, float_output = self._reference.watch(self._node, number, self.name)
            yield Seen(float_inputs, float_output, inputs, self._summands(number, float_output))

    def inputs(self) -> Iterator[tuple[Any, ...]]:
        """Give what comes to the sim's layer, batch by batch."""
        for number in range(len(self._model)):
            yield self._model.inputs(self._node, number, self.name)

    def _summands(self, number: int, output: Tensor) -> tuple[Tensor, Tensor] | None:
        if self._added is None:
            return None
        expected, found = (network.value(self._added, number) for network in (self._reference, self._model))
        return (expected, found) if expected.shape == found.shape == output.shape else None


class _Reached(Exception):  # noqa: N818
    """A network has come to a layer; its args are what came there."""


def _stop(module: nn.Module, *found: Any) -> None:
    raise _Reached(*found)


class _Values:
    """What a network's nodes have given, batch by batch."""

    def __init__(self, network: nn.Module, graph: fx.Graph, spill: Spill, batches: int) -> None:
        self._network, self._runner, self._spill = network, Runner(network, False, graph), spill
        self._inputs = [node for node in graph.nodes if node.op == "placeholder"]
        self._kept: list[dict[fx.Node, Any]] = [{} for _ in range(batches)]

    def __len__(self) -> int:
        return len(self._kept)

    def start(self, number: int, batch: tuple[Tensor, ...]) -> None:
        """Take a batch's inputs."""
        self._runner.args_iter = iter(batch)
        for node in self._inputs:
            self._keep(node, number, self._runner.run_node(node))

    def finish(self, node: fx.Node, number: int, done: list[fx.Node]) -> None:
        """Run a node if that is still to do, and free what no later one reads."""
        if node.op not in ("placeholder", "get_attr") and node not in self._kept[number]:
            self._keep(node, number, self._run(node, number))
        for one in done:
            if one in self._kept[number]:
                self._spill.drop(self._kept[number].pop(one))

    def watch(self, node: fx.Node, number: int, layer: str) -> tuple[tuple[Any, ...], Tensor]:
        """Run a layer in a node, and give what comes to it, and what it makes of that."""
        hook = self._network.get_submodule(layer).register_forward_hook(_stop)
        inputs, output = self._reach(node, number, layer, hook)
        if node.target == layer:
            self._keep(node, number, output)
        return inputs, output

    def inputs(self, node: fx.Node, number: int, layer: str) -> tuple[Any, ...]:
        """Run a node up to a layer in it, and give what comes to that."""
        hook = self._network.get_submodule(layer).register_forward_pre_hook(_stop)
        (inputs,) = self._reach(node, number, layer, hook)
        return inputs

    def _reach(self, node: fx.Node, number: int, layer: str, hook: RemovableHandle) -> Any:
        with hooked([hook]):
            try:
                # what comes before the layer in its node runs again for it, and may change no input in place
                self._run(node, number, copies=node.target != layer)
            except _Reached as reached:
                return reached.args
        raise AssertionError(f"{layer} is not called in {node}")

    def value(self, node: fx.Node, number: int) -> Any:
        """Give what a node has given."""
        if node.op == "get_attr":
            return self._runner.fetch_attr(str(node.target))
        return self._spill.load(self._kept[number][node])

    def _run(self, node: fx.Node, number: int, copies: bool = False) -> Any:
        given = {one: self.value(one, number) for one in node.all_input_nodes}
        if copies:
            given = {one: value.clone() if isinstance(value, Tensor) else value for one, value in given.items()}
        self._runner.env = given
        try:
            result = self._runner.run_node(node)
        finally:
            self._runner.env = {}  # it would keep them until the next node
        for one, value in given.items():  # a file does not see what is changed in place
            if isinstance(self._kept[number].get(one), Spilled) and value._version:
                self._keep(one, number, value)
        return result

    def _keep(self, node: fx.Node, number: int, value: Any) -> None:
        if node in self._kept[number]:
            self._spill.drop(self._kept[number][node])
        self._kept[number][node] = self._spill.keep(value)
