"""CumSum and TopK at 8 bits."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnx import NodeProto

from bitladder.htp.graph import Graph
from bitladder.htp.rule import Example, Rule
from bitladder.socs import Soc

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["RULE"]


def find(graph: Graph, soc: Soc) -> Iterator[NodeProto]:
    """Give those whose input and output have 8 bits."""
    for node in graph.of_type("CumSum", "TopK"):
        if graph.bits(node.input[0]) == graph.bits(node.output[0]) == 8:
            yield node


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Put 16-bit quantizers around it, of the ranges that there are."""
    graph.quantize_input(node, 0, graph.quantizer(node.input[0]).of_bits(16))
    graph.quantize_output(node, graph.quantizer(node.output[0]).of_bits(16))


def example() -> "tuple[nn.Module, tuple[Tensor, ...]]":
    """Build a running sum over 12 tokens, between two linear layers."""
    import torch
    from torch import Tensor, nn

    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(16, 16), nn.Linear(16, 8)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.last(torch.cumsum(self.first(tokens), 1))

    return Sums(), (torch.randn(16, 12, 16),)


RULE = Rule(
    name="cumsum",
    effect="wrong",
    where="a CumSum or TopK at 8 bits",
    why="the NPU's 8-bit CumSum is wrong, and its TopK a step low",
    remedy="16-bit quantizers around it",
    find=find,
    repair=repair,
    example=Example(example, ("W8A8", "W4A8")),
)
