"""An ONNX graph as the rules read it: who makes a tensor, who reads it, how it is quantized."""

from collections.abc import Iterator
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from bitladder.htp.quantizer import Quantizer, along

__all__ = ["ReadGraph", "read_by"]


class ReadGraph:
    """A graph and what follows from it. Edits keep the order of nodes true; `proto` is the model as it is now."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto

    @property
    def nodes(self) -> list[NodeProto]:
        """The nodes, in order; a list of its own, so that a caller may edit the graph as it goes through them."""
        return list(self.proto.graph.node)

    @cached_property
    def is_quantized(self) -> bool:
        """Whether it is in QDQ form; else it is taken to run in FP16."""
        return any(node.op_type == "QuantizeLinear" for node in self.proto.graph.node)

    @cached_property
    def _domain(self) -> str:
        """Give the domain of the quantizers: before opset 21, only ONNX Runtime's own take 16 bits."""
        return next((node.domain for node in self.proto.graph.node if node.op_type == "QuantizeLinear"), "")

    @cached_property
    def _makers(self) -> dict[str, NodeProto]:
        return {output: node for node in self.proto.graph.node for output in node.output if output}

    @cached_property
    def _readers(self) -> dict[str, list[NodeProto]]:
        found: dict[str, list[NodeProto]] = {}
        for node in self.proto.graph.node:
            for name in dict.fromkeys(read_by(node)):
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def _constants(self) -> dict[str, TensorProto]:
        return {tensor.name: tensor for tensor in self.proto.graph.initializer}

    @cached_property
    def _types(self) -> dict[str, onnx.TypeProto.Tensor]:
        graph = onnx.shape_inference.infer_shapes(self.proto).graph
        values = (*graph.value_info, *graph.input, *graph.output)
        return {value.name: value.type.tensor_type for value in values}

    @cached_property
    def _names(self) -> set[str]:
        named = {name for node in self.proto.graph.node for name in (node.name, *node.input, *node.output)}
        return named | set(self._constants) | {value.name for value in self.proto.graph.input}

    def maker(self, tensor: str) -> NodeProto | None:
        """Find the node that makes a tensor; None of inputs and constants."""
        return self._makers.get(tensor)

    def readers(self, tensor: str) -> list[NodeProto]:
        """Find the nodes that read a tensor."""
        return self._readers.get(tensor, [])

    def is_output(self, tensor: str) -> bool:
        """Whether it is an output of the whole graph."""
        return any(value.name == tensor for value in self.proto.graph.output)

    def shape(self, tensor: str) -> list[int] | None:
        """Give a tensor's shape, 0 where a size is not known; None where nothing is."""
        constant, type = self._constants.get(tensor), self._types.get(tensor)
        if constant is not None:
            return list(constant.dims)
        return [dim.dim_value for dim in type.shape.dim] if type is not None and type.HasField("shape") else None

    def dtype(self, tensor: str) -> np.dtype:
        """Give the type of a tensor's values; float32 where it is not known."""
        constant, type = self._constants.get(tensor), self._types.get(tensor)
        number = constant.data_type if constant is not None else type.elem_type if type is not None else 0
        return np.dtype(helper.tensor_dtype_to_np_dtype(number or TensorProto.FLOAT))

    def find_constant(self, tensor: str) -> np.ndarray | None:
        """Give the values of a constant, dequantized where it is quantized; None of what depends on the inputs."""
        if tensor in self._constants:
            return numpy_helper.to_array(self._constants[tensor])
        node = self.maker(tensor)
        if node is None:
            return None
        if node.op_type == "Constant":
            return self._constant_node(node)
        if node.op_type == "Identity":  # exporters put one where two constants were equal
            return self.find_constant(node.input[0])
        if node.op_type == "DequantizeLinear" and node.input[0] in self._constants:
            quantizer = self.find_quantizer(tensor)
            if quantizer is None:
                return None
            stored = numpy_helper.to_array(self._constants[node.input[0]]).astype(np.float32)
            scale, zero_point = along(quantizer, stored.shape)
            return (stored - zero_point) * scale
        return None

    def constant(self, tensor: str) -> np.ndarray:
        """Give the values of a tensor that is known to be a constant."""
        values = self.find_constant(tensor)
        if values is None:
            raise KeyError(tensor)
        return values

    def find_quantizer(self, tensor: str) -> Quantizer | None:
        """Tell how a tensor is quantized that a DequantizeLinear gives or a QuantizeLinear alone reads; else None."""
        node = self.maker(tensor)
        if node is None or node.op_type != "DequantizeLinear":
            node = self.quantize_node(tensor)
        return None if node is None else self.quantizer_of(node)

    def quantizer(self, tensor: str) -> Quantizer:
        """Tell how a tensor is quantized that is known to be."""
        found = self.find_quantizer(tensor)
        if found is None:
            raise KeyError(tensor)
        return found

    def bits(self, tensor: str) -> int:
        """Give the bit-width of a quantized tensor, 0 of one in float."""
        found = self.find_quantizer(tensor)
        return 0 if found is None else found.bits

    def quantize_node(self, tensor: str) -> NodeProto | None:
        """Find the QuantizeLinear that is a tensor's only reader; None where there is another or none."""
        readers = self.readers(tensor)
        alone = len(readers) == 1 and readers[0].op_type == "QuantizeLinear" and not self.is_output(tensor)
        return readers[0] if alone else None

    def before(self, tensor: str) -> NodeProto | None:
        """Find the node that makes a tensor, seen through a quantizer between."""
        node = self.maker(tensor)
        while node is not None and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node = self.maker(node.input[0])
        return node

    def after(self, tensor: str) -> list[NodeProto]:
        """Find the nodes that read a tensor, seen through quantizers between."""
        found: list[NodeProto] = []
        for node in self.readers(tensor):
            through = node.op_type in ("QuantizeLinear", "DequantizeLinear")
            found += self.after(node.output[0]) if through else [node]
        return found

    def attribute(self, node: NodeProto, name: str, default: Any = None) -> Any:
        """Give a node's attribute."""
        return next((helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)

    def of_type(self, *kinds: str) -> Iterator[NodeProto]:
        """Give the nodes of these kinds of ops."""
        return (node for node in self.nodes if node.op_type in kinds)

    def elements(self, tensor: str) -> int | None:
        """Count the elements of a tensor; None where a size is not known."""
        shape = self.shape(tensor)
        return prod(shape) if shape is not None and all(shape) else None

    def quantizer_of(self, node: NodeProto) -> Quantizer | None:
        """Tell how a QuantizeLinear or DequantizeLinear quantizes; None where its scale is no constant."""
        scale, block = self._constants.get(node.input[1]), self.attribute(node, "block_size", 0)
        if scale is None or (len(scale.dims) > 1 and not block):
            return None
        axis = self.attribute(node, "axis", 1)
        values = numpy_helper.to_array(scale)
        zero = self._constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if zero is None:
            return Quantizer(values, np.zeros(values.shape, np.int64), TensorProto.UINT8, axis, block)
        return Quantizer(values, numpy_helper.to_array(zero).astype(np.int64), zero.data_type, axis, block)

    @staticmethod
    def _constant_node(node: NodeProto) -> np.ndarray | None:
        value = next((helper.get_attribute_value(one) for one in node.attribute if one.name == "value"), None)
        return None if value is None else numpy_helper.to_array(value)


def read_by(node: NodeProto) -> Iterator[str]:
    """Give the tensors that a node reads, with those that its branches or its loop's body read from outside."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from read_by(inner)
