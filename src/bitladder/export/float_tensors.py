"""Which tensors of a QDQ graph have no quantizer although one could hold them: what reads or makes them runs in FP16.

Not counted are integers, booleans and settings that come as tensors (bounds of a clip, scales of a resize); biases that
runtimes hold in int32 in units of input scale x weight scale; and what lies between a layer and the ReLU that is fused
with it.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import onnx
from onnx import TensorProto

from bitladder.errors import RefusedError
from bitladder.records import FloatShare, FloatTensor

__all__ = ["InFloat", "check_float", "find_float"]

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"

MOVES = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Expand", "Identity", "Gather"}
"""They compute nothing, so a quantizer before or after them holds for both sides."""

LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Add"}
FUSED = {"Relu", "Clip"}

SETTINGS = {
    "BatchNormalization": {3, 4},  # the statistics, which the backend joins with the weight
    "Clip": {1, 2},
    "Dropout": {1, 2},
    "OneHot": {2},
    "Pad": {2},
    "Resize": {1, 2},
    "Upsample": {1},
}
"""Inputs that are settings of an op rather than values it computes with, by their index."""

BIASES = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2, "BatchNormalization": 2}
"""Inputs that the backend rounds to int32 itself."""

MAKERS = {"Constant", "ConstantOfShape", "Range", "Shape"}
"""They make what depends on sizes alone."""

FLOAT_OPS = {"LSTM", "GRU", "RNN", "ReduceL1", "ReduceL2", "ReduceLogSumExp"}
"""Ops that the backend computes in float whatever quantizers stand around them."""

SHOWN = 5


@dataclass(frozen=True)
class InFloat:
    """What of a graph is float: its tensors, in the graph's order, and how much that is."""

    tensors: tuple[FloatTensor, ...]
    share: FloatShare

    def __str__(self) -> str:
        """Name the tensors in a line."""
        shown = ", ".join(f"{one.name} ({one.op})" for one in self.tensors[:SHOWN])
        return shown + (f" and {len(self.tensors) - SHOWN} more" if len(self.tensors) > SHOWN else "")


def find_float(path: Path) -> InFloat:
    """Find the tensors of a QDQ graph that a quantizer could hold and none does."""
    graph = _Graph(path)
    return InFloat(graph.found(), graph.share())


def check_float(found: InFloat, allowed: bool | list[str], rung: str) -> None:
    """Refuse a rung with tensors in float that export.allow_float does not name, by their names or their layers'."""
    if allowed is True:
        return
    names = allowed or []
    left = tuple(one for one in found.tensors if one.name not in names and one.layer not in names)
    if left:
        raise RefusedError(
            f"{rung}: export.allow_float does not allow what would run in float: {replace(found, tensors=left)}; name"
            " them there, or their layers, or write them in other words"
        )


