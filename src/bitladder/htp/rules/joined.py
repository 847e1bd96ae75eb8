"""A Concat that widens: its output has 16 bits, and what it joins has fewer."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnx import NodeProto

from bitladder.htp.graph import Graph
from bitladder.htp.rule import Example, Rule
from bitladder.socs import Soc

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["RULE"]


def find(graph: Graph, soc: Soc) -> Iterator[NodeProto]:
    """Give those on a SoC without FP16; the others widen by themselves."""
    if "FP16" in soc.takes:
        return
    for node in graph.of_type("Concat"):
        if graph.bits(node.output[0]) == 16 and any(0 < graph.bits(name) < 16 for name in node.input):
            yield node


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Widen each input before it, in the output's range, which changes no value."""
    for index, name in enumerate(node.input):
        if 0 < graph.bits(name) < 16:
            graph.quantize_input(node, index, graph.quantizer(node.output[0]))


def example() -> "tuple[nn.Module, tuple[Tensor, ...]]":
    """Build a detector's head: boxes in pixels and scores from 0 to 1, which QuantSim gives ranges of their own."""
    import torch
    from torch import Tensor, nn

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.boxes, self.scores = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 8, 3)

        def forward(self, image: Tensor) -> Tensor:
            return torch.cat([(self.boxes(image) + 3) * 32, torch.sigmoid(self.scores(image))], 1)

    return Head(), (torch.randn(16, 3, 16, 16),)


RULE = Rule(
    name="joined",
    effect="refused",
    where="a Concat whose output has 16 bits and an input fewer, on a SoC without FP16",
    why="such a SoC joins only what has one type",
    remedy="16-bit quantizers of the Concat's range before it",
    find=find,
    repair=repair,
    example=Example(example, ("W8A8", "W4A8"), soc="QCS6490"),
)
