"""The bias of a layer whose weights have a scale for each block of input channels, where it is in float."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from onnx import NodeProto, TensorProto

from bitladder.htp.graph import Graph
from bitladder.htp.quantizer import Quantizer
from bitladder.htp.rule import Example, Rule
from bitladder.htp.rules.channel_scale import output_of
from bitladder.socs import Soc

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["RULE"]

STEPS = 2**24
"""Of the largest bias. Beside such weights the NPU reads a bias by the scale that stands there, so it may be any."""


def find(graph: Graph, soc: Soc) -> Iterator[NodeProto]:
    """Give the layers with such weights and a float bias, their own or one that an Add behind a MatMul adds."""
    if not soc.takes_blocks:
        return
    for node in graph.of_type("Conv", "Gemm", "MatMul"):
        weights = graph.find_quantizer(node.input[1])
        if weights is None or not weights.block_size:
            continue
        owner, index = _bias(graph, node)
        if owner is None or (owner is not node and output_of(graph, owner) is None):
            continue
        if graph.find_constant(owner.input[index]) is not None and not graph.bits(owner.input[index]):
            yield node


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Make it int32 in a Conv or a Gemm; behind a MatMul, make the Add one of two quantized tensors."""
    owner, index = _bias(graph, node)
    assert owner is not None
    name = owner.input[index]
    values = graph.constant(name)
    if owner is node:
        unit = float(np.abs(values).max()) or 1.0
        own = Quantizer(np.array(unit / STEPS), np.array(0), TensorProto.INT32)
    else:
        output = output_of(graph, owner)
        assert output is not None
        low, high = float(values.min()), float(values.max())
        # what of the product lies outside is clipped once the bias is added, too
        graph.quantize_output(node, Quantizer.of_range(output.low - high, output.high - low, output.bits))
        own = Quantizer.of_range(low, max(high, output.step), output.bits)
    graph.set_input(owner, index, graph.add_quantized(name, values, own, owner))


def _bias(graph: Graph, node: NodeProto) -> tuple[NodeProto | None, int]:
    """Give the node that adds a layer's bias, None where there is none, and which of its inputs that is."""
    if node.op_type != "MatMul":
        return (node if len(node.input) > 2 and node.input[2] else None), 2
    readers = graph.readers(node.output[0])
    if len(readers) != 1 or readers[0].op_type != "Add" or graph.is_output(node.output[0]):
        return None, 0
    return readers[0], 1 - list(readers[0].input).index(node.output[0])


def example() -> "tuple[nn.Module, tuple[Tensor, ...]]":
    """Build a convolution of 1 x 1 with blocks of 16 input channels."""
    import torch
    from torch import nn

    return nn.Sequential(nn.Conv2d(64, 32, 1)), (torch.randn(16, 64, 8, 8),)


RULE = Rule(
    name="block-bias",
    effect="wrong",
    where="a layer whose weights have a scale for each block of input channels, and whose bias is in float",
    why="a Conv comes out wrong; a Gemm, or a MatMul with an Add behind it, is refused",
    remedy="the bias as int32; behind a MatMul, 16-bit quantizers for it and for the product",
    find=find,
    repair=repair,
    example=Example(example, ("W8A16", "W4A16"), weights_block=16),
)
