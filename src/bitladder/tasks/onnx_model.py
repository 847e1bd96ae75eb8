"""A network that comes as an ONNX file, with the face of a torch module, so that few stages need to know of it.

ONNX Runtime runs it, optimisations off, a sample at a time: on the NPU the batch is one too.
"""

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import onnxruntime
import torch
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from tqdm import tqdm

from bitladder.errors import UserError
from bitladder.params import TaskParams
from bitladder.tasks.onnx_forms.normalize import normalize

__all__ = ["OnnxModel", "OnnxNetwork", "check_hashed", "no_loss", "open_session", "run_samples", "why_untrained"]

LIMIT = 2**31 - 1  # bytes

QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "QGemm"}


def no_loss(outputs: Any, targets: Tensor) -> Tensor:
    """Stand for the loss of a network that is not trained."""
    return torch.zeros(())


@dataclass(frozen=True)
class OnnxModel:
    """Takes a network from an .onnx file: `Task(OnnxModel("net.onnx"), splits, no_loss, metric)`.

    The path is from the folder that holds params.yaml. Inputs and outputs keep the names that they have in the graph.
    """

    path: str

    def __call__(self) -> "OnnxNetwork":
        """Read the file. Raise UserError that says what is wrong with it."""
        return OnnxNetwork(_read(Path(self.path)), Path(self.path))


class OnnxNetwork(nn.Module):
    """A graph. Its state_dict is its float32 initializers; forward takes its inputs in order, gives outputs by name."""

    def __init__(self, proto: onnx.ModelProto, source: Path) -> None:
        super().__init__()
        self.proto, self.source = proto, source
        self._session: onnxruntime.InferenceSession | None = None

    @property
    def inputs(self) -> list[str]:
        """Names of the graph's inputs, in order."""
        return [value.name for value in _inputs(self.proto)]

    @property
    def outputs(self) -> list[str]:
        """Names of the graph's outputs, in order."""
        return [value.name for value in self.proto.graph.output]

    def files(self) -> list[Path]:
        """Give the files that the network was read from: the .onnx, and those that hold its weights beside it."""
        return _files(self.source)

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Run a batch, sample by sample."""
        self._session = self._session or _open(self.proto, self.source)
        # FP32 whatever the samples were rounded to: that is what the graph takes
        batch = tuple(value.float() if value.is_floating_point() else value for value in inputs)
        return run_samples(self._session.run, self.inputs, self.outputs, batch)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """Give the float32 initializers by name."""
        return {name: torch.from_numpy(values.copy()) for name, values in self.tensors().items()}

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> None:
        """Put values into the initializers of these names."""
        self.put({name: values.numpy() for name, values in state_dict.items()})

    def tensors(self) -> dict[str, np.ndarray]:
        """Give the float32 initializers by name, as arrays."""
        return {
            tensor.name: numpy_helper.to_array(tensor)
            for tensor in self.proto.graph.initializer
            if tensor.data_type == TensorProto.FLOAT
        }

    def put(self, values: Mapping[str, np.ndarray]) -> None:
        """Put arrays into the initializers of these names."""
        for tensor in self.proto.graph.initializer:
            if tensor.name in values:
                tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
        self._session = None

    def swap_relu6(self) -> bool:
        """Put Relu in the place of every Clip from 0 to 6; whether there was one."""
        values = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.proto.graph.initializer}
        found = [
            node
            for node in self.proto.graph.node
            if node.op_type == "Clip" and [values[name].item() for name in node.input[1:] if name in values] == [0, 6]
        ]
        for node in found:
            node.op_type = "Relu"
            del node.input[1:]
        read = {name for node in self.proto.graph.node for name in node.input}
        for tensor in [tensor for tensor in self.proto.graph.initializer if tensor.name not in read]:
            self.proto.graph.initializer.remove(tensor)
        self._session = None
        return bool(found)

    def half(self) -> Self:
        """Give the network in FP16, its inputs and outputs in FP32."""
        from onnxruntime.transformers.float16 import convert_float_to_float16

        proto = convert_float_to_float16(copy.deepcopy(self.proto), keep_io_types=True)
        return type(self)(proto, self.source)

    def fixed(self, sample: tuple[Tensor, ...]) -> Self:
        """Give the network for a batch of one, with every shape that follows from it written down."""
        proto = copy.deepcopy(self.proto)
        for value, tensor in zip(_inputs(proto), sample, strict=True):
            value.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, tensor.shape))
        for value, found in zip(proto.graph.output, self(*sample).values(), strict=True):
            value.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, found.shape))
        del proto.graph.value_info[:]
        return type(self)(onnx.shape_inference.infer_shapes(proto, data_prop=True), self.source)

    def check_inputs(self, inputs: Mapping[str, Tensor]) -> None:
        """Refuse samples that the graph does not take. Raises UserError that names the first input that differs."""
        if list(inputs) != self.inputs:
            raise UserError(
                f"task: the splits have the inputs {list(inputs)}, and {self.source} takes {self.inputs}; give"
                " them by these names, in this order"
            )
        for value in _inputs(self.proto):
            found, taken = inputs[value.name], value.type.tensor_type
            dtype = str(found.numpy().dtype)
            wanted = str(helper.tensor_dtype_to_np_dtype(taken.elem_type))
            shape = [dim.dim_value or dim.dim_param or "?" for dim in taken.shape.dim]
            fits = len(shape) == found.ndim and all(
                size == own for size, own in zip(found.shape[1:], shape[1:], strict=True) if isinstance(own, int)
            )
            if taken.HasField("shape") and (dtype != wanted or not fits):
                raise UserError(
                    f"task: {value.name!r} of the splits is {['N', *found.shape[1:]]} of {dtype}, and {self.source}"
                    f" takes {shape} of {wanted}"
                )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy the graph; an open session is not shared."""
        return type(self)(copy.deepcopy(self.proto), self.source)

    def __str__(self) -> str:
        """Give the graph's nodes as text."""
        return "\n".join(
            f"{node.name}: {node.op_type}({', '.join(node.input)}) -> {', '.join(node.output)}"
            for node in self.proto.graph.node
        )


