"""A layer from a 16-bit input straight to an 8-bit output, on v68 and v69: QuantSim's keys and values of attention."""

from collections.abc import Iterator

from onnx import NodeProto

from bitladder.htp.graph import Graph
from bitladder.htp.rule import OLD, Example, Rule
from bitladder.htp.rules.attention import example
from bitladder.socs import Soc

__all__ = ["RULE"]


def find(graph: Graph, soc: Soc) -> Iterator[NodeProto]:
    """Give the fully connected layers (of one with bias the addition) that leave 16 bits for 8."""
    if soc.arch not in OLD:
        return
    for node in graph.of_type("MatMul", "Gemm", "Add"):
        layer = _product(graph, node) if node.op_type == "Add" else node
        if layer is not None and graph.bits(layer.input[0]) == 16 and graph.bits(node.output[0]) == 8:
            yield node


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Give it a 16-bit quantizer of the same range first."""
    graph.quantize_output(node, graph.quantizer(node.output[0]).of_bits(16))


def _product(graph: Graph, node: NodeProto) -> NodeProto | None:
    """Find the MatMul whose bias a node adds; None where it adds something else."""
    made = (graph.maker(name) for name in node.input)
    return next((one for one in made if one is not None and one.op_type == "MatMul"), None)


RULE = Rule(
    name="narrow-linear",
    effect="refused",
    where="a fully connected layer with a 16-bit input and an 8-bit output, on v68 and v69 (attention at W8A16)",
    why="these take no such layer",
    remedy="a 16-bit quantizer ahead of the 8-bit one",
    find=find,
    repair=repair,
    example=Example(example, ("W8A16", "W4A16"), soc="SM8450"),
)
