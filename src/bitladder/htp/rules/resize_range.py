"""Resizing whose output has a range of its own: QuantSim gives it one, and values between others lie within theirs."""

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
    """Give those by the nearest or by linear weights: bicubic ones overshoot."""
    for node in graph.of_type("Resize"):
        before, after = graph.find_quantizer(node.input[0]), graph.find_quantizer(node.output[0])
        within = graph.attribute(node, "mode", b"nearest") in (b"nearest", b"linear")
        if within and before is not None and after is not None and not before.same_as(after):
            yield node


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Give the output the input's range."""
    graph.set_quantizer(node, graph.quantizer(node.input[0]))


def example() -> "tuple[nn.Module, tuple[Tensor, ...]]":
    """Build one between two convolutions, as at the end of a segmentation network."""
    import torch
    from torch import Tensor, nn
    from torch.nn.functional import interpolate

    class Segmenter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

        def forward(self, image: Tensor) -> Tensor:
            return self.head(interpolate(self.stem(image), scale_factor=2.0, mode="bilinear"))

    return Segmenter(), (torch.randn(16, 3, 8, 8),)


RULE = Rule(
    name="resize-range",
    effect="refused",
    where="a Resize whose output has another range than its input, on a SoC without FP16",
    why="the NPU resizes integers within one range; with two it computes in float, where the SoC has that",
    remedy="the input's range for the output, which holds it",
    find=find,
    repair=repair,
    example=Example(example, ("W8A16", "W8A8"), soc="QCS6490"),
    changes="values that the output's own range would clip, which are kept",
)
