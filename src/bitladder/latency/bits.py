"""The bits at which each operation of a QDQ graph computes, read off its quantizers."""

import onnx
from onnx import TensorProto

from bitladder.latency.patterns import Links, is_bias

__all__ = ["Bits"]

_BITS = {
    **dict.fromkeys((TensorProto.INT4, TensorProto.UINT4), 4),
    **dict.fromkeys((TensorProto.INT8, TensorProto.UINT8), 8),
    **dict.fromkeys((TensorProto.INT16, TensorProto.UINT16), 16),
}
_PASSING = {
    *("Cast", "Concat", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad"),
    *("Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
}
"""They change no value, so what comes out needs no quantizer of its own."""
_FLOAT = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}
_BEFORE_QUANTIZER = _PASSING | {"BatchNormalization", "Clip", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu", "Relu"}


class Bits:
    """Bits of each tensor that a quantizer holds, and of what passes its values on."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        types = {tensor.name: tensor.data_type for tensor in graph.initializer}
        for value in (*graph.value_info, *graph.output):
            types.setdefault(value.name, value.type.tensor_type.elem_type)
        self._of: dict[str, int] = {}
        self._converting: set[str] = set()
        for node in graph.node:
            made = node.output[0]
            if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
                # Without a zero point it is of the data's type; INT32, of biases, counts for nothing
                bits = _BITS.get(types.get(node.input[2] if len(node.input) > 2 else node.input[0], TensorProto.UINT8))
                if bits is None:
                    continue
                if node.op_type == "QuantizeLinear" and self._of.setdefault(node.input[0], bits) != bits:
                    self._converting.add(made)
                self._of[made] = bits
            elif node.op_type in _PASSING or types.get(made, TensorProto.FLOAT) not in _FLOAT:
                held = next((self._of[name] for name in node.input if name in self._of), None)
                self._of |= dict.fromkeys(node.output, held) if held else {}

    def converts(self, node: onnx.NodeProto) -> bool:
        """Whether a quantizer takes integers of other bits, which is an operation."""
        return node.output[0] in self._converting

    def precision(self, node: onnx.NodeProto, links: Links, weighted: bool) -> str:
        """Give the label of an operation's precision, such as w8a16; fp16 where no quantizer holds what it makes.

        With tensors of several bits it computes at the most. `weighted`: whether its constants are weights.
        """
        output = self._of_result(node, links)
        if output is None:
            return "fp16"
        data, constants = links.split_inputs(node)
        weights = [self._of[name] for name in constants if weighted and name in self._of]
        return f"w{min(weights, default=8)}a{max([output, *(self._of[name] for name in data if name in self._of)])}"

    def _of_result(self, node: onnx.NodeProto, links: Links) -> int | None:
        """Look for the quantizer, which comes after the bias and the activation that are fused with an operation."""
        while node.output[0] not in self._of:
            readers = links.readers(node)
            if len(readers) != 1 or not (readers[0].op_type in _BEFORE_QUANTIZER or is_bias(readers[0], links)):
                return None
            node = readers[0]
        return self._of[node.output[0]]

    def of_border(self, graph: onnx.GraphProto) -> str:
        """Give the label of the graph's inputs and outputs, those with the most bits."""
        held = [self._of[value.name] for value in (*graph.input, *graph.output) if value.name in self._of]
        return f"w8a{max(held)}" if held else "fp16"
