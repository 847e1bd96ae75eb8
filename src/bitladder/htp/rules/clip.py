"""A Clip, such as ReLU6, whose output has a wider range than it clips to: that of the Concat which it feeds."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from onnx import NodeProto

from bitladder.htp.graph import Graph
from bitladder.htp.rule import Example, Rule
from bitladder.socs import Soc

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["RULE"]


def find(graph: Graph, soc: Soc) -> Iterator[NodeProto]:
    """Give the Clips that the NPU drops.

    At 8 bits it keeps one that clips at both sides and whose input is quantized; right after a MaxPool it keeps all.
    """
    for node in graph.of_type("Clip"):
        (below, above), bits = _clips(graph, node), graph.bits(node.output[0])
        before = graph.before(node.input[0])
        if not (below or above) or (before is not None and before.op_type == "MaxPool"):
            continue
        if bits > 8 or not (below and above) or not graph.bits(node.input[0]):
            yield node


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Clip by Max and Min, which are ops of their own there."""
    quantizer, (below, above) = graph.quantizer(node.output[0]), _clips(graph, node)
    values, bounds = node.input[0], _bounds(graph, node)
    if below:
        low = graph.add_quantized(f"{node.name}_low", np.array(bounds[0]), quantizer, node)
        if not above:
            graph.become(node, "Max", [values, low])
            return
        values = graph.add_node("Max", [values, low], f"{node.name}_max", node)
        values = graph.add_quantizer(values, quantizer, node)
    high = graph.add_quantized(f"{node.name}_high", np.array(bounds[1]), quantizer, node)
    graph.become(node, "Min", [values, high])


def _bounds(graph: Graph, node: NodeProto) -> tuple[float, float]:
    given = [graph.find_constant(name) if name else None for name in [*node.input[1:3], "", ""][:2]]
    low, high = (None if one is None else float(one.reshape(-1)[0]) for one in given)
    return (-np.inf if low is None else low), (np.inf if high is None else high)


def _clips(graph: Graph, node: NodeProto) -> tuple[bool, bool]:
    """Whether values below, and above, what it clips to could leave its output's quantizer."""
    quantizer, (low, high) = graph.find_quantizer(node.output[0]), _bounds(graph, node)
    if quantizer is None:
        return False, False
    return quantizer.low < low - quantizer.step, quantizer.high > high + quantizer.step


def example() -> "tuple[nn.Module, tuple[Tensor, ...]]":
    """Build two convolutions whose outputs are joined, one of them through a ReLU6."""
    import torch
    from torch import Tensor, nn

    class Join(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.clipped, self.wide, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3), nn.Conv2d(16, 4, 1)
            self.act = nn.ReLU6()
            self.clipped.weight.data *= 10
            self.wide.weight.data *= 20

        def forward(self, image: Tensor) -> Tensor:
            return self.head(torch.cat([self.act(self.clipped(image)), self.wide(image)], 1))

    return Join(), (torch.randn(16, 3, 16, 16),)


RULE = Rule(
    name="clip",
    effect="wrong",
    where="a Clip (ReLU6) whose output has the wider range of the Concat that it feeds",
    why="the NPU counts on the quantizer to clip, and so drops the Clip",
    remedy="Max and Min in its place",
    find=find,
    repair=repair,
    example=Example(example, ("W8A16",)),
)
