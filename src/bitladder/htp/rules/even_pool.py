"""AveragePool by an even number of pixels whose windows do not overlap."""

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

LEAST = 4  # windows of 4, 6, 8, 10 and 12 are wrong; of 2, 3, 5, 7 and oblong ones right


def find(graph: Graph, soc: Soc) -> Iterator[NodeProto]:
    """Give the quantized ones with square, even windows that lie side by side."""
    for node in graph.of_type("AveragePool"):
        size, strides = graph.attribute(node, "kernel_shape"), graph.attribute(node, "strides")
        even = size is not None and len(size) == 2 and size[0] == size[1] and size[0] >= LEAST and size[0] % 2 == 0
        plain = not any(graph.attribute(node, "pads", ())) and not graph.attribute(node, "ceil_mode", 0)
        known = graph.bits(node.input[0]) and (graph.shape(node.input[0]) or [0, 0])[1]
        if even and size == strides and plain and known:
            yield node


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Put a depthwise convolution in its place, whose weights are all one over the window's size."""
    size, (_, channels, *_) = graph.attribute(node, "kernel_shape"), graph.shape(node.input[0]) or [0, 0]
    share = 1 / np.prod(size)
    quantizer = Quantizer(np.array(share / 127), np.array(0), TensorProto.INT8)
    weights = graph.add_quantized(f"{node.name}_share", np.full((channels, 1, *size), share), quantizer, node)
    graph.become(node, "Conv", [node.input[0], weights], group=channels, kernel_shape=size, strides=size)


def example() -> "tuple[nn.Module, tuple[Tensor, ...]]":
    """Build one between two convolutions."""
    import torch
    from torch import nn

    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.AvgPool2d(4), nn.Conv2d(8, 4, 1))
    return nn.Sequential(*layers), (torch.randn(16, 3, 16, 16),)


RULE = Rule(
    name="even-pool",
    effect="wrong",
    where="a quantized AveragePool by 4x4, 6x6, 8x8 and so on whose windows lie side by side",
    why="the NPU's means are off by a few hundredths; one by 6x6 ends the compiler where sides are no multiple of 6",
    remedy="a depthwise convolution of equal weights in its place",
    find=find,
    repair=repair,
    example=Example(example, ("W8A16", "W8A8", "W4A8")),
)
