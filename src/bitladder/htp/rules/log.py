"""Log at 16 bits."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from onnx import NodeProto, TensorProto

from bitladder.htp.graph import Graph
from bitladder.htp.quantizer import Quantizer
from bitladder.htp.rule import Example, Rule
from bitladder.socs import Soc

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["RULE"]

STEP = float(np.float32(4.1 / 65535))  # of a 16-bit output: a range of 4.1 is right, one of 4.0 is wrong


def find(graph: Graph, soc: Soc) -> Iterator[NodeProto]:
    """Give the Logs whose 16-bit output has too fine a scale."""
    for node in graph.of_type("Log"):
        output = graph.find_quantizer(node.output[0])
        if output is not None and output.bits == 16 and output.step < STEP:
            yield node


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Widen its output's range downwards, in place: of two quantizers in a row, the NPU makes one."""
    zero_point = 65535 - round(graph.quantizer(node.output[0]).high / STEP)
    graph.set_quantizer(node, Quantizer(np.array(STEP, np.float32), np.array(zero_point), TensorProto.UINT16))


def example() -> "tuple[nn.Module, tuple[Tensor, ...]]":
    """Build the logarithm of a sigmoid, as log-likelihoods and focal losses have it."""
    import torch
    from torch import Tensor, nn

    class LogOfSigmoid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

        def forward(self, image: Tensor) -> Tensor:
            return self.last(torch.log(torch.sigmoid(self.first(image)) * 3 + 0.1))

    return LogOfSigmoid(), (torch.randn(16, 3, 16, 16),)


RULE = Rule(
    name="log",
    effect="wrong",
    where="a Log whose 16-bit output has a range of 4 or less",
    why="the NPU's 16-bit op wraps around where the scale of its output is 2^-14 or less",
    remedy="its range widened to 4.1",
    find=find,
    repair=repair,
    example=Example(example, ("W8A16", "W4A16")),
)
