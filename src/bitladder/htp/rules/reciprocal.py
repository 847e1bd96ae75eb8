"""Reciprocal of what is below 1."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from onnx import NodeProto

from bitladder.htp.graph import Graph
from bitladder.htp.quantizer import Quantizer
from bitladder.htp.rule import Example, Rule
from bitladder.socs import Soc

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["RULE"]


def find(graph: Graph, soc: Soc) -> Iterator[NodeProto]:
    """Give those whose input's range does not hold 1."""
    for node in graph.of_type("Reciprocal"):
        values = graph.find_quantizer(node.input[0])
        if values is not None and values.high < 1 - values.step:
            yield node


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Divide a 1 that has a range of its own."""
    one = Quantizer.of_range(0, 1, graph.bits(node.input[0]))
    graph.become(node, "Div", [graph.add_quantized(f"{node.name}_one", np.array(1.0), one, node), node.input[0]])


def example() -> "tuple[nn.Module, tuple[Tensor, ...]]":
    """Build the reciprocal of small values between two convolutions."""
    import torch
    from torch import Tensor, nn

    class Inverse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
            self.first.weight.data /= 2
            assert self.first.bias is not None
            self.first.bias.data -= 3

        def forward(self, image: Tensor) -> Tensor:
            return self.last(torch.reciprocal(torch.sigmoid(self.first(image))))

    return Inverse(), (torch.randn(16, 3, 16, 16),)


RULE = Rule(
    name="reciprocal",
    effect="wrong",
    where="a Reciprocal of a tensor whose range does not hold 1",
    why="the NPU holds the 1 that it divides in the input's range: with a range to 0.1, the result is a tenth",
    remedy="a Div of a 1 with a range of its own",
    find=find,
    repair=repair,
    example=Example(example, ("W8A16", "W8A8", "W4A8"), writer="plain"),
)
