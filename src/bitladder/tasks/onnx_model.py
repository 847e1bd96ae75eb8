"""A network that comes as an ONNX file, with the face of a torch module, so that few stages need to know of it.

ONNX Runtime runs it, optimisations off, a sample at a time: on the NPU the batch is one too.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from tqdm import tqdm

from bitladder.errors import UserError
from bitladder.params import TaskParams
from bitladder.tasks.onnx_file import files_of, load, open_graph, read
from bitladder.tasks.onnx_forms.cut import tail_of
from bitladder.tasks.onnx_forms.sizes import inputs_of, sizes_of
from bitladder.tasks.outputs import as_returned

__all__ = ["OnnxModel", "OnnxNetwork", "check_hashed", "no_loss", "run_samples", "why_untrained"]


def no_loss(outputs: Any, targets: Tensor) -> Tensor:
    """Stand for the loss of a network that is not trained."""
    return torch.zeros(())


@dataclass(frozen=True)
class OnnxModel:
    """Takes a network from an .onnx file: `Task(OnnxModel("net.onnx"), splits, no_loss, metric)`.

    The path is from the folder that holds params.yaml. Inputs and outputs keep the names that they have in the graph.
    `shapes` fixes sizes of inputs that the file leaves free; `outputs` names the tensors that the network ends with, so
    that the work after them, such as decoding boxes, stays on the host: `tail` does it.
    """

    path: str
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    outputs: Sequence[str] = ()

    def __call__(self) -> "OnnxNetwork":
        """Read the file. Raise UserError that says what is wrong with it."""
        return OnnxNetwork(read(Path(self.path), self.shapes, self.outputs), Path(self.path))

    def tail(self, outputs: Tensor | Mapping[str, Tensor]) -> Tensor | dict[str, Tensor]:
        """Do in float what the file does after `outputs`, for a metric: as the network gives its outputs.

        Raises UserError where it reads more than these.
        """
        given = [outputs] if isinstance(outputs, Tensor) else [outputs[name] for name in self.outputs]
        session, names = _tail(self.path, tuple(self.outputs))
        return as_returned(run_samples(session.run, list(self.outputs), names, tuple(given)))


@cache
def _tail(path: str, outputs: tuple[str, ...]) -> tuple[onnxruntime.InferenceSession, list[str]]:
    part = tail_of(load(Path(path)), outputs, path)
    return open_graph(part, Path(path)), [value.name for value in part.graph.output]


class OnnxNetwork(nn.Module):
    """A graph. Its state_dict is its float32 initializers; forward takes its inputs in order, gives outputs by name."""

    def __init__(self, proto: onnx.ModelProto, source: Path) -> None:
        super().__init__()
        self.proto, self.source = proto, source
        self._session: onnxruntime.InferenceSession | None = None

    @property
    def inputs(self) -> list[str]:
        """Names of the graph's inputs, in order."""
        return [value.name for value in inputs_of(self.proto)]

    @property
    def outputs(self) -> list[str]:
        """Names of the graph's outputs, in order."""
        return [value.name for value in self.proto.graph.output]

    def files(self) -> list[Path]:
        """Give the files that the network was read from: the .onnx, and those that hold its weights beside it."""
        return files_of(self.source)

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Run a batch, sample by sample."""
        self._session = self._session or open_graph(self.proto, self.source)
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
        for value, tensor in zip(inputs_of(proto), sample, strict=True):
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
        for value in inputs_of(self.proto):
            found, taken = inputs[value.name], value.type.tensor_type
            dtype = str(found.numpy().dtype)
            wanted = str(helper.tensor_dtype_to_np_dtype(taken.elem_type))
            shape = sizes_of(value)
            fits = len(shape) == found.ndim and all(
                size == own for size, own in zip(found.shape[1:], shape[1:], strict=True) if isinstance(own, int)
            )
            if taken.HasField("shape") and (dtype != wanted or not fits):
                raise UserError(
                    f"task: {value.name!r} of the splits is {['N', *found.shape[1:]]} of {dtype}, and {self.source}"
                    f" takes {shape} of {wanted}"
                )
        free = {
            value.name: [1, *inputs[value.name].shape[1:]]
            for value in inputs_of(self.proto)
            if not all(isinstance(size, int) for size in sizes_of(value)[1:])
        }
        if free:
            raise UserError(
                f"task: {self.source} leaves sizes of {', '.join(free)} free, and the NPU takes fixed ones; if all"
                f" samples are as the first, write OnnxModel({str(self.source)!r}, shapes={free})"
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
