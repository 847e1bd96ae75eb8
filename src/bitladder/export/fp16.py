"""FP16: the module itself converted, since an FP16 QuantSim exports nothing of use."""

import copy
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from bitladder.files import replacing
from bitladder.tasks.task import as_returned, name_outputs

__all__ = ["HalfPrecision", "export_fp16"]

OPSET = 21


class HalfPrecision(nn.Module):
    """A network computing in FP16 that takes and gives FP32, as the integer graphs do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).half().eval()

    def forward(self, *inputs: Tensor) -> Tensor | dict[str, Tensor]:
        """Round floating-point inputs to FP16, run, and widen the outputs; other inputs pass as they are."""
        returned = self.model(*(value.half() if value.is_floating_point() else value for value in inputs))
        return as_returned({name: value.float() for name, value in name_outputs(returned).items()})


def export_fp16(
    model: HalfPrecision, sample: tuple[Tensor, ...], names: tuple[list[str], list[str]], path: Path
) -> None:
    """Write the network as ONNX for a batch of one. `names` are those of the graph's inputs and outputs."""
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
