"""AveragePool with ceil_mode: its last windows reach past the image."""

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
    """Give those without pads of their own, in which a window reaches past the end."""
    for node in graph.of_type("AveragePool"):
        plain = not any(graph.attribute(node, "pads", ())) and set(graph.attribute(node, "dilations", [1])) == {1}
        if graph.attribute(node, "ceil_mode", 0) and plain and any(_reach(graph, node)):
            yield node


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Say what the windows reach past as pads that are not counted, which is what ceil_mode means."""
    reach = _reach(graph, node)
    size, strides = graph.attribute(node, "kernel_shape"), graph.attribute(node, "strides", [1] * len(reach))
    pads = [0] * len(reach) + reach
    graph.become(
        node, "AveragePool", [node.input[0]], kernel_shape=size, strides=strides, pads=pads, count_include_pad=0
    )


def _reach(graph: Graph, node: NodeProto) -> list[int]:
    """Count how far the last window reaches past the end, along each side; empty where sizes are not known."""
    sides, out = (graph.shape(name) for name in (node.input[0], node.output[0]))
    size = graph.attribute(node, "kernel_shape")
    if not sides or not out or not all(sides[2:]) or not all(out[2:]):
        return []
    strides = graph.attribute(node, "strides", [1] * len(size))
    ends = zip(sides[2:], out[2:], size, strides, strict=True)
    return [max(0, (count - 1) * stride + width - side) for side, count, width, stride in ends]


def example() -> "tuple[nn.Module, tuple[Tensor, ...]]":
    """Build one between two convolutions."""
    import torch
    from torch import nn

    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.AvgPool2d(3, 2, ceil_mode=True), nn.Conv2d(8, 4, 1))
    return nn.Sequential(*layers), (torch.randn(16, 3, 16, 16),)


RULE = Rule(
    name="average-pool",
    effect="wrong",
    where="an AveragePool with ceil_mode whose last windows reach past the image",
    why="the NPU divides by the size of the whole window there",
    remedy="pads that are not counted, instead of ceil_mode",
    find=find,
    repair=repair,
    example=Example(example, ("FP16", "W8A16", "W8A8", "W4A8")),
)
