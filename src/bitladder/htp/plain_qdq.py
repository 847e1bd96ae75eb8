"""Quantizers put into a float graph as a plain quantizer does it.

Each activation gets one of the range that it is said to have; weights are per channel and symmetric; biases and other
constants stay in float.
"""

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

from bitladder.htp.graph import Graph
from bitladder.htp.quantizer import Quantizer

__all__ = ["add_quantizers"]

OUTPUT_CHANNELS = {"Conv": 0, "MatMul": 1, "Gemm": 0}
"""Ops with weights as their second input, and along which axis of these the output's channels are."""

WEIGHTS = {4: TensorProto.INT4, 8: TensorProto.INT8, 16: TensorProto.INT16}


def add_quantizers(proto: onnx.ModelProto, ranges: dict[str, tuple[float, float]], bits: tuple[int, int]) -> None:
    """Make QDQ of a float graph, in place: least and largest value by tensor, bits of weights and activations."""
    graph = Graph(proto)
    for node in graph.nodes:
        for index, name in enumerate(node.input[1:2], 1):
            if graph.find_constant(name) is not None:
                _quantize_weights(graph, node, index, bits[0])
    for value in proto.graph.input:
        if value.name not in ranges:  # integers
            continue
        quantizer = Quantizer.of_range(*ranges[value.name], bits[1])
        for reader in graph.readers(value.name):
            if reader.op_type != "QuantizeLinear":
                graph.quantize_input(reader, list(reader.input).index(value.name), quantizer)
    for node in graph.nodes:
        output = node.output[0]
        if output in ranges and not _has_bias_behind(graph, node):
            graph.quantize_output(node, Quantizer.of_range(*ranges[output], bits[1]))


def _quantize_weights(graph: Graph, node: NodeProto, index: int, bits: int) -> None:
    name = node.input[index]
    values = graph.constant(name)
    if node.op_type == "LayerNormalization":  # of fewer than 8 bits the NPU does not take its factors
        graph.set_input(node, index, graph.add_quantized(name, values, Quantizer.of_range(0, values.max(), 8), node))
    if node.op_type in OUTPUT_CHANNELS:
        axis = OUTPUT_CHANNELS[node.op_type]
        largest = np.abs(values).max(tuple(one for one in range(values.ndim) if one != axis))
        scale = largest / (2 ** (bits - 1) - 1)
        quantizer = Quantizer(scale, np.zeros(scale.shape, np.int64), WEIGHTS[bits], axis)
        graph.set_input(node, index, graph.add_quantized(name, values, quantizer, node))


def _has_bias_behind(graph: Graph, node: NodeProto) -> bool:
    """Tell a product that an addition of a constant follows: a linear layer on tokens, as exporters write it."""
    readers = graph.readers(node.output[0])
    if node.op_type != "MatMul" or len(readers) != 1 or readers[0].op_type != "Add":
        return False
    return any(graph.find_constant(name) is not None for name in readers[0].input)
