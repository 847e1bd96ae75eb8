"""FP16: the module itself converted, since an FP16 QuantSim exports nothing of use."""

import copy
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from bitladder.precision import OPSET
from bitladder.running.files import replacing
from bitladder.tasks.onnx_model import OnnxNetwork
from bitladder.tasks.source import user_code
from bitladder.tasks.task import as_returned, name_outputs

__all__ = ["HalfPrecision", "export_fp16"]


class HalfPrecision(nn.Module):
    """A network computing in FP16 that takes and gives FP32, as the integer graphs do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        torch.backends.mha.set_fastpath_enabled(False)  # fused attention, which has no ONNX
        self.model = copy.deepcopy(model).half().eval()

    def forward(self, *inputs: Tensor) -> Tensor | dict[str, Tensor]:
        """Round floating-point inputs to FP16, run, and widen the outputs; other inputs pass as they are."""
        halves = [value.half() if value.is_floating_point() else value for value in inputs]
        with user_code("the model in FP16 (it must compute in the type of its weights, without float())"):
            returned = self.model(*halves)
        outputs = {name: value.float() for name, value in name_outputs(returned).items()}
        return outputs if isinstance(returned, dict) else as_returned(outputs)


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
