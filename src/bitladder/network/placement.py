"""Where networks run: the device of params.yaml's compute.device, the same for everything in a process."""

from typing import Any

import torch
from torch import Tensor, nn

from bitladder.errors import UserError

__all__ = ["check_device", "compute_device", "on_device", "placed"]


def compute_device() -> torch.device:
    """Give the device of this process. Where compute.device is cpu, `pin` has hidden the GPU from torch."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check_device(wanted: str) -> None:
    """Refuse a GPU that is not there; have one give the same bits each time. Raises UserError."""
    if wanted == "cpu":
        return
    if not torch.cuda.is_available():
        raise UserError(
            "compute.device: cuda, and torch finds no GPU here; set compute.device: cpu, or run where there is one"
        )
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def placed(model: Any) -> Any:
    """Move a network to the device, in place, and give it. One that came as ONNX has no parameters, and stays."""
    if isinstance(model, nn.Module) and next(model.parameters(), None) is not None:
        model.to(compute_device())
    return model


def on_device(values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Move a batch's inputs to the device."""
    return tuple(value.to(compute_device()) for value in values)
