"""Bounds that bound nothing: the largest of -inf and x, as JAX writes its softmax, is x."""

import numpy as np
import onnx
from onnx import helper

from bitladder.tasks.onnx_forms.graph import Constants

__all__ = ["drop_bound"]


def drop_bound(graph: onnx.GraphProto, node: onnx.NodeProto, constants: Constants) -> list[onnx.NodeProto] | None:
    """Take infinity out of a Max or a Min; no quantizer can hold it. None where there is none."""
    nothing = -np.inf if node.op_type == "Max" else np.inf
    kept = [
        name for name in node.input if name not in constants or constants[name].size != 1 or constants[name] != nothing
    ]
    if len(kept) == len(node.input) or not kept:
        return None
    kind = node.op_type if len(kept) > 1 else "Identity"
    return [helper.make_node(kind, kept, node.output, name=node.name)]
