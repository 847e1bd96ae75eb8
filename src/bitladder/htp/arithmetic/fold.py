"""A QDQ graph made ready to be read as layers: constants computed, quantizers carried through moves, passes joined."""

import numpy as np
import onnx
from onnx import NodeProto

from bitladder.htp.graph import Graph
from bitladder.htp.pads import ahead_of_quantizer, join_pad
from bitladder.tasks.onnx_file import open_session

__all__ = ["normalized"]

MOVES = ("Pad", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze")
"""Ops that only move integers: what follows one without a quantizer has its input's."""

CLIPPED = ("Conv", "Gemm", "MatMul", "Add")
"""Ops whose model clips its integers at any levels."""


def normalized(proto: onnx.ModelProto) -> Graph:
    """Give a copy of a graph in this form."""
    graph = Graph(onnx.shape_inference.infer_shapes(proto))
    while _fix_shapes(graph):  # one of these may be what a later one's tensor has its shape from
        _fold(graph)
        graph = Graph(onnx.shape_inference.infer_shapes(graph.proto))
    _fold(graph)
    for node in graph.of_type(*MOVES):
        before, output = graph.maker(node.input[0]), node.output[0]
        if before is not None and before.op_type == "DequantizeLinear" and graph.quantize_node(output) is None:
            quantizer = graph.quantizer_of(before)
            if quantizer is not None and not graph.is_output(output):
                graph.quantize_output(node, quantizer)
    for node in list(graph.nodes):
        if node.op_type in ("Clip", "Relu"):
            _join_clip(graph, node)
        elif node.op_type == "Conv":
            join_pad(graph, node)
    graph.drop_unread()
    return graph


def _join_clip(graph: Graph, clip: NodeProto) -> None:
    """Have the op ahead of an activation clip its own integers, where both have one quantizer: a pass less."""
    source, quantizer = ahead_of_quantizer(graph, clip.input[0])
    after = graph.find_quantizer(clip.output[0])
    if source is not None and source.op_type in CLIPPED and quantizer and after and quantizer.same_as(after):
        graph.set_input(clip, 0, source.output[0])


def _fix_shapes(graph: Graph) -> bool:
    """Put a constant for each shape that is asked of a tensor whose shape is known; say whether there was one."""
    found = False
    for node in graph.of_type("Shape"):
        shape = graph.shape(node.input[0])
        if shape is None or 0 in shape or graph.is_output(node.output[0]):
            continue
        start, end = graph.attribute(node, "start", 0), graph.attribute(node, "end", len(shape))
        graph.proto.graph.initializer.append(
            onnx.numpy_helper.from_array(np.array(shape[start:end], np.int64), node.output[0])
        )
        graph.remove(node)
        found = True
    return found


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
