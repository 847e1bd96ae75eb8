"""An .onnx file read, with the sizes and outputs that a task asks for; what is wrong with it is said in one line."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import onnx
import onnxruntime
import torch
from google.protobuf.message import DecodeError

from bitladder.errors import UserError
from bitladder.tasks.onnx_checks import check_graph, check_types
from bitladder.tasks.onnx_forms.cut import cut
from bitladder.tasks.onnx_forms.fold import CONTROL_FLOW, fold_control_flow
from bitladder.tasks.onnx_forms.normalize import normalize
from bitladder.tasks.onnx_forms.sizes import inputs_of, one_sample, set_shapes, with_batch_of_one

__all__ = ["files_of", "load", "open_graph", "open_session", "read"]

LIMIT = 2**31 - 1  # bytes

Shapes = Mapping[str, Sequence[int]]


def read(path: Path, shapes: Shapes, outputs: Sequence[str]) -> onnx.ModelProto:
    """Read a file, and bring its graph to the form that the pipeline takes. Raise UserError that says what is wrong."""
    proto, source = load(path), str(path)
    set_shapes(proto, shapes, source)
    if outputs:
        proto = cut(proto, outputs, source)
    check_types(proto, source)
    if CONTROL_FLOW & {node.op_type for node in proto.graph.node}:
        with suppress(Exception):  # what cannot be computed is named by check_graph
            proto = fold_control_flow(with_batch_of_one(proto))
    check_graph(proto, source)
    open_graph(proto, path)
    if any(dims and dims[0].dim_value > 1 for dims in (value.type.tensor_type.shape.dim for value in inputs_of(proto))):
        proto = one_sample(proto, source, open_session)
    return normalize(proto)


def load(path: Path) -> onnx.ModelProto:
    """Read a whole graph with its weights."""
    if not path.is_file():
        raise UserError(f"task: {path}: no such file; the path is from the folder that holds params.yaml")
    _check_size(path)
    try:
        proto = onnx.load(str(path))
    except DecodeError:
        raise UserError(f"task: {path}: is no ONNX file, or only a part of one") from None
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"task: {path}: its weights cannot be read: {reason}") from None
    if not proto.graph.node or not proto.graph.output:
        raise UserError(f"task: {path}: is no ONNX file, or only a part of one")
    return proto


def files_of(path: Path) -> list[Path]:
    """Give the .onnx file, and those that hold its weights beside it."""
    stored = onnx.load(str(path), load_external_data=False).graph.initializer
    beside = {entry.value for tensor in stored for entry in tensor.external_data if entry.key == "location"}
    return [path, *(path.parent / name for name in sorted(beside))]


def open_session(graph: bytes | str) -> onnxruntime.InferenceSession:
    """Open a graph, or the file of one, on the CPU: as many threads as torch has, as sums change their bits with it.

    Optimisations are off: with them on, ONNX Runtime's fused integer kernels are no judge of a QDQ graph.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 4
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def open_graph(proto: onnx.ModelProto, source: Path) -> onnxruntime.InferenceSession:
    """Open a graph that came from a file. Raise UserError where ONNX Runtime does not take it."""
    try:
        return open_session(proto.SerializeToString())
    except Exception as error:  # ONNX Runtime's kinds of error share no base
        # without its error code and the function of its own that found it
        text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |/onnxruntime_src/\S+ .*?\) (?=[A-Z])", "", str(error))
        reason = " ".join(text.split())[:300]
        raise UserError(f"task: {source}: ONNX Runtime does not take it: {reason}") from None


def _check_size(path: Path) -> None:
    """Refuse what protobuf cannot hold as one message, which is how the graph goes to ONNX Runtime and AIMET."""
    size = path.stat().st_size
    if size <= LIMIT:
        with suppress(DecodeError):  # said where it is read
            size += sum(file.stat().st_size for file in files_of(path)[1:] if file.is_file())
    if size > LIMIT:
        raise UserError(
            f"task: {path}: is {size / 2**30:.1f} GiB with its weights, and an ONNX graph can be of 2 GiB at most;"
            " bring the network as a torch module"
        )
