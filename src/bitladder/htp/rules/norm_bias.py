"""The bias of a LayerNormalization or InstanceNormalization, where it is in float."""

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


def find(graph: Graph, soc: Soc) -> Iterator[NodeProto]:
    """Give the norms of 16-bit inputs, and of a SoC without FP16 all, whose bias is a constant in float.

    At 8 bits a float bias is as good as an integer one, or better.
    """
    for node in graph.of_type("LayerNormalization", "InstanceNormalization"):
        if len(node.input) < 3:
            continue
        bits, gamma = graph.bits(node.input[0]), graph.find_quantizer(node.input[1])
        known = bits and gamma is not None and gamma.scale.size == 1
        plain = graph.find_constant(node.input[2]) is not None and not graph.bits(node.input[2])
        if known and plain and (bits == 16 or "FP16" not in soc.takes):
            yield node


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Make its bias int32, in units of input scale x scale of gamma."""
    scale = graph.quantizer(node.input[0]).step * graph.quantizer(node.input[1]).step
    unit = Quantizer(np.array(scale), np.array(0), TensorProto.INT32)
    graph.set_input(node, 2, graph.add_quantized(node.input[2], graph.constant(node.input[2]), unit, node))


def example() -> "tuple[nn.Module, tuple[Tensor, ...]]":
    """Build a norm and a linear layer on 16 tokens: of the numbers of tokens tried, only 16 is wrong altogether."""
    import torch
    from torch import nn

    return nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 64)), (torch.randn(16, 16, 64),)


RULE = Rule(
    name="norm-bias",
    effect="wrong",
    where="a 16-bit LayerNormalization or InstanceNormalization whose bias is in float",
    why="the NPU adds the bias with less precision; a Linear right behind one on 16 tokens is wrong altogether",
    remedy="its bias as int32 in units of input scale x scale of gamma",
    find=find,
    repair=repair,
    example=Example(example, ("W8A16", "W4A16"), writer="plain"),
)
