"""x * HardSigmoid(x), as MobileNetV3 has it, in FP16."""

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
    """Give the products of a float graph whose factors are x and HardSigmoid(x)."""
    if graph.is_quantized:
        return
    for node in graph.of_type("Mul"):
        for one, other in (node.input, node.input[::-1]):
            gate = graph.maker(other)
            if gate is not None and gate.op_type == "HardSigmoid" and gate.input[0] == one:
                slope, offset = graph.attribute(gate, "alpha", 0.2), graph.attribute(gate, "beta", 0.5)
                if np.allclose([slope, offset], [1 / 6, 0.5]):
                    yield node


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Put the HardSwish op in its place."""
    gate = next(one for one in map(graph.maker, node.input) if one is not None and one.op_type == "HardSigmoid")
    graph.become(node, "HardSwish", [gate.input[0]])


def example() -> "tuple[nn.Module, tuple[Tensor, ...]]":
    """Build the activation from its parts between two convolutions."""
    import torch
    from torch import Tensor, nn

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

        def forward(self, image: Tensor) -> Tensor:
            inner = self.first(image)
            return self.last(inner * nn.functional.hardsigmoid(inner))

    return Gated(), (torch.randn(16, 3, 16, 16),)


RULE = Rule(
    name="hard-swish",
    effect="wrong",
    where="x * HardSigmoid(x) in FP16",
    why="the NPU takes the pair amiss",
    remedy="the HardSwish op in its place",
    find=find,
    repair=repair,
    example=Example(example, ("FP16",)),
)
