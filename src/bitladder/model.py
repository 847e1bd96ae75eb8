"""The user's network with its weights in it, and the files that hold samples."""

from pathlib import Path

import torch
from torch import Tensor, nn

from bitladder.errors import UserError
from bitladder.files import load_tensors, save_tensors
from bitladder.tasks.task import Split, Task

__all__ = ["build_model", "load_split", "load_weights", "sample_inputs", "save_split"]


def build_model(task: Task, weights: Path) -> nn.Module:
    """Build the task's network, put trained weights in, and set it to evaluation."""
    model = task.model()
    load_weights(model, load_tensors(weights), weights)
    return model.eval()


def load_weights(model: nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Put weights into a model. Raise UserError, with the first name or shape that differs, if they do not fit."""
    own = model.state_dict()
    for name in sorted({*own, *tensors}):
        if name not in tensors:
            raise UserError(f"{source}: has no weights for {name!r}; do they belong to this model?")
        if name not in own:
            raise UserError(f"{source}: has weights for {name!r}, which the model does not have")
        if own[name].shape != tensors[name].shape:
            shapes = f"{tuple(tensors[name].shape)}, and the model wants {tuple(own[name].shape)}"
            raise UserError(f"{source}: {name!r} has shape {shapes}")
    model.load_state_dict(tensors)


def save_split(path: Path, split: Split) -> None:
    """Write a split as safetensors; the order of its inputs goes into their names."""
    tensors = {f"inputs.{index}.{name}": values for index, (name, values) in enumerate(split.inputs.items())}
    save_tensors(path, {**tensors, "targets": split.targets})


def load_split(path: Path) -> Split:
    """Read what save_split wrote."""
    tensors = load_tensors(path)
    targets = tensors.pop("targets")
    keys = sorted(tensors, key=lambda key: int(key.split(".", 2)[1]))
    return Split({key.split(".", 2)[2]: tensors[key] for key in keys}, targets)


def sample_inputs(split: Split) -> tuple[Tensor, ...]:
    """Give the first sample as the model takes it: a batch of one, which is also the batch that is exported."""
    return tuple(torch.clone(values) for values in split.first(1).inputs.values())
