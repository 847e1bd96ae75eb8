"""A Softmax that feeds a Concat, at 8 bits."""

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
    """Give the Softmaxes whose 8-bit output has another zero point than 0."""
    for node in graph.of_type("Softmax"):
        output = graph.find_quantizer(node.output[0])
        if output is not None and output.bits == 8 and output.zero_point.min() > output.levels[0]:
            yield node


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Give it a quantizer of its own, ahead of the Concat's; v68 and v69 take no 16-bit output of an 8-bit input."""
    own = Quantizer(np.array(1 / 256, np.float32), np.array(0), TensorProto.UINT8)
    graph.quantize_output(node, own if soc.arch in OLD else graph.quantizer(node.output[0]).of_bits(16))


def example() -> "tuple[nn.Module, tuple[Tensor, ...]]":
    """Build two convolutions whose outputs are joined, one of them through a Softmax."""
    import torch
    from torch import Tensor, nn

    class Join(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scores, self.boxes, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3), nn.Conv2d(16, 4, 1)
            self.softmax = nn.Softmax(1)

        def forward(self, image: Tensor) -> Tensor:
            return self.head(torch.cat([self.softmax(self.scores(image)), self.boxes(image)], 1))

    return Join(), (torch.randn(16, 3, 16, 16),)


RULE = Rule(
    name="softmax",
    effect="wrong",
    where="a Softmax that has the range of the Concat which it feeds",
    why="the NPU's 8-bit Softmax is wrong where the zero point of its output is not 0",
    remedy="a quantizer of its own, of 16 bits; of 8 bits and 0 to 1 on v68 and v69",
    find=find,
    repair=repair,
    example=Example(example, ("W8A8", "W4A8")),
)
