"""A network as a graph of calls, run call by call."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from bitladder.quantize.sim.hooks import hooked
from bitladder.tasks.task import name_outputs

__all__ = ["Runner", "graph_of", "places"]


class Runner(fx.Interpreter):
    """Runs a graph's nodes on a network's modules; of a graph of one node, on the network itself."""

    at: fx.Node
    """The node that is run now."""

    def run_node(self, n: fx.Node) -> Any:
        """Run a node on what `env` has of others."""
        self.at = n
        return super().run_node(n)

    def fetch_attr(self, target: str) -> Any:
        """Give a module, a parameter or a buffer by its path."""
        return super().fetch_attr(target) if target else self.module


class _Tracer(fx.Tracer):
    """Looks into all modules but the last: a layer that QuantSim puts in another's place is one call."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(m.children()) or super().is_leaf_module(m, module_qualified_name)


def graph_of(network: nn.Module, sample: tuple[Tensor, ...]) -> fx.Graph:
    """Give the graph that a network has, or that torch.fx finds; of one that it cannot trace, a graph of one node.

    AIMET's preparer leaves a graph. A network that needed none of its changes came through as the user wrote it.
    """
    if isinstance(network, fx.GraphModule):
        return network.graph
    return _traced(network, sample) or _whole(sample)


def _traced(network: nn.Module, sample: tuple[Tensor, ...]) -> fx.Graph | None:
    try:
        graph = _Tracer().trace(network)
        with torch.no_grad():
            expected, found = (name_outputs(run(*sample)) for run in (network, Runner(network, graph=graph).run))
    except Exception:  # torch.fx raises many kinds: each means that the network cannot be traced
        return None
    # a network may take another branch where it is given no tensors
    return graph if all(torch.equal(values, found[name]) for name, values in expected.items()) else None


def _whole(sample: tuple[Tensor, ...]) -> fx.Graph:
    graph = fx.Graph()
    graph.output(graph.call_module("", tuple(graph.placeholder(f"input_{number}") for number in range(len(sample)))))
    return graph


def places(
    network: nn.Module, graph: fx.Graph, sample: tuple[Tensor, ...], layers: Iterable[str]
) -> dict[str, fx.Node]:
    """Give the node in which each layer is called first, in the order of these calls.

    Without those that are not called, or that the network does not have: AIMET takes torch's attention apart.
    """
    runner, found = Runner(network, graph=graph), dict[str, fx.Node]()
    modules = dict(network.named_modules())

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            found.setdefault(name, runner.at)

        return hook

    hooks = (modules[name].register_forward_pre_hook(note(name)) for name in layers if name in modules)
    with hooked(hooks), torch.no_grad():
        runner.run(*sample)
    return found
