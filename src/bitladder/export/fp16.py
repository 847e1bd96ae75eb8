"""FP16: the module itself converted, since an FP16 QuantSim exports nothing of use."""

import copy
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bitladder.precision import OPSET
from bitladder.running.files import replacing
from bitladder.tasks.onnx_model import OnnxNetwork
from bitladder.tasks.source import user_code
from bitladder.tasks.task import name_outputs

__all__ = ["HalfPrecision", "export_fp16"]


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
        self.model = copy.deepcopy(model).half().eval()
        self._mixes = False

    def forward(self, *inputs: Tensor) -> Tensor | dict[str, Tensor]:
        """Round floating-point inputs to FP16, run, and widen the outputs; other inputs pass as they are."""
        halves = [value.half() if value.is_floating_point() else value for value in inputs]
        with user_code("the model in FP16 (it must compute in the type of its weights, without float())"):
            returned = self._run(halves)
        outputs = {
            name: value.float() if value.is_floating_point() else value
            for name, value in name_outputs(returned).items()
        }
        return next(iter(outputs.values())) if isinstance(returned, Tensor) else outputs

    def _run(self, inputs: list[Tensor]) -> Any:
        if not self._mixes:
            try:
                return self.model(*inputs)
            except RuntimeError:  # FP32 met FP16; a model that computes parts in FP32 on purpose does not come here
                self._mixes = True
        with _OnlyHalf():
            return self.model(*inputs)


def export_fp16(
    model: HalfPrecision, sample: tuple[Tensor, ...], names: tuple[list[str], list[str]], path: Path
) -> None:
    """Write the network as ONNX for a batch of one. `names` are those of the graph's inputs and outputs."""
    if isinstance(model.model, OnnxNetwork):
        with replacing(path) as temporary:
            onnx.save(model.model.fixed(sample).proto, str(temporary))
        return
    with replacing(path) as temporary, torch.no_grad(), warnings.catch_warnings():
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
