"""FP16: the module itself converted, since an FP16 QuantSim exports nothing of use."""

import copy
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from bitladder.errors import RefusedError
from bitladder.export.fp16_parts import InParts
from bitladder.export.layers import note_layers
from bitladder.network.lines import module_lines
from bitladder.precision import OPSET
from bitladder.quantize.prepare.layouts import bake_weights
from bitladder.quantize.sim.hooks import hooked
from bitladder.running.files import replacing
from bitladder.tasks.onnx_model import OnnxNetwork
from bitladder.tasks.outputs import name_outputs
from bitladder.tasks.source import user_code

__all__ = ["FiniteHalf", "HalfPrecision", "export_fp16"]


class _OnlyHalf(TorchFunctionMode):
    """Rounds to FP16 what functions give in FP32: constants made in forward, `image.float() / 255`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        single = isinstance(result, Tensor) and result.dtype == torch.float32
        return result.half() if single else result


class HalfPrecision(nn.Module):
    """A network computing in FP16 that takes and gives FP32, as the integer graphs do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        torch.backends.mha.set_fastpath_enabled(False)  # fused attention, which has no ONNX
        own = copy.deepcopy(model)
        bake_weights(own)  # spectral norm has no ONNX
        self.model = own.half()
        self._mixes = False
        self.eval()  # the whole of it: torch's exporter puts the mode back in which it finds the outermost module

    def forward(self, *inputs: Tensor) -> Tensor | dict[str, Tensor]:
        """Round floating-point inputs to FP16, run, and widen the outputs; other inputs pass as they are."""
        halves = [value.half() if value.is_floating_point() else value for value in inputs]
        what = "the model in FP16 (it must compute in the type of its weights, without float())"
        with user_code(what, kind=RefusedError):
            returned = self._run(halves)
        outputs = {
            name: value.float() if value.is_floating_point() else value
            for name, value in name_outputs(returned).items()
        }
        return next(iter(outputs.values())) if isinstance(returned, Tensor) else outputs

    def _run(self, inputs: list[Tensor]) -> Any:
        if not self._mixes:
            try:
                with InParts():
                    return self.model(*inputs)
            except RuntimeError:  # FP32 met FP16; a model that computes parts in FP32 on purpose does not come here
                self._mixes = True
        with _OnlyHalf(), InParts():
            return self.model(*inputs)


class FiniteHalf(nn.Module):
    """A network in FP16 that refuses itself where numbers pass the largest of FP16, 65,504."""

    def __init__(self, model: HalfPrecision) -> None:
        super().__init__()
        self.network = model

    def forward(self, *inputs: Tensor) -> Tensor | dict[str, Tensor]:
        """Run a batch. Raise RefusedError that names the layer where numbers become infinite first."""
        returned = self.network(*inputs)
        for values in name_outputs(returned).values():
            if not (finite := values.reshape(len(values), -1).isfinite().all(1)).all():
                self._refuse([one[~finite][:1] for one in inputs])
        return returned

    def _refuse(self, sample: list[Tensor]) -> None:
        found: list[tuple[str, bool]] = []  # layers that give what is not finite; whether something is infinite there

        def listen(name: str, layer: nn.Module) -> RemovableHandle:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                values = output if isinstance(output, list | tuple) else [output]
                tensors = [one for one in values if isinstance(one, Tensor)]
                if not all(one.isfinite().all() for one in tensors):
                    # infinite weights of both signs leave nothing but NaN
                    found.append((name, any(one.isinf().any() for one in [*tensors, *module.parameters()])))

            return layer.register_forward_hook(hook)

        with hooked(listen(name, layer) for name, layer in self.network.model.named_modules()), torch.no_grad():
            self.network(*sample)
        name, infinite = found[0] if found else ("", True)
        where = f" in layer {name!r}" if name else ""
        if not infinite:
            raise RefusedError(
                f"FP16 gives NaN{where}, and nothing before it is infinite: a small eps is 0 in FP16, which holds"
                " nothing under 6e-8, so that 0 is divided by 0 (F.normalize has eps=1e-12); give it 1e-6 or more"
            )
        raise RefusedError(
            f"FP16 overflows{where}: a sample gives infinity or NaN, as it holds numbers to 65,504; scale the"
            " activations down"
        )


def export_fp16(
    model: HalfPrecision, sample: tuple[Tensor, ...], names: tuple[list[str], list[str]], path: Path
) -> None:
    """Write the network as ONNX for a batch of one. `names` are those of the graph's inputs and outputs."""
    if isinstance(model.model, OnnxNetwork):
        with replacing(path) as temporary:
            onnx.save(model.model.fixed(sample).proto, str(temporary))
        return
    model.to("cpu")
    lines = {name.removeprefix("model."): line for name, line in module_lines(model, sample).items()}
    # redirect_stdout: where it fails, torch prints the whole graph
    with replacing(path) as temporary, torch.no_grad(), redirect_stdout(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dynamo=False is called deprecated; dynamo=True leaves files of random names
        torch.onnx.export(
            model,
            sample,
            str(temporary),
            input_names=names[0],
            output_names=names[1],
            opset_version=OPSET,
            dynamo=False,
        )
    _mend(path)
    note_layers(path, model.model, lines, within="model")


def _mend(path: Path) -> None:
    """Take out what the NPU gets wrong of numbers' types, or does not take."""
    proto = onnx.load(path)
    _singles(proto)
    _join_casts(proto)
    with replacing(path) as temporary:
        onnx.save(proto, str(temporary))


def _join_casts(proto: onnx.ModelProto) -> None:
    """Cast whole numbers to FP16 in one step: by way of FP32, as from `image.float()`, the NPU gives wrong numbers."""
    casts = {node.output[0]: node for node in proto.graph.node if node.op_type == "Cast"}
    for node in casts.values():
        before = casts.get(node.input[0])
        if before and _type_of(before).i == TensorProto.FLOAT and _type_of(node).i == TensorProto.FLOAT16:
            node.input[0] = before.input[0]
    read = {name for node in proto.graph.node for name in node.input} | {one.name for one in proto.graph.output}
    for node in casts.values():
        if node.output[0] not in read:
            proto.graph.node.remove(node)


def _singles(proto: onnx.ModelProto) -> None:
    """Have FP32 where torch's exporter puts FP64, for Python's numbers: the backend takes none."""
    tensors = [attribute.t for node in proto.graph.node for attribute in node.attribute]
    for tensor in (*proto.graph.initializer, *tensors):
        if tensor.data_type == TensorProto.DOUBLE:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for node in proto.graph.node:
        if node.op_type == "Cast" and _type_of(node).i == TensorProto.DOUBLE:
            _type_of(node).i = TensorProto.FLOAT
    for value in proto.graph.value_info:
        if value.type.tensor_type.elem_type == TensorProto.DOUBLE:
            value.type.tensor_type.elem_type = TensorProto.FLOAT


def _type_of(cast: onnx.NodeProto) -> onnx.AttributeProto:
    return next(attribute for attribute in cast.attribute if attribute.name == "to")
