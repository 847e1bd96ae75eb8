"""A BatchNormalization that no layer before it takes: DenseNet's order, pre-activation ResNets, a norm at the input."""

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

MOST_STEPS = 2.0**30
"""Of a bias, in input scale x weight scale: 32 bits hold them, and what the NPU adds for zero points."""


def find(graph: Graph, soc: Soc) -> Iterator[NodeProto]:
    """Give the BatchNormalizations of a QDQ graph whose parameters are constants."""
    for node in graph.of_type("BatchNormalization"):
        rank = len(graph.shape(node.input[0]) or ())
        if (
            graph.is_quantized
            and rank in (3, 4, 5)
            and all(graph.find_constant(one) is not None for one in node.input[1:])
        ):
            yield node


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Put a depthwise 1x1 convolution in its place, with 8-bit weights per channel and an int32 bias."""
    gamma, beta, mean, variance = (graph.constant(name).astype(np.float64) for name in node.input[1:])
    factor = gamma / np.sqrt(variance + graph.attribute(node, "epsilon", 1e-5))
    bias = beta - mean * factor
    rank = len(graph.shape(node.input[0]) or ())
    scale = np.maximum(np.abs(factor), 1e-9) / 127
    before = graph.find_quantizer(node.input[0])
    if before is not None and before.scale.size == 1:
        scale = np.maximum(scale, np.abs(bias) / float(before.scale) / MOST_STEPS)
    zeros = np.zeros(len(factor), np.int64)
    name = node.name or node.output[0]
    weights = factor.reshape(-1, *[1] * (rank - 1))
    inputs = [
        node.input[0],
        graph.add_quantized(f"{name}_weight", weights, Quantizer(scale, zeros, TensorProto.INT8, 0), node),
    ]
    if before is not None and before.scale.size == 1:
        unit = Quantizer(float(before.scale) * scale, zeros, TensorProto.INT32, 0)
        inputs.append(graph.add_quantized(f"{name}_bias", bias, unit, node))
    else:
        inputs.append(graph.add_constant(f"{name}_bias", bias.astype(np.float32)))
    graph.become(node, "Conv", inputs, group=len(factor), kernel_shape=[1] * (rank - 2))


def example() -> "tuple[nn.Module, tuple[Tensor, ...]]":
    """Build a pre-activation: convolution, ReLU, norm, ReLU, convolution."""
    import torch
    from torch import nn

    norm = nn.BatchNorm2d(8)
    norm.running_mean = torch.randn(8)
    norm.running_var = torch.rand(8) + 0.5
    nn.init.uniform_(norm.weight, 0.2, 2)
    nn.init.normal_(norm.bias)
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), norm, nn.ReLU(), nn.Conv2d(8, 4, 3))
    return nn.Sequential(*layers), (torch.randn(16, 3, 16, 16),)


RULE = Rule(
    name="batch-norm",
    effect="wrong",
    where="a BatchNormalization that is not folded into a layer before it",
    why="the NPU takes its float bias amiss: the channel with the largest is off by it",
    remedy="a depthwise 1x1 convolution in its place, with an int32 bias",
    find=find,
    repair=repair,
    example=Example(example, ("W8A16", "W8A8", "W4A8")),
)
