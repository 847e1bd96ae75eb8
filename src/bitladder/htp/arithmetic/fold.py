"""A QDQ graph made ready to be read as layers: constants computed, and quantizers carried through moves."""

import numpy as np
import onnx

from bitladder.htp.graph import Graph
from bitladder.tasks.onnx_file import open_session

__all__ = ["normalized"]

MOVES = ("Pad", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze")
"""Ops that only move integers: what follows one without a quantizer has its input's."""


def normalized(proto: onnx.ModelProto) -> Graph:
    """Give a copy of a graph in this form."""
    graph = Graph(onnx.shape_inference.infer_shapes(proto))
    _fold(graph)
    for node in graph.of_type(*MOVES):
        before, output = graph.maker(node.input[0]), node.output[0]
        if before is not None and before.op_type == "DequantizeLinear" and graph.quantize_node(output) is None:
            quantizer = graph.quantizer_of(before)
            if quantizer is not None and not graph.is_output(output):
                graph.quantize_output(node, quantizer)
    return graph


def _fold(graph: Graph) -> None:
    """Compute what depends on constants alone, but for weights, which stay integers."""
    constant, folded = {tensor.name for tensor in graph.proto.graph.initializer}, []
    for node in graph.nodes:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") and constant.issuperset(filter(None, node.input)):
            constant |= set(node.output)
            folded.append(node)
    read = {name for node in graph.nodes if node not in folded for name in node.input}
    wanted = [name for node in folded for name in node.output if name in read or graph.is_output(name)]
    if not wanted:
        return
    model = onnx.ModelProto()
    model.CopyFrom(graph.proto)
    del model.graph.node[:], model.graph.input[:], model.graph.output[:]
    model.graph.node.extend(folded)
    model.graph.output.extend(onnx.helper.make_value_info(name, onnx.TypeProto()) for name in wanted)
    for name, values in zip(wanted, open_session(model.SerializeToString()).run(wanted, {}), strict=True):
        graph.proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values), name))
    graph.remove(*folded)
    graph.drop_unread()
