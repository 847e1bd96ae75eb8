"""What of an ONNX graph is refused at its door, in one line that says what to do."""

import onnx
from onnx import TensorProto

from bitladder.errors import UserError
from bitladder.tasks.onnx_forms.fold import CONTROL_FLOW
from bitladder.tasks.onnx_forms.graph import opset_of
from bitladder.tasks.onnx_forms.sizes import inputs_of

__all__ = ["check_graph", "check_types"]

QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "QGemm"}

OPSETS = (7, 22)
"""The oldest and the newest that are taken; onnx's version converter brings older ones to 21."""

DOMAINS = {"", "ai.onnx", "com.microsoft"}

OTHER_FLOATS = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def check_types(proto: onnx.ModelProto, source: str) -> None:
    """Refuse graphs that are quantized, of another opset, or of tensors that are no float32 and no integers."""
    if quantized := sorted({node.op_type for node in proto.graph.node} & QUANTIZED):
        raise UserError(
            f"task: {source}: is quantized already ({quantized[0]}); give the float model that it was made from"
        )
    opset, (oldest, newest) = opset_of(proto), OPSETS
    if not oldest <= opset <= newest:
        raise UserError(f"task: {source}: is of opset {opset}; export it with an opset from {oldest} to {newest}")
    ends = (*proto.graph.input, *proto.graph.output)
    for value in ends:
        kind = value.type.WhichOneof("value")
        if kind not in (None, "tensor_type"):
            what = str(kind).removesuffix("_type")
            raise UserError(f"task: {source}: {value.name!r} is a {what}; the NPU takes tensors alone")
    for name, kind in [
        *((tensor.name, tensor.data_type) for tensor in proto.graph.initializer),
        *((value.name, value.type.tensor_type.elem_type) for value in ends),
    ]:
        if kind in OTHER_FLOATS:
            raise UserError(f"task: {source}: {name!r} is {TensorProto.DataType.Name(kind)}; export it in float32")
        if kind == TensorProto.STRING:
            raise UserError(
                f"task: {source}: {name!r} holds text; cut that part off, and give the network numbers in the task"
            )


def check_graph(proto: onnx.ModelProto, source: str) -> None:
    """Refuse graphs without inputs, with operators that nobody here knows, or with control flow that is left."""
    if not inputs_of(proto):
        raise UserError(f"task: {source}: takes no input; is it the whole network?")
    for node in proto.graph.node:
        if node.domain not in DOMAINS and not proto.functions:
            raise UserError(
                f"task: {source}: {node.op_type} ({node.name or node.output[0]}) is an operator of {node.domain!r},"
                " which ONNX does not define; export the network without it, or cut it off by outputs"
            )
        if node.op_type in CONTROL_FLOW:
            raise UserError(
                f"task: {source}: {node.op_type} ({node.name or node.output[0]}) decides at run time what is computed,"
                " and the NPU takes a fixed graph; fix all sizes by OnnxModel(..., shapes={...}), cut it off by"
                " outputs, or export the network without it"
            )
