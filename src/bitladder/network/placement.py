"""Where networks run: the device of params.yaml's compute.device, the same for everything in a process."""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["compute_device", "on_device", "placed"]


def compute_device() -> torch.device:
    """Give the device of this process. Where compute.device is cpu, `pin` has hidden the GPU from torch."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def placed(model: Any) -> Any:
    """Move a network to the device, in place and in evaluation mode, and give it; any other predictor as it is.

    One that came as ONNX has no parameters, and stays where it is.
    """
    if isinstance(model, nn.Module):
        model.eval()
        if next(model.parameters(), None) is not None:
            model.to(compute_device())
    return model


def on_device(values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Move a batch's inputs to the device."""
    return tuple(value.to(compute_device()) for value in values)