class _Graph:
    """A graph, and what each tensor in it is."""

    def __init__(self, path: Path) -> None:
        graph = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True).graph
        self.nodes = graph.node
        self.outputs = {one.name for one in graph.output}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
        for node in graph.node:
            for index, name in enumerate(node.input):
                self.readers[name].append((node, index))
        self.types = {
            one.name: (one.type.tensor_type.elem_type, [size.dim_value for size in one.type.tensor_type.shape.dim])
            for one in (*graph.input, *graph.output, *graph.value_info)
        }
        constants = {tensor.name: tensor for tensor in graph.initializer}
        constants |= {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
        self.types |= {name: (tensor.data_type, list(tensor.dims)) for name, tensor in constants.items()}
        self.weights = self._trace_constants(constants)

    def found(self) -> tuple[FloatTensor, ...]:
        """List the tensors in float, each once."""
        names: dict[str, onnx.NodeProto] = {}
        for node in self._computing():
            for name in self._in_float(node):
                names.setdefault(name, node)
        return tuple(
            FloatTensor(
                name=name,
                op=node.op_type,
                layer=_layer(node.name),
                elements=self._elements(name),
                kind="weight" if name in self.weights else "activation",
            )
            for name, node in names.items()
        )

    def share(self) -> FloatShare:
        """Count the ops, and weigh the weights by their elements."""
        computing = self._computing()
        in_float = {node.output[0]: self._in_float(node) for node in computing}
        held = {name for names in in_float.values() for name in names if name in self.weights}
        every = {source for node in computing for name in self._values(node) for source in self.weights.get(name, ())}
        total = sum(map(self._elements, every))
        ops = sum(1 for names in in_float.values() if names)
        return FloatShare(ops=ops, weights=sum(map(self._elements, held)) / total if total else 0.0)

    def _trace_constants(self, constants: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Give by name each tensor that no input of the graph changes, with the stored ones that it is made of."""
        found: dict[str, tuple[str, ...]] = {name: (name,) for name in constants}
        for node in self.nodes:
            inputs = [name for name in node.input if name]
            if node.op_type == "Shape" or (inputs and all(name in found for name in inputs)):
                read = inputs[:1] if node.op_type in {QUANTIZE, DEQUANTIZE, *MOVES} else inputs
                made = () if node.op_type in MAKERS else tuple(source for name in read for source in found[name])
                found |= dict.fromkeys(node.output, made)
        return found

    def _computing(self) -> list[onnx.NodeProto]:
        left = {QUANTIZE, DEQUANTIZE, *MOVES, *MAKERS}
        return [node for node in self.nodes if node.op_type not in left and node.output[0] not in self.weights]

    def _values(self, node: onnx.NodeProto) -> list[str]:
        """Give the tensors that an op computes with or makes, in floating point."""
        settings = SETTINGS.get(node.op_type, set()) | {BIASES.get(node.op_type, -1)}
        inputs = [name for index, name in enumerate(node.input) if name and index not in settings]
        return [name for name in (*inputs, *node.output) if self._is_float(name) and not self._is_bias(node, name)]

    def _in_float(self, node: onnx.NodeProto) -> list[str]:
        """Give the tensors that keep an op in float; of what is computed of constants alone, these."""
        whole = node.op_type in FLOAT_OPS
        names = [name for name in self._values(node) if whole or not self._is_held(name)]
        return [source for name in names for source in self.weights.get(name, (name,))]

    def _is_held(self, name: str) -> bool:
        """Tell whether a quantizer holds a tensor, before or after it, or an op holds it with another."""
        return self._is_made_integer(name) or self._is_read_integer(name) or self._is_fused(name)

    def _is_made_integer(self, name: str) -> bool:
        maker = self.makers.get(name)
        if maker is None or maker.op_type not in MOVES:
            return maker is not None and maker.op_type == DEQUANTIZE
        return self._is_made_integer(maker.input[0])

    def _is_read_integer(self, name: str) -> bool:
        readers = self.readers[name]
        return bool(readers) and name not in self.outputs and all(self._rounds(*reader) for reader in readers)

    def _rounds(self, reader: onnx.NodeProto, index: int) -> bool:
        if reader.op_type == QUANTIZE:
            return True
        return reader.op_type in MOVES and index == 0 and all(self._is_read_integer(name) for name in reader.output)

    def _is_fused(self, name: str) -> bool:
        """Tell the output of a layer that only its bias or its ReLU reads, which gives what is rounded."""
        maker, readers = self.makers.get(name), self.readers[name]
        if maker is None or len(readers) != 1 or name in self.outputs:
            return False
        reader = readers[0][0]
        adds_bias = maker.op_type == "MatMul" and any(self._is_bias(reader, one) for one in reader.input)
        return (adds_bias or (maker.op_type in LAYERS and reader.op_type in FUSED)) and self._is_held(reader.output[0])

    def _is_bias(self, node: onnx.NodeProto, name: str) -> bool:
        """Tell what a linear layer on more than two dimensions adds in an op of its own."""
        if node.op_type != "Add" or name not in self.weights or len(self._shape(name)) != 1:
            return False
        makers = [self.makers.get(other) for other in node.input if other != name]
        return any(one is not None and one.op_type == "MatMul" and one.input[1] in self.weights for one in makers)

    def _is_float(self, name: str) -> bool:
        return self.types[name][0] in (TensorProto.FLOAT, TensorProto.FLOAT16) if name in self.types else True

    def _shape(self, name: str) -> list[int]:
        return self.types[name][1] if name in self.types else []

    def _elements(self, name: str) -> int:
        return prod(max(size, 1) for size in self._shape(name))


def _layer(node: str) -> str:
    """Give the layer that a node is of: the exporter writes its path, parted by slashes, and the op."""
    parts = node.strip("/").split("/")
    return ".".join(parts[:-1]) or node
