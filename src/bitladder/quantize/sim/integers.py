"""What AIMET's export leaves such that the NPU would compute in float beside integers, said otherwise.

No value changes. A number becomes the end of a range of its own. A norm's bias becomes int32 in units of input scale x
weight scale, as runtimes read it. What is looked up in an embedding keeps the embedding's type until it is converted.
A part that nothing reads is not split off. A constant is read itself, not a copy of it. What is quantized twice alike,
such as an output that a network gives twice, is quantized once: the NPU takes an op with one quantizer behind it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from bitladder.running.files import replacing

__all__ = ["keep_integer"]

NORMS = {"LayerNormalization", "InstanceNormalization"}
"""Their third input is a bias."""

COMPARISONS = {"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"}

OPERANDS = {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Where", *COMPARISONS, *NORMS}
"""Ops of operands that must be of one type."""

ACTIVATIONS = {TensorProto.UINT8, TensorProto.UINT16}


def keep_integer(path: Path) -> None:
    """Edit a QDQ graph so that the NPU computes in integers wherever all that an op reads and makes has a quantizer."""
    proto = onnx.load(path)
    editor = _Editor(proto.graph)
    editor.read_copies()
    editor.quantize_once()
    for node in list(proto.graph.node):
        if node.op_type in OPERANDS:
            editor.quantize_numbers(node)
        if node.op_type in NORMS and len(node.input) > 2:
            editor.quantize_bias(node)
        if node.op_type == "Gather":
            editor.convert_after_lookup(node)
        if node.op_type == "Split":
            editor.slice_instead(node)
    if editor.changed:
        with replacing(path) as temporary:
            onnx.save(proto, str(temporary))


class _Editor:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph, self.changed = graph, False
        self.constants: dict[str, Any] = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        self.makers = {name: node for node in graph.node for name in node.output}
        self.read = {name for node in graph.node for name in node.input} | {one.name for one in graph.output}

    def read_copies(self) -> None:
        """Let what reads the copy of a constant read the constant: equal weights are stored once, the others copied."""
        copies: dict[str, str] = {}
        outputs = {one.name for one in self.graph.output}
        for node in [one for one in self.graph.node if one.op_type == "Identity"]:
            source = copies.get(node.input[0], node.input[0])
            if source in self.constants and node.output[0] not in outputs:
                copies[node.output[0]] = source
                self.graph.node.remove(node)
                self.changed = True
        self._rename(copies)

    def quantize_once(self) -> None:
        """Let what reads the second of two quantizers of the same tensor and values read the first."""
        firsts: dict[tuple, str] = {}
        instead: dict[str, str] = {}
        for node in [one for one in self.graph.node if one.op_type == "QuantizeLinear"]:
            key = (node.input[0], *(self.constants[name].tobytes() for name in node.input[1:]))
            first = firsts.setdefault(key, node.output[0])
            if first != node.output[0]:
                instead[node.output[0]] = first
                self.graph.node.remove(node)
                self.changed = True
        self._rename(instead)

    def quantize_numbers(self, node: NodeProto) -> None:
        """Give an op's constants of one value the type of its other operand."""
        types = [kind for name in node.input if (kind := self._type(name)) in ACTIVATIONS]
        for index, name in enumerate(node.input):
            values = self.constants.get(name)
            is_bias = node.op_type in NORMS and index == 2
            if not types or is_bias or values is None or values.dtype != np.float32 or np.ptp(values):
                continue
            kind = TensorProto.UINT8 if node.op_type in NORMS else types[0]  # of a norm's weight the NPU takes no other
            number, dtype = float(values.flat[0]), helper.tensor_dtype_to_np_dtype(kind)
            most = np.iinfo(dtype).max
            stored = np.full(values.shape, most if number > 0 else 0, dtype)
            self._hold(node, index, stored, np.float32(abs(number) / most or 1), dtype.type(most if number < 0 else 0))

    def quantize_bias(self, node: NodeProto) -> None:
        """Write a norm's bias in int32, where both scales are known and each is one number."""
        values = self.constants.get(node.input[2])
        scales = [self.constants[maker.input[1]] for name in node.input[:2] if (maker := self._dequantize(name))]
        if values is None or values.dtype != np.float32 or len(scales) < 2 or any(np.size(one) != 1 for one in scales):
            return
        scale = np.float32(np.prod(scales))
        stored = np.rint(values.astype(np.float64) / scale)
        if np.abs(stored).max() < 2**31:
            self._hold(node, 2, stored.astype(np.int32), scale, np.int32(0))

    def convert_after_lookup(self, node: NodeProto) -> None:
        """Quantize what is looked up as the table is, and then as what reads it wants it."""
        table = self._dequantize(node.input[0])
        readers = [one for one in self.graph.node if node.output[0] in one.input]
        if table is None or table.input[0] not in self.constants or len(readers) != 1:
            return
        ends = list(table.input[1:])
        if readers[0].op_type == "QuantizeLinear" and self._kind(readers[0].input[2]) != self._kind(ends[1]):
            name = node.output[0]
            node.output[0] = f"{name}_found"
            parts = [f"{name}_found_q", name]
            quantize = helper.make_node("QuantizeLinear", [node.output[0], *ends], parts[:1], parts[0])
            self._insert_after(node, quantize, helper.make_node("DequantizeLinear", [parts[0], *ends], [name], name))

    def slice_instead(self, node: NodeProto) -> None:
        """Take the parts that are read by a Slice each: the NPU splits off no part that has no quantizer."""
        sizes = self.constants.get(node.input[1]) if len(node.input) > 1 else None
        if sizes is None or all(name in self.read for name in node.output):
            return
        axis = next((one.i for one in node.attribute if one.name == "axis"), 0)
        ends = np.cumsum(sizes)
        for name, start, end in zip(node.output, ends - sizes, ends, strict=True):
            if name in self.read:
                bounds = {f"{name}_start": [start], f"{name}_end": [end], f"{name}_axis": [axis]}
                self._add({key: np.array(value, np.int64) for key, value in bounds.items()})
                self._insert_after(node, helper.make_node("Slice", [node.input[0], *bounds], [name], name))
        self.graph.node.remove(node)

    def _rename(self, instead: dict[str, str]) -> None:
        for node in self.graph.node:
            node.input[:] = [instead.get(name, name) for name in node.input]

    def _hold(self, node: NodeProto, index: int, stored: np.ndarray, scale: Any, zero_point: Any) -> None:
        base = f"{node.name}_{index}"
        parts = {f"{base}_q": stored, f"{base}_scale": scale, f"{base}_zero_point": zero_point}
        self._add(parts)
        dequantize = helper.make_node("DequantizeLinear", list(parts), [f"{base}_dq"], f"{base}_dq")
        self.graph.node.insert(list(self.graph.node).index(node), dequantize)
        self.makers[dequantize.output[0]] = dequantize
        node.input[index] = dequantize.output[0]
        self.changed = True

    def _add(self, constants: dict[str, Any]) -> None:
        self.constants |= constants
        self.graph.initializer.extend(numpy_helper.from_array(np.asarray(one), key) for key, one in constants.items())

    def _insert_after(self, node: NodeProto, *added: NodeProto) -> None:
        place = list(self.graph.node).index(node) + 1
        for offset, one in enumerate(added):
            self.graph.node.insert(place + offset, one)
        self.changed = True

    def _dequantize(self, name: str) -> NodeProto | None:
        maker = self.makers.get(name)
        return maker if maker is not None and maker.op_type == "DequantizeLinear" and len(maker.input) > 2 else None

    def _type(self, name: str) -> int | None:
        maker = self._dequantize(name)
        return None if maker is None else self._kind(maker.input[2])

    def _kind(self, name: str) -> int:
        return next(one.data_type for one in self.graph.initializer if one.name == name)
