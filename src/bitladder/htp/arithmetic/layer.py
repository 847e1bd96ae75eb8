"""A layer of a QDQ graph as the NPU runs it: an op, the activation that is fused with it, and the quantizers around."""

from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from bitladder.htp.graph import Graph
from bitladder.htp.quantizer import Quantizer

__all__ = ["Layer", "Operand", "read_layer"]

_CLIPS = {"Relu", "Clip"}


@dataclass(frozen=True, eq=False)
class Operand:
    """What a layer reads: a quantized tensor, by the name of its integers; or a constant, quantized or in float."""

    name: str
    quantizer: Quantizer | None
    integers: np.ndarray | None = None
    """Those of a quantized constant."""
    floats: np.ndarray | None = None
    """The values of a constant that no quantizer holds."""

    @property
    def is_tensor(self) -> bool:
        """Whether it depends on the graph's inputs, and is quantized."""
        return self.quantizer is not None and self.integers is None


@dataclass(frozen=True, eq=False)
class Layer:
    """An op between quantizers, with the bias that is added and the activation that clips before the output's one."""

    node: NodeProto
    graph: Graph
    operands: tuple[Operand, ...]
    output: str
    """The name of the output's integers."""
    quantizer: Quantizer
    """The output's."""
    bias: Operand | None = None
    """What an Add of its own adds to a product of matrices."""
    low: float = -np.inf
    high: float = np.inf

    @property
    def tensors(self) -> tuple[Operand, ...]:
        """The operands that are no constants."""
        return tuple(one for one in self.operands if one.is_tensor)

    @property
    def levels(self) -> tuple[int, int]:
        """The least and the largest integer that the output can have, the fused activation's ends among them."""
        low, high = self.quantizer.levels
        ends = (self.low, self.high) / self.quantizer.scale.astype(np.float64) + self.quantizer.zero_point
        return int(np.clip(np.rint(ends[0]), low, high)), int(np.clip(np.rint(ends[1]), low, high))

    def has_bits(self, bits: int) -> bool:
        """Whether all tensors and the output are of these bits, with a scale for the whole tensor."""
        quantizers = [self.quantizer, *(one.quantizer for one in self.tensors if one.quantizer is not None)]
        return all(one.bits == bits and one.scale.size == 1 for one in quantizers)


def read_layer(graph: Graph, quantize: NodeProto) -> Layer | None:
    """Read the layer that ends with a QuantizeLinear; None where an input of its op is neither quantized nor constant.

    The op's output must be read by nothing else: what others read in float is not fused.
    """
    quantizer = graph.quantizer_of(quantize)
    tensor, low, high = quantize.input[0], -np.inf, np.inf
    node = _alone(graph, tensor)
    if node is None or quantizer is None:
        return None
    if node.op_type in _CLIPS and (before := _alone(graph, node.input[0])) is not None and not _is_qdq(before):
        low, high = _ends(graph, node)
        node = before
    bias = None
    if node.op_type == "Add" and (found := _matmul_with_bias(graph, node)) is not None:
        node, bias = found
    operands = tuple(_operand(graph, name) for name in node.input if name)
    if _is_qdq(node) or None in operands:
        return None
    known = tuple(one for one in operands if one is not None)
    return replace(Layer(node, graph, known, quantize.output[0], quantizer, bias), low=low, high=high)


def _is_qdq(node: NodeProto) -> bool:
    return node.op_type in ("QuantizeLinear", "DequantizeLinear")


def _alone(graph: Graph, tensor: str) -> NodeProto | None:
    """Find the node that makes a tensor which one node reads."""
    alone = len(graph.readers(tensor)) == 1 and not graph.is_output(tensor)
    return graph.maker(tensor) if alone else None


def _ends(graph: Graph, node: NodeProto) -> tuple[float, float]:
    if node.op_type == "Relu":
        return 0.0, np.inf
    ends = [graph.find_constant(name) if name else None for name in [*node.input[1:], "", ""][:2]]
    return (
        -np.inf if ends[0] is None else float(ends[0]),
        np.inf if ends[1] is None else float(ends[1]),
    )


def _matmul_with_bias(graph: Graph, add: NodeProto) -> tuple[NodeProto, Operand] | None:
    for name, other in (tuple(add.input), tuple(reversed(add.input))):
        made, bias = _alone(graph, name), _operand(graph, other)
        if made is not None and made.op_type == "MatMul" and bias is not None and not bias.is_tensor:
            return made, bias
    return None


def _operand(graph: Graph, name: str) -> Operand | None:
    node = graph.maker(name)
    if node is not None and node.op_type == "DequantizeLinear":
        quantizer = graph.quantizer_of(node)
        if quantizer is None:
            return None
        return Operand(node.input[0], quantizer, integers=graph.find_constant(node.input[0]))
    values = graph.find_constant(name)
    return None if values is None else Operand(name, None, floats=values)
