"""What a float network notes when its ReLU6 became ReLU, so that the next stage builds it so."""

from pathlib import Path

import torch
from torch import Tensor, nn

from bitladder.running.files import load_tensors

__all__ = ["NOTE", "keep_relu", "needs_relu", "note_of"]

NOTE = "bitladder_relu6_swapped"


def keep_relu(model: nn.Module) -> None:
    """Note on a float network that its ReLU6 became ReLU."""
    setattr(model, NOTE, True)


def note_of(model: nn.Module) -> dict[str, Tensor]:
    """Give what says so in a saved sim."""
    return {NOTE: torch.ones(1)} if getattr(model, NOTE, False) else {}


def needs_relu(path: Path) -> bool:
    """Say whether a saved sim is of a network whose ReLU6 became ReLU."""
    return NOTE in load_tensors(path)
