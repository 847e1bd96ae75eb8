"""Zeros around images: those of a Pad ahead of a convolution, and the same as the convolution's own."""

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from bitladder.htp.graph import Graph
from bitladder.htp.quantizer import Quantizer
from bitladder.tasks.onnx_file import open_session

__all__ = ["ahead_of_quantizer", "join_pad", "zeros_around"]


def zeros_around(graph: Graph, pad: NodeProto) -> np.ndarray | None:
    """Give what a Pad adds, ahead of each axis and behind it (2 x axes); None where it is no zeros, or not known."""
    sides, fill, axes = [*pad.input[1:], "", "", ""][:3]
    around, value = _computed(graph, sides), graph.find_constant(fill) if fill else np.zeros(())
    if around is None or axes or graph.attribute(pad, "mode", b"constant") != b"constant":
        return None
    if (around < 0).any() or value is None or value.any():
        return None
    return around.reshape(2, -1)


def _computed(graph: Graph, tensor: str) -> np.ndarray | None:
    """Give what a graph computes from constants alone: torch writes so what a Pad adds. None where inputs join in."""
    if (found := graph.find_constant(tensor)) is not None:
        return found
    nodes, wanted, constants = list[NodeProto](), [tensor], dict[str, np.ndarray]()
    while wanted:
        name = wanted.pop()
        if name in constants or any(name in node.output for node in nodes):
            continue
        if (values := graph.find_constant(name)) is not None:
            constants[name] = values
        elif (node := graph.maker(name)) is not None:
            nodes.append(node)
            wanted += filter(None, node.input)
        else:
            return None
    model = helper.make_model(
        helper.make_graph(
            [node for node in graph.nodes if node in nodes],  # in their order
            "computed",
            [],
            [helper.make_value_info(tensor, onnx.TypeProto())],
            [numpy_helper.from_array(values, name) for name, values in constants.items()],
        ),
        opset_imports=graph.proto.opset_import,
        ir_version=graph.proto.ir_version,
    )
    return np.asarray(open_session(model.SerializeToString()).run([tensor], {})[0])


def join_pad(graph: Graph, conv: NodeProto) -> bool:
    """Have a convolution pad by itself what a Pad that it alone reads adds to its images. Tell whether there is one."""
    pad, quantizer = ahead_of_quantizer(graph, conv.input[0])
    if (
        pad is None
        or pad.op_type != "Pad"
        or quantizer is None
        or graph.attribute(conv, "auto_pad", b"NOTSET") != b"NOTSET"
    ):
        return False
    own, around = graph.find_quantizer(pad.input[0]), zeros_around(graph, pad)
    if own is None or not own.same_as(quantizer) or around is None or around[:, :2].any():
        return False
    sides = around[:, 2:].flatten()
    pads = np.array(graph.attribute(conv, "pads", [0] * sides.size)) + sides
    kept = [attribute for attribute in conv.attribute if attribute.name != "pads"]
    del conv.attribute[:]
    conv.attribute.extend([*kept, helper.make_attribute("pads", pads.tolist())])
    graph.set_input(conv, 0, pad.input[0])
    return True


def ahead_of_quantizer(graph: Graph, tensor: str) -> tuple[NodeProto | None, Quantizer | None]:
    """Give the node whose output is quantized and dequantized into this tensor, for one reader; and the quantizer."""
    dequantize = graph.maker(tensor)
    quantize = graph.maker(dequantize.input[0]) if dequantize and dequantize.op_type == "DequantizeLinear" else None
    if dequantize is None or quantize is None or quantize.op_type != "QuantizeLinear":
        return None, None
    between = (quantize.input[0], quantize.output[0], tensor)
    if any(len(graph.readers(name)) != 1 or graph.is_output(name) for name in between):
        return None, None
    return graph.maker(quantize.input[0]), graph.quantizer_of(dequantize)
