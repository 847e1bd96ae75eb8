"""A layer from a 16-bit input straight to an 8-bit output, on v68 and v69: QuantSim's keys and values of attention."""

from collections.abc import Iterator

from onnx import NodeProto

from bitladder.htp.graph import Graph
from bitladder.htp.rule import OLD, Example, Rule
from bitladder.htp.rules.attention import example
from bitladder.socs import Soc

__all__ = ["RULE"]


def find(graph: Graph, soc: Soc) -> Iterator[NodeProto]:
    """Give the fully connected layers (of one with bias the addition) that leave 16 bits for 8.

    And products of two tensors of 8 bits that give 16: there the layer's output is the first operand too.
    """
    if soc.arch not in OLD:
        return
    for node in graph.of_type("MatMul", "Gemm", "Add"):
        layer = _product(graph, node) if node.op_type == "Add" else node
        narrows = layer is not None and graph.bits(layer.input[0]) == 16 and graph.bits(node.output[0]) == 8
        if narrows or _widens(graph, node):
            yield node


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Put a 16-bit quantizer of the same range ahead of the 8-bit output; of such a product, of its first operand."""
    if _widens(graph, node):
        graph.quantize_input(node, 0, graph.quantizer(node.input[0]).of_bits(16))
    else:
        graph.quantize_output(node, graph.quantizer(node.output[0]).of_bits(16))


def _widens(graph: Graph, node: NodeProto) -> bool:
    if node.op_type != "MatMul" or graph.find_constant(node.input[1]) is not None:
        return False
    return [graph.bits(name) for name in (*node.input, *node.output)] == [8, 8, 16]


def _product(graph: Graph, node: NodeProto) -> NodeProto | None:
    """Find the MatMul whose bias a node adds; None where it adds something else."""
    made = (graph.maker(name) for name in node.input)
    return next((one for one in made if one is not None and one.op_type == "MatMul"), None)


RULE = Rule(
    name="narrow-linear",
    effect="refused",
    where="a fully connected layer with a 16-bit input and an 8-bit output, or a product of two 8-bit tensors with a"
    " 16-bit output, on v68 and v69 (attention at W8A16)",
    why="these take neither",
    remedy="a 16-bit quantizer ahead of the 8-bit one; of the product, ahead of its first operand",
    find=find,
    repair=repair,
    example=Example(example, ("W8A16", "W4A16"), soc="SM8450"),
)
