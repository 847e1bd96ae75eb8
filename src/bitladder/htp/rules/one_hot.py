"""Truth values that become numbers, such as a one-hot code, and go into a quantized layer."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnx import NodeProto, TensorProto, helper, numpy_helper

from bitladder.htp.graph import Graph
from bitladder.htp.quantizer import Quantizer
from bitladder.htp.rule import Example, Rule
from bitladder.socs import Soc

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["RULE"]

TRUTH = {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or", "Xor"}


def find(graph: Graph, soc: Soc) -> Iterator[NodeProto]:
    """Give the casts of truth values to float that are not quantized, and are read by what has quantized weights."""
    for node in graph.of_type("Cast"):
        made, readers = graph.maker(node.input[0]), graph.readers(node.output[0])
        plain = graph.attribute(node, "to") == TensorProto.FLOAT and not graph.bits(node.output[0])
        layers = [one for one in readers if len(one.input) > 1 and graph.bits(one.input[1])]
        if plain and layers and made is not None and made.op_type in TRUTH:
            yield node


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Quantize them, which 0 and 1 come through unharmed, by the bits of what is made of them."""
    bits = max(graph.bits(one.output[0]) for one in graph.readers(node.output[0]))
    graph.quantize_output(node, Quantizer.of_range(0, 1, 16 if bits == 16 else 8))


def example() -> "tuple[nn.Module, tuple[Tensor, ...]]":
    """Build an embedding of 12 letters by their one-hot code, as the file classifier magika has it."""
    from pathlib import Path

    import torch

    from bitladder.tasks.onnx_model import OnnxNetwork

    constants = {
        "letters": torch.arange(16, dtype=torch.int32).reshape(1, 1, 16),
        "last": torch.tensor([2]),
        "embedding": torch.randn(16, 8),
        "weights": torch.randn(8, 4),
    }
    nodes = [
        helper.make_node("Unsqueeze", ["x0", "last"], ["column"], "column"),
        helper.make_node("Equal", ["column", "letters"], ["same"], "same"),
        helper.make_node("Cast", ["same"], ["code"], "code", to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["code", "embedding"], ["embedded"], "embed"),
        helper.make_node("Tanh", ["embedded"], ["inner"], "act"),
        helper.make_node("MatMul", ["inner", "weights"], ["y"], "head"),
    ]
    ends = [
        helper.make_tensor_value_info("x0", TensorProto.INT32, [1, 12]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 12, 4]),
    ]
    tensors = [numpy_helper.from_array(values.numpy(), name) for name, values in constants.items()]
    graph = helper.make_graph(nodes, "letters", ends[:1], ends[1:], tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return OnnxNetwork(proto, Path("letters.onnx")), (torch.randint(0, 16, (16, 12), dtype=torch.int32),)


RULE = Rule(
    name="one-hot",
    effect="refused",
    where="truth values cast to float (a one-hot code) that go into a layer with quantized weights",
    why="the layer's input is left in float, and the NPU takes no float with quantized weights",
    remedy="a quantizer of 0 to 1",
    find=find,
    repair=repair,
    example=Example(example, ("W8A16", "W8A8")),
)
