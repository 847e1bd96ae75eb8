"""A product of two tensors of 16 bits: Q times K, and attention times V."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from onnx import NodeProto, TensorProto

from bitladder.htp.graph import Graph
from bitladder.htp.quantizer import Quantizer
from bitladder.htp.rule import OLD, Example, Rule
from bitladder.socs import Soc

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["RULE"]


def find(graph: Graph, soc: Soc) -> Iterator[NodeProto]:
    """Give the MatMuls whose second operand is uint16 and no constant; v68 and v69 take no int16 there."""
    if soc.arch in OLD:
        return
    for node in graph.of_type("MatMul"):
        operand = graph.find_quantizer(node.input[1])
        if operand is not None and operand.type == TensorProto.UINT16 and graph.find_constant(node.input[1]) is None:
            yield node


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Put a quantizer of int16 with zero point 0 ahead of it."""
    operand = graph.quantizer(node.input[1])
    scale = max(-operand.low, operand.high) / 32767
    graph.quantize_input(node, 1, Quantizer(np.array(scale), np.array(0), TensorProto.INT16))


def example() -> "tuple[nn.Module, tuple[Tensor, ...]]":
    """Build a head of self-attention on 12 tokens."""
    import torch
    from torch import Tensor, nn

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(32, 32) for _ in range(3))

        def forward(self, tokens: Tensor) -> Tensor:
            scores = torch.matmul(self.query(tokens), self.key(tokens).transpose(1, 2)) / 32**0.5
            return torch.matmul(torch.softmax(scores, -1), self.value(tokens))

    return Head(), (torch.randn(16, 12, 32),)


RULE = Rule(
    name="attention",
    effect="inaccurate",
    where="a MatMul of two 16-bit tensors that both depend on the input (attention)",
    why="the NPU cuts bits of a second operand that is unsigned",
    remedy="a quantizer of int16 with zero point 0 for the second operand",
    find=find,
    repair=repair,
    example=Example(example, ("W8A16", "W4A16")),
)
