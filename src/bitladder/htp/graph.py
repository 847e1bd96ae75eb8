"""An ONNX graph as the rules edit it."""

from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from bitladder.htp.quantizer import Quantizer, along
from bitladder.htp.read_graph import ReadGraph, read_by

__all__ = ["Graph"]


class Graph(ReadGraph):
    """A graph that can be edited. The order of nodes stays true; `proto` is the model as it is now."""

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
        scale, zero_point = along(quantizer, values.shape)
        stored = np.clip(np.rint(values / scale.astype(np.float64)) + zero_point, *quantizer.levels).astype(dtype)
        inputs = [self.add_constant(f"{name}_q", stored, quantizer.type), *self._ends(name, quantizer)]
        attributes = quantizer.attributes
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
        used = {name for node in self.proto.graph.node for name in read_by(node)} | kept
        for tensor in [one for one in self.proto.graph.initializer if one.name not in used]:
            self.proto.graph.initializer.remove(tensor)
        self._changed()

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
