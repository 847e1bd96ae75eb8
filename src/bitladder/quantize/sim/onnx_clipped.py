"""Nodes of a graph whose output only a Relu or a Clip reads."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from bitladder.quantize.sim.onnx_ranges import has_range, ranges_between, set_ranges

__all__ = ["clip_to_activations", "clipped_tensors"]


def clip_to_activations(graph: onnx.GraphProto, quantizers: Mapping[str, Any]) -> None:
    """Give what feeds only a Relu or a Clip that activation's own range.

    aimet-onnx fuses no depthwise convolution with its activation, as HTP does not, and spends the bits of the
    convolution's output on values that the activation then clips.
    """
    for name, (activation, _) in clipped_tensors(graph, quantizers).items():
        (after,) = quantizers[activation].get_encodings()
        set_ranges(quantizers[name], ranges_between(after.min, after.max, quantizers[name].bitwidth))


def clipped_tensors(
    graph: onnx.GraphProto, quantizers: Mapping[str, Any]
) -> dict[str, tuple[str, tuple[float, float]]]:
    """Name the tensors with a range of their own that feed only a Relu or a Clip: what that makes, and its bounds."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    ends = {value.name for value in graph.output}
    found = {}
    for name, nodes in readers.items():
        node = nodes[0]
        if len(nodes) > 1 or name in ends or node.input[0] != name or node.op_type not in ("Relu", "Clip"):
            continue
        bounds = [constants[one].item() if one in constants else None for one in [*node.input[1:], "", ""][:2]]
        low, high = (0.0, np.inf) if node.op_type == "Relu" else (bounds[0], bounds[1])
        ranges = (quantizers.get(one) for one in (name, node.output[0]))
        if all(map(has_range, ranges)):
            found[name] = (node.output[0], (-np.inf if low is None else low, np.inf if high is None else high))
    return found
