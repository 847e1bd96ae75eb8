"""A ReLU without a quantizer before it that the NPU cannot fuse with its layer."""

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
    """Give the ReLUs right behind a bias that is an Add, and those whose output's zero point is not the least value."""
    for node in graph.of_type("Relu"):
        output, before = graph.find_quantizer(node.output[0]), graph.maker(node.input[0])
        if output is None or before is None or before.op_type == "DequantizeLinear":
            continue
        if before.op_type == "Add" or output.zero_point.min() > output.levels[0]:
            yield node


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Quantize what goes into it as what comes out: the values stay the same."""
    graph.quantize_input(node, 0, graph.quantizer(node.output[0]))


def example() -> "tuple[nn.Module, tuple[Tensor, ...]]":
    """Build the feed-forward part of a transformer, on 12 tokens."""
    import torch
    from torch import nn

    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)), (torch.randn(16, 12, 16),)


RULE = Rule(
    name="relu",
    effect="refused",
    where="a ReLU behind a Linear with bias on tokens, or whose output has the range of a Concat",
    why="QuantSim leaves no quantizer before it, as if the two were one op, and the NPU does not fuse them",
    remedy="the ReLU's own quantizer before it too",
    find=find,
    repair=repair,
    example=Example(example, ("W8A16", "W8A8", "W4A8")),
)
