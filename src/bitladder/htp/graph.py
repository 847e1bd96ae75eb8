"""An ONNX graph as the rules read and edit it: who makes a tensor, who reads it, how it is quantized."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

__all__ = ["BITS", "Graph", "Quantizer"]

BITS = {
    TensorProto.UINT4: 4, TensorProto.INT4: 4, TensorProto.UINT8: 8, TensorProto.INT8: 8,
    TensorProto.UINT16: 16, TensorProto.INT16: 16, TensorProto.INT32: 32,
}  # fmt: skip
"""Bits of the types that QuantizeLinear and DequantizeLinear take."""

_SIGNED = {TensorProto.INT4, TensorProto.INT8, TensorProto.INT16, TensorProto.INT32}
_UNSIGNED = {8: TensorProto.UINT8, 16: TensorProto.UINT16}


@dataclass(frozen=True, eq=False)
class Quantizer:
    """Scale, zero point and type of a quantized tensor; arrays, with one entry a channel where it is per channel."""

    scale: np.ndarray
    zero_point: np.ndarray
    type: int
    axis: int = 1

    @classmethod
    def of_range(cls, low: float, high: float, bits: int) -> "Quantizer":
        """Give an unsigned quantizer of a range, which comes to hold 0."""
        low, high = min(low, 0.0), max(high, 0.0)
        levels = 2**bits - 1
        scale = max(high - low, 1e-12) / levels
        zero_point = int(np.clip(round(-low / scale), 0, levels))
        return cls(np.array(scale, np.float32), np.array(zero_point), _UNSIGNED[bits])

    @property
    def bits(self) -> int:
        """Its bit-width."""
        return BITS[self.type]

    @property
    def levels(self) -> tuple[int, int]:
        """The lowest and the highest integer."""
        return (-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1) if self.type in _SIGNED else (0, 2**self.bits - 1)

    @property
    def low(self) -> float:
        """Least value that it can give."""
        return float(np.min((self.levels[0] - self.zero_point) * self.scale.astype(np.float64)))

    @property
    def high(self) -> float:
        """Largest value that it can give."""
        return float(np.max((self.levels[1] - self.zero_point) * self.scale.astype(np.float64)))

    @property
    def step(self) -> float:
        """Its scale, or the largest of them."""
        return float(np.max(self.scale))

    def of_bits(self, bits: int) -> "Quantizer":
        """Give the same range at other bits, unsigned."""
        return Quantizer.of_range(self.low, self.high, bits)

    def same_as(self, other: "Quantizer") -> bool:
        """Whether both give the same values."""
        return (
            self.type == other.type
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )


class Graph:
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
            for name in dict.fromkeys(_read_by(node)):
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
            scale, zero_point = _along(quantizer, stored.ndim)
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

    # Edits

    def add_constant(self, name: str, values: np.ndarray, type: int | None = None) -> str:
        """Add a constant under a name like this one; give the name. `type` is of those that numpy lacks: 4 bits."""
        name = self._fresh(name)
        if type in (TensorProto.INT4, TensorProto.UINT4):
            tensor = helper.make_tensor(name, type, values.shape, values.flatten().tolist())
        else:
            tensor = numpy_helper.from_array(np.array(values, order="C"), name)
        self.proto.graph.initializer.append(tensor)
        self._changed()
        return name

    def add_node(self, kind: str, inputs: list[str], like: str, before: NodeProto | None, **attributes: Any) -> str:
        """Add a node ahead of another (None: at the end), it and its output named like `like`. Give the output."""
        output = self._fresh(like)
        node = helper.make_node(kind, inputs, [output], output, **attributes)
        self._insert(node, before)
        return output

    def add_quantizer(self, tensor: str, quantizer: Quantizer, before: NodeProto | None, like: str = "") -> str:
        """Put a quantize and a dequantize node behind a tensor, ahead of a node; give the tensor that comes out."""
        like = like or tensor
        ends = self._ends(like, quantizer)
        quantized = self.add_node("QuantizeLinear", [tensor, *ends], f"{like}_q", before, domain=self._domain)
        output = self.add_node("DequantizeLinear", [quantized, *ends], f"{like}_dq", before, domain=self._domain)
        self._is_like(output, tensor)
        return output

    def add_quantized(self, name: str, values: np.ndarray, quantizer: Quantizer, before: NodeProto) -> str:
        """Add a quantized constant and its DequantizeLinear; give the tensor that comes out."""
        dtype = helper.tensor_dtype_to_np_dtype(quantizer.type)
        scale, zero_point = _along(quantizer, values.ndim)
        stored = np.clip(np.rint(values / scale.astype(np.float64)) + zero_point, *quantizer.levels).astype(dtype)
        inputs = [self.add_constant(f"{name}_q", stored, quantizer.type), *self._ends(name, quantizer)]
        attributes = {"axis": quantizer.axis} if quantizer.scale.size > 1 else {}
        return self.add_node("DequantizeLinear", inputs, f"{name}_dq", before, domain=self._domain, **attributes)

    def quantize_input(self, node: NodeProto, index: int, quantizer: Quantizer) -> None:
        """Put a quantizer ahead of one input of a node."""
        self.set_input(node, index, self.add_quantizer(node.input[index], quantizer, node))

    def quantize_output(self, node: NodeProto, quantizer: Quantizer) -> None:
        """Put a quantizer behind a node's output, ahead of all that reads it."""
        output = node.output[0]
        inner = self.rename_output(node, f"{output}_own")
        first = min(self.readers(output), key=self._place, default=None)
        made = self.add_quantizer(inner, quantizer, first, output)
        for reader in self.readers(output):
            for index, name in enumerate(reader.input):
                if name == output:
                    self.set_input(reader, index, made)
        if self.is_output(output):
            self._makers[made].output[0] = output
            self._changed()

    def set_quantizer(self, node: NodeProto, quantizer: Quantizer) -> None:
        """Put another quantizer in the place of the one that follows a node."""
        (quantize,) = self.readers(node.output[0])
        ends = self._ends(node.output[0], quantizer)
        for one in [quantize, *self.readers(quantize.output[0])]:
            for index, name in enumerate(ends, 1):
                self.set_input(one, index, name)

    def set_input(self, node: NodeProto, index: int, tensor: str) -> None:
        """Set one input of a node, which may be one past its last."""
        while len(node.input) <= index:
            node.input.append("")
        node.input[index] = tensor
        self._changed()

    def rename_output(self, node: NodeProto, name: str) -> str:
        """Give a node's output another name, so that something can be put behind it; give that name."""
        old, node.output[0] = node.output[0], self._fresh(name)
        self._is_like(node.output[0], old)
        self._changed()
        return node.output[0]

    def become(self, node: NodeProto, kind: str, inputs: list[str], **attributes: Any) -> None:
        """Make another op of a node; its name and outputs stay."""
        del node.input[:], node.attribute[:]
        node.op_type, node.domain = kind, ""
        node.input.extend(inputs)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self._changed()

    def remove(self, *nodes: NodeProto) -> None:
        """Take nodes out. Constants that nobody reads then are left to `drop_unread`."""
        for node in nodes:
            self.proto.graph.node.remove(node)
        self._changed()

    def drop_unread(self) -> None:
        """Take out nodes and constants that nothing reads any more."""
        while True:
            kept = {value.name for value in self.proto.graph.output}
            unread = [
                node for node in self.nodes if not any(one in kept or self.readers(one) for one in node.output if one)
            ]
            if not unread:
                break
            self.remove(*unread)
        used = {name for node in self.proto.graph.node for name in _read_by(node)} | kept
        for tensor in [one for one in self.proto.graph.initializer if one.name not in used]:
            self.proto.graph.initializer.remove(tensor)
        self._changed()

    def elements(self, tensor: str) -> int | None:
        """Count the elements of a tensor; None where a size is not known."""
        shape = self.shape(tensor)
        return prod(shape) if shape is not None and all(shape) else None

    def quantizer_of(self, node: NodeProto) -> Quantizer | None:
        """Tell how a QuantizeLinear or DequantizeLinear quantizes; None where its scale is no constant."""
        scale = self._constants.get(node.input[1])
        if scale is None or len(scale.dims) > 1:
            return None
        axis = self.attribute(node, "axis", 1)
        values = numpy_helper.to_array(scale)
        zero = self._constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if zero is None:
            return Quantizer(values, np.zeros(values.shape, np.int64), TensorProto.UINT8, axis)
        return Quantizer(values, numpy_helper.to_array(zero).astype(np.int64), zero.data_type, axis)

    @staticmethod
    def _constant_node(node: NodeProto) -> np.ndarray | None:
        value = next((helper.get_attribute_value(one) for one in node.attribute if one.name == "value"), None)
        return None if value is None else numpy_helper.to_array(value)

    def _ends(self, name: str, quantizer: Quantizer) -> list[str]:
        """Add a quantizer's scale and zero point as constants."""
        dtype = helper.tensor_dtype_to_np_dtype(quantizer.type)
        return [
            self.add_constant(f"{name}_scale", quantizer.scale.astype(np.float32)),
            self.add_constant(f"{name}_zero_point", quantizer.zero_point.astype(dtype), quantizer.type),
        ]

    def _place(self, node: NodeProto) -> int:
        return next(i for i, one in enumerate(self.proto.graph.node) if one.output == node.output)

    def _insert(self, node: NodeProto, before: NodeProto | None) -> None:
        nodes = self.proto.graph.node
        nodes.insert(len(nodes) if before is None else self._place(before), node)
        self._changed()

    def _is_like(self, new: str, old: str) -> None:
        """Note that a new tensor has the type and shape of an old one."""
        if old in self._types:
            self._types[new] = self._types[old]

    def _fresh(self, name: str) -> str:
        count, fresh = 1, name
        while fresh in self._names:
            count, fresh = count + 1, f"{name}_{count}"
        self._names.add(fresh)
        return fresh

    def _changed(self) -> None:
        for name in ("_makers", "_readers", "_constants"):
            self.__dict__.pop(name, None)


def _read_by(node: NodeProto) -> Iterator[str]:
    """Give the tensors that a node reads, with those that its branches or its loop's body read from outside."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _read_by(inner)


def _along(quantizer: Quantizer, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Give scale and zero point in the shape in which they meet a tensor of this rank."""
    scale, zero_point = quantizer.scale, quantizer.zero_point
    if scale.size == 1:
        return scale.reshape(()), zero_point.reshape(())
    shape = [1] * rank
    shape[quantizer.axis] = -1
    return scale.reshape(shape), zero_point.reshape(shape)
