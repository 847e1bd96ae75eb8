"""A channel whose scale is too small for the NPU's multiplier, or for its bias: one with next to no weights, mostly."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from onnx import NodeProto

from bitladder.htp.graph import Graph
from bitladder.htp.quantizer import Quantizer
from bitladder.htp.rule import Example, Rule
from bitladder.htp.rules.bias_scale import repair as rescale_bias
from bitladder.socs import Soc

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["RULE", "output_of"]

LEAST_RATIO = 2.0**-24
"""Of input scale x weight scale to the output's, at 16 bits. It is sharp. This and the next are the same on all Hexagon
generations."""

DEPTHWISE_RATIO, SPREAD = 2.0**-15, 7
"""The least ratio for other kernels: those of depthwise convolutions of 1 x 1, or of stride 2, unless the exponents of
their channels' ratios are further apart than this. In [2^-16, 2^-15) an output overflows and comes out as 0; below, so
does all that a 1 x 1 gives."""

MOST_STEPS = 2.0**31
"""Of a bias, in input scale x weight scale: the NPU holds it in 32 bits."""

ROOM = 1.01
"""How far a scale is raised above what is just enough, for float32 to round."""


def find(graph: Graph, soc: Soc) -> Iterator[NodeProto]:
    """Give the layers with such channels."""
    for node in graph.of_type("Conv", "Gemm", "MatMul"):
        weights, least = graph.find_quantizer(node.input[1]), _least(graph, node)
        if weights is not None and least is not None and (weights.scale < least).any():
            yield node


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Raise these channels' scales; their weights are rounded to the larger steps."""
    weights, least = graph.find_quantizer(node.input[1]), _least(graph, node)
    assert weights is not None and least is not None
    raised = np.where(weights.scale < least, ROOM * least, weights.scale).astype(np.float32)
    values = graph.constant(node.input[1])
    tensor = graph.add_quantized(f"{node.name}_weights", values, replace(weights, scale=raised), node)
    graph.set_input(node, 1, tensor)
    if len(node.input) > 2 and graph.find_quantizer(node.input[2]) is not None:
        rescale_bias(graph, node, soc)  # an integer bias is in units of these scales


def _least(graph: Graph, node: NodeProto) -> np.ndarray | None:
    """Give the least scale that each output channel's weights may have; None where nothing is known of it."""
    inputs, weights = (graph.find_quantizer(name) for name in node.input[:2])
    if inputs is None or weights is None or inputs.scale.size > 1 or weights.scale.size == 1 or weights.block_size:
        return None  # blocks have kernels of their own, which are right
    if graph.find_constant(node.input[1]) is None:
        return None
    source, least = inputs.scale.astype(np.float64), np.zeros(weights.scale.shape)
    output = output_of(graph, node)
    if inputs.bits == 16 and output is not None and output.scale.size == 1:
        unit = output.scale.astype(np.float64) / source
        least = np.maximum(least, _least_ratio(graph, node, weights.scale / unit) * unit)
    bias = graph.find_constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if bias is not None and bias.size == least.size:
        least = np.maximum(least, np.abs(bias.reshape(least.shape)) / source / MOST_STEPS)
    return least


def _least_ratio(graph: Graph, node: NodeProto, ratios: np.ndarray) -> float:
    """Give the least ratio that the kernel of a layer with these has bits for."""
    kernel, strides = graph.constant(node.input[1]).shape[2:], graph.attribute(node, "strides", [1])
    alone = graph.attribute(node, "group", 1) == ratios.size > 1
    if node.op_type != "Conv" or not alone or (set(kernel) != {1} and set(strides) != {2}):
        return LEAST_RATIO
    exponents = np.frexp(ratios)[1]
    least, most = np.frexp(DEPTHWISE_RATIO)[1] - 1, exponents.min() + SPREAD
    overflows = exponents.min() == least or (set(kernel) == {1} and exponents.min() < least)
    return DEPTHWISE_RATIO if overflows and exponents.max() <= most else LEAST_RATIO


def output_of(graph: Graph, node: NodeProto) -> Quantizer | None:
    """Give the output's quantizer, which may stand behind an activation."""
    found, readers = graph.find_quantizer(node.output[0]), graph.readers(node.output[0])
    if found is None and len(readers) == 1 and readers[0].op_type in ("Relu", "Clip"):
        found = graph.find_quantizer(readers[0].output[0])
    return found


def example() -> "tuple[nn.Module, tuple[Tensor, ...]]":
    """Build a convolution one channel of which has faded, and whose outputs are larger than its inputs."""
    import torch
    from torch import nn

    first = nn.Conv2d(3, 8, 3)
    with torch.no_grad():
        first.weight.mul_(8)
        first.weight[0] *= 1e-7
        first.bias.zero_()  # type: ignore[union-attr]
    return nn.Sequential(first, nn.Conv2d(8, 4, 1)), (torch.randn(16, 3, 12, 12),)


RULE = Rule(
    name="channel-scale",
    effect="wrong",
    where="an output channel with next to no weights: at 16 bits input scale x weight scale is under 2^-24 of the"
    " output's scale (under 2^-15 where a depthwise convolution is 1 x 1 or of stride 2), or its bias is over 2^31 of"
    " their product",
    why="the NPU's multiplier has no bits left, and the channel is the least or the largest value there is; a depthwise"
    " convolution's outputs overflow to 0; the bias is cut to 32 bits",
    remedy="a larger scale for this channel's weights",
    find=find,
    repair=repair,
    example=Example(example, ("W8A16", "W4A16"), writer="plain"),
)