def why_untrained(model: nn.Module) -> str | None:
    """Say why a network cannot be trained; None if it can."""
    return "the model came as ONNX, and aimet-onnx trains nothing" if isinstance(model, OnnxNetwork) else None


def check_hashed(model: nn.Module, params: TaskParams) -> None:
    """Refuse a network whose .onnx file DVC does not know of. Raises UserError with what to write into params.yaml."""
    for path in model.files() if isinstance(model, OnnxNetwork) else ():
        own = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        if not params.names(own):
            raise UserError(f"task.files: add `{own.suffix[1:] or 'weights'}: {own}`, so that another model is noticed")


def open_session(graph: bytes | str) -> onnxruntime.InferenceSession:
    """Open a graph, or the file of one, on the CPU: as many threads as torch has, as sums change their bits with it.

    Optimisations are off: with them on, ONNX Runtime's fused integer kernels are no judge of a QDQ graph.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 4
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def run_samples(
    run: Callable[..., Iterable[np.ndarray]],
    inputs: list[str],
    outputs: list[str],
    batch: tuple[Tensor, ...],
    title: str | None = None,
) -> dict[str, Tensor]:
    """Run a batch sample by sample through the `run` of a session whose outputs come in the order of `outputs`.

    With a title there is a progress bar.
    """
    rows = [
        list(run(None, {name: part[row : row + 1].numpy() for name, part in zip(inputs, batch, strict=True)}))
        for row in tqdm(range(len(batch[0])), desc=title, unit="sample", leave=False, disable=title is None)
    ]
    columns = zip(*rows, strict=True)
    return {name: torch.from_numpy(np.concatenate(column)) for name, column in zip(outputs, columns, strict=True)}


def _inputs(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    constants = {tensor.name for tensor in proto.graph.initializer}
    return [value for value in proto.graph.input if value.name not in constants]


def _read(path: Path) -> onnx.ModelProto:
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
    if quantized := sorted({node.op_type for node in proto.graph.node} & QUANTIZED):
        raise UserError(f"task: {path}: is quantized already ({quantized[0]}); give the float model")
    others = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
    for name, kind in [
        *((tensor.name, tensor.data_type) for tensor in proto.graph.initializer),
        *((value.name, value.type.tensor_type.elem_type) for value in (*proto.graph.input, *proto.graph.output)),
    ]:
        if kind in others:
            raise UserError(f"task: {path}: {name!r} is {TensorProto.DataType.Name(kind)}; export it in float32")
    for value in _inputs(proto):
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].dim_value > 1:
            raise UserError(
                f"task: {path}: {value.name!r} is for batches of {dims[0].dim_value}; the NPU takes one sample at a"
                " time, so export it for a batch of one, or with a free first dimension"
            )
    _open(proto, path)
    return normalize(proto)


def _check_size(path: Path) -> None:
    """Refuse what protobuf cannot hold as one message, which is how the graph goes to ONNX Runtime and AIMET."""
    size = path.stat().st_size
    if size <= LIMIT:
        with suppress(DecodeError):  # said where it is read
            size += sum(file.stat().st_size for file in _files(path)[1:] if file.is_file())
    if size > LIMIT:
        raise UserError(
            f"task: {path}: is {size / 2**30:.1f} GiB with its weights, and an ONNX graph can be of 2 GiB at most;"
            " bring the network as a torch module"
        )


def _files(path: Path) -> list[Path]:
    stored = onnx.load(str(path), load_external_data=False).graph.initializer
    beside = {entry.value for tensor in stored for entry in tensor.external_data if entry.key == "location"}
    return [path, *(path.parent / name for name in sorted(beside))]


def _open(proto: onnx.ModelProto, source: Path) -> onnxruntime.InferenceSession:
    try:
        return open_session(proto.SerializeToString())
    except Exception as error:  # ONNX Runtime's kinds of error share no base
        # without its error code and the function of its own that found it
        text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |/onnxruntime_src/\S+ .*?\) (?=[A-Z])", "", str(error))
        reason = " ".join(text.split())[:300]
        raise UserError(f"task: {source}: ONNX Runtime does not take it: {reason}") from None
