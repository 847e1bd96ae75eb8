"""Any ONNX file held against the rules: read, checked, repaired."""

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx.numpy_helper
from google.protobuf.message import DecodeError

from bitladder.errors import UserError

__all__ = ["OLDEST", "read_graph"]

OLDEST = 13
"""The first opset whose DequantizeLinear takes scales per channel."""

LIMIT = 2**31 - 1  # bytes that protobuf holds as one message


def read_graph(path: Path) -> onnx.ModelProto:
    """Read an ONNX file with what lies beside it. Raise UserError, in one line, for one that is no valid graph."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.stat().st_size > LIMIT:
        raise UserError(f"{path}: is larger than 2 GiB, which ONNX cannot hold as one message")
    try:
        proto = onnx.load(str(path))
        onnx.checker.check_model(proto)
        onnx.shape_inference.infer_shapes(proto, strict_mode=True)
        for tensor in _constants(proto.graph):
            onnx.numpy_helper.to_array(tensor)
    except DecodeError:
        raise UserError(f"{path}: is no ONNX file, or only a part of one") from None
    except Exception as error:  # the checker and the inference of shapes raise kinds of their own
        raise UserError(f"{path}: is no valid ONNX graph: {' '.join(str(error).split())[:300]}") from None
    opset = next((one.version for one in proto.opset_import if one.domain in ("", "ai.onnx")), 0)
    if opset < OLDEST:
        raise UserError(f"{path}: is of opset {opset}, and the rules read opset {OLDEST} and later; convert it first")
    return proto


def _constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Give the stored tensors, whose values the checker does not read."""
    yield from graph.initializer
    for node in graph.node:
        yield from (one.t for one in node.attribute if one.type == onnx.AttributeProto.TENSOR)
