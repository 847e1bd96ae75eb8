"""Activations right behind a layer, in FP16."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from onnx import NodeProto

from bitladder.htp.graph import Graph
from bitladder.htp.rule import Example, Rule
from bitladder.socs import Soc

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["RULE"]

BOUND = 60_000.0  # nearly all that FP16 has

LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Add"}


def find(graph: Graph, soc: Soc) -> Iterator[NodeProto]:
    """Give the activations of a float graph that the NPU fuses with the layer before them."""
    if graph.is_quantized:
        return
    for node in graph.of_type("Tanh", "Sigmoid", "Gelu"):
        before = graph.maker(node.input[0])
        if before is not None and before.op_type in LAYERS:
            yield node


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Put a Clip that clips nothing between."""
    like = graph.dtype(node.input[0])
    bounds = [graph.add_constant(f"{node.name}_bound", np.array(one, like)) for one in (-BOUND, BOUND)]
    graph.set_input(node, 0, graph.add_node("Clip", [node.input[0], *bounds], f"{node.name}_apart", node))


def example() -> "tuple[nn.Module, tuple[Tensor, ...]]":
    """Build a convolution with a tanh, and a second one."""
    import torch
    from torch import nn

    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 4, 1)), (torch.randn(16, 3, 16, 16),)


RULE = Rule(
    name="half-tables",
    effect="inaccurate",
    where="a Tanh, Sigmoid (SiLU) or GELU right behind a layer in FP16",
    why="the NPU fuses it with the layer, by a coarser table",
    remedy="a Clip between that clips nothing",
    find=find,
    repair=repair,
    example=Example(example, ("FP16",)),
)
