"""A layer whose input and output have different bits: the neighbours of a layer that a mixed rung raised."""

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
    """Give layers with weights from 8 bits to 16, or from 16 to 8.

    Of a MatMul only one with a bias, which is fused with it: alone it takes both.
    """
    for node in graph.of_type("Conv", "ConvTranspose", "Gemm", "MatMul"):
        if graph.find_constant(node.input[1]) is not None:
            end = _end(graph, node)
            if end is not None and {graph.bits(node.input[0]), graph.bits(end.output[0])} == {8, 16}:
                yield node


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Have the layer compute at 16 bits: a 16-bit quantizer behind the 8-bit input, or ahead of the 8-bit output."""
    end = _end(graph, node)
    assert end is not None
    if graph.bits(node.input[0]) == 8:  # each of its values is one of the 16-bit quantizer's
        graph.quantize_input(node, 0, graph.quantizer(node.input[0]).of_bits(16))
    else:
        graph.quantize_output(end, graph.quantizer(end.output[0]).of_bits(16))


def _end(graph: Graph, layer: NodeProto) -> NodeProto | None:
    """Find the node that gives a layer's quantized output: itself, or what adds its bias, or an activation behind."""
    end = layer
    if layer.op_type == "MatMul":
        end = _only_reader(graph, layer, "Add") or layer
        if end is layer:
            return None
    if not graph.bits(end.output[0]):
        end = _only_reader(graph, end, "Relu", "Clip") or end
    return end


def _only_reader(graph: Graph, node: NodeProto, *kinds: str) -> NodeProto | None:
    readers = graph.readers(node.output[0])
    alone = len(readers) == 1 and readers[0].op_type in kinds and not graph.is_output(node.output[0])
    return readers[0] if alone else None


def example() -> "tuple[nn.Module, tuple[Tensor, ...]]":
    """Build three convolutions, the middle one of which is raised to 16-bit activations."""
    import torch
    from torch import nn

    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)
    return nn.Sequential(*layers), (torch.randn(16, 3, 12, 12),)


RULE = Rule(
    name="activation-bits",
    effect="refused",
    where="a convolution or a fully connected layer with an 8-bit input and a 16-bit output, or the other way round, as"
    " beside a layer that a mixed rung raised",
    why="it takes both at the same bits only",
    remedy="a 16-bit quantizer of the same range behind the 8-bit input, or ahead of the 8-bit output",
    find=find,
    repair=repair,
    example=Example(example, ("W8A8", "W4A8"), layers={"2": (8, 16)}),
    changes="an 8-bit output that is rounded to 16 bits first, which moves it by a step where it lies 1/514 of one from"
    " the middle between two",
)
