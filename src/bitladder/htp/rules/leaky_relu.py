"""LeakyReLU and PReLU right behind a layer."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from onnx import NodeProto

from bitladder.htp.graph import Graph
from bitladder.htp.quantizer import Quantizer
from bitladder.htp.rule import OLD, Example, Rule
from bitladder.socs import Soc

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["RULE"]

LEAST = 1e-3  # a smaller slope counts as this one: it widens the range before the op


def find(graph: Graph, soc: Soc) -> Iterator[NodeProto]:
    """Give those without a quantizer before them, and PReLUs whose slope is no constant with one scale."""
    for node in graph.of_type("LeakyRelu", "PRelu"):
        if not graph.bits(node.output[0]) or _slope(graph, node) is None:
            continue
        bare = not graph.bits(node.input[0])
        if node.op_type == "LeakyRelu":
            if bare and soc.arch not in OLD:
                yield node
        elif bare or not _is_one_constant(graph, node.input[1]):
            yield node


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Put a quantizer before it, of the range that its output's comes from; make one constant of the slope.

    v68 and v69 have no 16-bit PReLU: max(x, slope * x) takes its place, which for slopes up to 1 is the same.
    """
    output, slope = graph.quantizer(node.output[0]), _slope(graph, node)
    assert slope is not None
    if not graph.bits(node.input[0]):
        least = np.clip(np.min(np.abs(slope)), LEAST, 1)
        graph.quantize_input(node, 0, Quantizer.of_range(output.low / least, output.high, output.bits))
    if node.op_type == "PRelu" and soc.arch in OLD and output.bits == 16 and slope.max() <= 1:
        own = Quantizer.of_range(float(slope.min()), float(slope.max()), 16)
        factor = graph.add_quantized(f"{node.name}_slope", slope, own, node)
        scaled = graph.add_node("Mul", [node.input[0], factor], f"{node.name}_scaled", node)
        graph.become(node, "Max", [node.input[0], graph.add_quantizer(scaled, output, node)])
    elif node.op_type == "PRelu":
        bits = 8 if soc.arch in OLD else output.bits  # with another type than its input's, the NPU computes in float
        own = Quantizer.of_range(float(slope.min()), float(slope.max()), bits)
        graph.set_input(node, 1, graph.add_quantized(f"{node.name}_slope", slope, own, node))


def _is_one_constant(graph: Graph, name: str) -> bool:
    """Tell a constant that is quantized with one scale: the NPU takes no slope quantized per channel."""
    quantizer = graph.find_quantizer(name)
    return quantizer is not None and quantizer.scale.size == 1 and graph.find_constant(name) is not None


def _slope(graph: Graph, node: NodeProto) -> np.ndarray | None:
    """Give the slope, in the shape in which it meets the input; None where it depends on the input."""
    if node.op_type == "LeakyRelu":
        return np.array(graph.attribute(node, "alpha", 0.01))
    name = node.input[1]
    while graph.find_constant(name) is None:
        maker = graph.maker(name)
        if maker is None or maker.op_type not in ("Unsqueeze", "Reshape", "QuantizeLinear", "DequantizeLinear"):
            return None
        name = maker.input[0]
    slope = graph.constant(name)
    rank = len(graph.shape(node.input[0]) or ())
    return slope.reshape(-1, *[1] * (rank - 2)) if slope.size > 1 and slope.ndim < rank - 1 else slope


def example() -> "tuple[nn.Module, tuple[Tensor, ...]]":
    """Build a convolution with a LeakyReLU, as in Darknet, and one with a PReLU, as in face recognition."""
    import torch
    from torch import nn

    layers = (nn.Conv2d(3, 8, 3), nn.LeakyReLU(0.1), nn.Conv2d(8, 8, 3), nn.PReLU(8), nn.Conv2d(8, 4, 1))
    return nn.Sequential(*layers), (torch.randn(16, 3, 16, 16),)


RULE = Rule(
    name="leaky-relu",
    effect="refused",
    where="a LeakyReLU or PReLU right behind a layer",
    why="QuantSim leaves no quantizer before it, as if the two were one op, and the NPU does not fuse them",
    remedy="a quantizer before it; a PReLU's slope as one constant of its input's bits, with one scale",
    find=find,
    repair=repair,
    example=Example(example, ("W8A16", "W8A8", "W4A8")),
)
