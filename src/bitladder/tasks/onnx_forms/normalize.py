"""An ONNX graph brought to the pipeline's own form at its door: other spellings of the same thing become one.

What needs nothing of this stays as it is, bit by bit.
"""

from collections import Counter

import onnx

from bitladder.tasks.onnx_forms.bounds import drop_bound
from bitladder.tasks.onnx_forms.einsum import write_einsum
from bitladder.tasks.onnx_forms.gelu import fuse_gelu
from bitladder.tasks.onnx_forms.gemm import plain_gemm
from bitladder.tasks.onnx_forms.graph import raise_opset, replace_nodes
from bitladder.tasks.onnx_forms.layer_norm import fuse_layer_norm

__all__ = ["normalize", "separate_weights"]

LEAST_IR = 4  # from which initializers need not be inputs too; the opset's converter relies on it

PLAIN = {"Gemm": plain_gemm, "Max": drop_bound, "Min": drop_bound}

REWRITTEN = {"Einsum": write_einsum, "Erf": fuse_gelu, "Sqrt": fuse_layer_norm}


def normalize(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Bring a graph to the form that the NPU and aimet-onnx take; its outputs stay equal.

    Initializers are no inputs; a Gemm has no factors, a Max no -inf; Einsum is written in matrix products, GELU and
    JAX's layer norm as one op. Where one of the last three is there, the opset is raised: Gelu came with 20.
    """
    constant = {tensor.name for tensor in proto.graph.initializer}
    for value in [value for value in proto.graph.input if value.name in constant]:
        proto.graph.input.remove(value)
    proto.ir_version = max(proto.ir_version, LEAST_IR)
    for kind, rewrite in PLAIN.items():
        replace_nodes(proto, kind, rewrite)
    if REWRITTEN.keys() & {node.op_type for node in proto.graph.node}:
        try:
            raised = onnx.shape_inference.infer_shapes(raise_opset(proto))
        except ValueError:  # prepare says so
            return proto
        done = [replace_nodes(raised, kind, rewrite) for kind, rewrite in REWRITTEN.items()]
        return raised if any(done) else proto
    return proto


def separate_weights(proto: onnx.ModelProto) -> None:
    """Give a convolution that a batch norm follows weights of its own: the norm is folded into them."""
    uses = Counter(name for node in proto.graph.node for name in node.input)
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    normed = {node.input[0] for node in proto.graph.node if node.op_type == "BatchNormalization"}
    for node in proto.graph.node:
        if node.output[0] not in normed:
            continue
        for index, name in enumerate(node.input):
            if uses[name] > 1 and name in tensors:
                own = proto.graph.initializer.add()
                own.CopyFrom(tensors[name])
                own.name = node.input[index] = f"{name}.{node.output[0]}"
