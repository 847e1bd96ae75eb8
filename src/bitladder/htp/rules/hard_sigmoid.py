"""HardSigmoid at 16 bits."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from onnx import NodeProto

from bitladder.htp.graph import Graph
from bitladder.htp.quantizer import Quantizer
from bitladder.htp.rule import Example, Rule
from bitladder.socs import Soc

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["RULE"]


def find(graph: Graph, soc: Soc) -> Iterator[NodeProto]:
    """Give those with 16-bit inputs and outputs."""
    for node in graph.of_type("HardSigmoid"):
        if graph.bits(node.input[0]) == graph.bits(node.output[0]) == 16:
            yield node


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Shift, clip by a quantizer, and scale: clip(x + beta / alpha, 0, 1 / alpha) * alpha."""
    slope, offset = graph.attribute(node, "alpha", 0.2), graph.attribute(node, "beta", 0.5)
    name, shift = node.name, offset / slope
    by = graph.add_quantized(f"{name}_shift", np.array(shift), Quantizer.of_range(0, shift, 16), node)
    shifted = graph.add_node("Add", [node.input[0], by], f"{name}_add", node)
    clipped = graph.add_quantizer(shifted, Quantizer.of_range(0, 1 / slope, 16), node)
    factor = graph.add_quantized(f"{name}_slope", np.array(slope), Quantizer.of_range(0, slope, 16), node)
    graph.become(node, "Mul", [clipped, factor])


def example() -> "tuple[nn.Module, tuple[Tensor, ...]]":
    """Build one between two convolutions."""
    import torch
    from torch import nn

    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardsigmoid(), nn.Conv2d(8, 4, 1)), (torch.randn(16, 3, 16, 16),)


RULE = Rule(
    name="hard-sigmoid",
    effect="wrong",
    where="a HardSigmoid at 16 bits",
    why="the NPU's 16-bit op is off",
    remedy="an addition whose quantizer clips, and a product, in its place",
    find=find,
    repair=repair,
    example=Example(example, ("W8A16", "W4A16")),
)
