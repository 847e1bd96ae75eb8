"""Softplus at 16 bits and in FP16; Mish is made of it."""

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

SPAN = 4.1  # of the Log's output: see rules/log.py


def find(graph: Graph, soc: Soc) -> Iterator[NodeProto]:
    """Give those of a float graph, and those with 16-bit inputs."""
    for node in graph.of_type("Softplus"):
        if not graph.is_quantized or graph.bits(node.input[0]) == 16:
            yield node


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Put relu(x) + log(1 + exp(-|x|)) in its place, with 16-bit quantizers where the graph has them."""
    name, values = node.name, node.input[0]
    before = graph.quantizer(values) if graph.is_quantized else None
    low, high = (before.low, before.high) if before is not None else (0.0, 0.0)
    far = max(-low, high)

    def put(kind: str, inputs: list[str], lowest: float, highest: float) -> str:
        made = graph.add_node(kind, inputs, f"{name}_{kind.lower()}", node)
        return made if before is None else graph.add_quantizer(made, Quantizer.of_range(lowest, highest, 16), node)

    if before is None:
        one = graph.add_constant(f"{name}_one", np.array(1, graph.dtype(values)))
    else:
        one = graph.add_quantized(f"{name}_one", np.array(1.0), Quantizer.of_range(0, 1, 16), node)
    distance = put("Neg", [put("Abs", [values], 0, far)], -far, 0)
    rest = put("Log", [put("Add", [put("Exp", [distance], 0, 1), one], 0, 2)], 0.7 - SPAN, 0.7)
    sum_ = [put("Relu", [values], 0, high), rest]
    if before is not None and not graph.bits(node.output[0]):
        _quantize_mish(graph, node, high)
    graph.become(node, "Add", sum_)


def _quantize_mish(graph: Graph, node: NodeProto, high: float) -> None:
    """Give quantizers to what Mish leaves without: this op and the Tanh behind it."""
    tanhs = [one for one in graph.readers(node.output[0]) if one.op_type == "Tanh"]
    graph.quantize_output(node, Quantizer.of_range(0, float(np.logaddexp(0, high)), 16))
    for tanh in tanhs:
        if not graph.bits(tanh.output[0]):
            graph.quantize_output(tanh, Quantizer.of_range(0, 1, 16))


def example() -> "tuple[nn.Module, tuple[Tensor, ...]]":
    """Build a Softplus and a Mish between convolutions."""
    import torch
    from torch import nn

    layers = (nn.Conv2d(3, 8, 3), nn.Softplus(), nn.Conv2d(8, 8, 3), nn.Mish(), nn.Conv2d(8, 4, 1))
    return nn.Sequential(*layers), (torch.randn(16, 3, 16, 16),)


RULE = Rule(
    name="softplus",
    effect="inaccurate",
    where="a Softplus, also that of a Mish, at 16 bits or in FP16",
    why="the NPU's op is coarse",
    remedy="relu(x) + log(1 + exp(-|x|)) in its place",
    find=find,
    repair=repair,
    example=Example(example, ("FP16", "W8A16", "W4A16")),
)
