"""An integer bias that is not in units of input scale x weight scale."""

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

TOLERANCE = 1e-3  # relative; float32 products differ by 1e-7, a wrong scale by orders of magnitude


def find(graph: Graph, soc: Soc) -> Iterator[NodeProto]:
    """Give the layers whose bias is int32 in other units, or in units that are not known; not those with blocks."""
    for node in graph.of_type("Conv", "ConvTranspose", "Gemm"):
        if (weights := graph.find_quantizer(node.input[1])) is not None and weights.block_size:
            continue  # the NPU reads their bias by its own scale
        bias = graph.find_quantizer(node.input[2]) if len(node.input) > 2 else None
        if bias is not None and bias.type == TensorProto.INT32 and graph.find_constant(node.input[2]) is not None:
            unit = _unit(graph, node)
            if unit is None or not np.allclose(bias.scale, unit, TOLERANCE, 0):
                yield node


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Bring it into these units; leave it in float where they are not known."""
    values, unit, name = graph.constant(node.input[2]), _unit(graph, node), node.input[2]
    if unit is None:
        graph.set_input(node, 2, graph.add_constant(f"{name}_float", values.astype(np.float32)))
        return
    quantizer = Quantizer(unit, np.zeros(unit.shape, np.int64), TensorProto.INT32, 0)
    graph.set_input(node, 2, graph.add_quantized(name, values, quantizer, node))


def _unit(graph: Graph, node: NodeProto) -> np.ndarray | None:
    """Give input scale x weight scale; None where one of them is not known."""
    inputs, weights = (graph.find_quantizer(name) for name in node.input[:2])
    made = graph.maker(node.input[0])
    if inputs is None or weights is None or made is None or made.op_type != "DequantizeLinear":
        return None
    return np.asarray(inputs.scale * weights.scale) if inputs.scale.size == 1 else None


def example() -> "tuple[nn.Module, tuple[Tensor, ...]]":
    """Build two convolutions with a padding between, which has no quantizer of its own."""
    import torch
    from torch import nn

    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ZeroPad2d(1), nn.Conv2d(8, 4, 3))
    return nn.Sequential(*layers), (torch.randn(16, 3, 16, 16),)


RULE = Rule(
    name="bias-scale",
    effect="wrong",
    where="an int32 bias that is not in units of input scale x weight scale",
    why="the NPU reads it in these units, whatever scale stands beside it",
    remedy="the bias in these units; in float where one of the two is not known",
    find=find,
    repair=repair,
    example=Example(example, ("W8A16", "W8A8"), writer="aimet"),
)
