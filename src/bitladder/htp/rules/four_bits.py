"""Kinds of convolution that the NPU takes with 8-bit weights only."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from onnx import NodeProto, TensorProto

from bitladder.htp.graph import Graph
from bitladder.htp.rule import Example, Rule
from bitladder.socs import Soc

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["RULE"]

FOUR = (TensorProto.INT4, TensorProto.UINT4)


def find(graph: Graph, soc: Soc) -> Iterator[NodeProto]:
    """Give the 3-D convolutions, and the transposed ones in groups, whose weights have 4 bits."""
    for node in graph.of_type("Conv", "ConvTranspose"):
        weights = graph.find_quantizer(node.input[1])
        if weights is not None and weights.type in FOUR and graph.find_constant(node.input[1]) is not None:
            grouped = node.op_type == "ConvTranspose" and graph.attribute(node, "group", 1) > 1
            if grouped or len(graph.shape(node.input[1]) or ()) == 5:
                yield node


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Store the same weights in 8 bits, by the same scales."""
    weights, values = graph.quantizer(node.input[1]), graph.constant(node.input[1])
    wide = TensorProto.INT8 if weights.type == TensorProto.INT4 else TensorProto.UINT8
    graph.set_input(node, 1, graph.add_quantized(node.input[1], values, replace(weights, type=wide), node))


def example() -> "tuple[nn.Module, tuple[Tensor, ...]]":
    """Build a depthwise transposed convolution, as it enlarges images."""
    import torch
    from torch import nn

    layers = (nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 8, 2, 2, groups=8), nn.Conv2d(8, 4, 1))
    return nn.Sequential(*layers), (torch.randn(16, 3, 16, 16),)


RULE = Rule(
    name="four-bits",
    effect="refused",
    where="a 3-D convolution, or a transposed one in groups, with 4-bit weights",
    why="the NPU has no such kernel",
    remedy="the same weights stored in 8 bits",
    find=find,
    repair=repair,
    example=Example(example, ("W4A16", "W4A8")),
)
