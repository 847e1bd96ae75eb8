"""A constant in float, on SoCs whose NPU has no FP16."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnx import NodeProto

from bitladder.htp.graph import Graph
from bitladder.htp.quantizer import Quantizer
from bitladder.htp.rule import Example, Rule
from bitladder.socs import Soc

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["RULE"]


def find(graph: Graph, soc: Soc) -> Iterator[NodeProto]:
    """Give elementwise ops of a quantized tensor and a constant in float. Biases of layers are none of them."""
    if "FP16" in soc.takes or not graph.is_quantized:
        return
    for node in graph.of_type("Add", "Sub", "Mul", "Div", "Max", "Min"):
        index = _constant(graph, node)
        if index is not None and graph.bits(node.output[0]):
            yield node


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Quantize the constant, by its own range."""
    index = _constant(graph, node)
    assert index is not None
    values = graph.constant(node.input[index])
    own = Quantizer.of_range(float(values.min()), float(values.max()), graph.bits(node.output[0]))
    graph.set_input(node, index, graph.add_quantized(node.input[index], values, own, node))


def _constant(graph: Graph, node: NodeProto) -> int | None:
    """Tell which input is a constant in float beside a quantized tensor; None where there is none."""
    for index, name in enumerate(node.input):
        values, other = graph.find_constant(name), graph.maker(node.input[1 - index])
        plain = values is not None and values.dtype.kind == "f" and not graph.bits(name)
        if plain and other is not None and other.op_type == "DequantizeLinear":
            return index
    return None


def example() -> "tuple[nn.Module, tuple[Tensor, ...]]":
    """Build an addition of a number between two convolutions."""
    import torch
    from torch import Tensor, nn

    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

        def forward(self, image: Tensor) -> Tensor:
            return self.last(self.first(image) + 0.1)

    return Shift(), (torch.randn(16, 3, 16, 16),)


RULE = Rule(
    name="float-constant",
    effect="refused",
    where="an elementwise op with a constant in float, on a SoC without FP16",
    why="such a SoC has no float at all",
    remedy="the constant quantized",
    find=find,
    repair=repair,
    example=Example(example, ("W8A16", "W8A8", "W4A8"), soc="QCS6490", writer="plain"),
)
