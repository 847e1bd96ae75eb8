"""The user's network with its weights in it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from bitladder.errors import UserError
from bitladder.running.files import load_tensors
from bitladder.tasks.samples import Samples, in_memory
from bitladder.tasks.source import user_code
from bitladder.tasks.task import Task

__all__ = [
    "build_model",
    "build_network",
    "carry_notes",
    "has_folded",
    "keep_folded",
    "keep_output_names",
    "load_weights",
    "output_names",
    "sample_inputs",
]

NAMES, FOLDED = "bitladder_output_names", "bitladder_folded"

torch.backends.mha.set_fastpath_enabled(False)  # fused attention: neither AIMET nor the export of FP16 knows it


def build_model(task: Task, weights: Path) -> nn.Module:
    """Build the task's network, put trained weights in, and set it to evaluation."""
    model = build_network(task)
    load_weights(model, load_tensors(weights), weights)
    return model.eval()


def build_network(task: Task) -> nn.Module:
    """Call the task for its network. Raise UserError where it is none, holds NaN, or does not lie on the CPU."""
    if isinstance(task.model, nn.Module):
        raise UserError("task: model must be a function that builds the network, and is one; give lambda: network")
    with user_code("model()"):
        model = task.model()
    if isinstance(model, nn.DataParallel):
        model = model.module  # the wrapper only spreads batches over GPUs
    if isinstance(model, torch.jit.ScriptModule):
        raise UserError("task: model() returned TorchScript, which cannot be quantized; return the nn.Module it is of")
    if not isinstance(model, nn.Module):
        raise UserError(f"task: model() must return a torch.nn.Module, and returned {type(model).__name__}")
    for name, values in model.state_dict().items():
        if values.device.type != "cpu":
            raise UserError(f"task: the model's {name!r} lies on {values.device}; return it on the CPU")
        if values.is_floating_point() and values.dtype != torch.float32:
            raise UserError(f"task: the model's {name!r} is {values.dtype}; return the model in float32: model.float()")
        if values.is_floating_point() and not values.isfinite().all():
            raise UserError(f"task: the model's weights {name!r} hold NaN or infinity")
    return model


def keep_output_names(model: nn.Module, names: Sequence[str]) -> None:
    """Note on a network that gives a tensor or a tuple how the user's own network calls these outputs."""
    setattr(model, NAMES, tuple(names))


def keep_folded(model: nn.Module, folded: bool) -> None:
    """Note on a prepared network whether batch norms were folded into its layers."""
    setattr(model, FOLDED, folded)


def has_folded(model: nn.Module) -> bool:
    """Say whether batch norms were folded into a network's layers, as was noted on it."""
    return getattr(model, FOLDED, False)


def carry_notes(source: nn.Module, network: nn.Module) -> None:
    """Give a copy of a network what was noted on it, which copies of torch.fx's modules lose."""
    for name, value in vars(source).items():
        if name.startswith("bitladder_"):
            setattr(network, name, value)


def output_names(model: object) -> tuple[str, ...] | None:
    """Give the names that were noted on a network; None if it names its outputs itself."""
    return getattr(model, NAMES, None)


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


def sample_inputs(samples: Samples) -> tuple[Tensor, ...]:
    """Give the first sample as the model takes it: a batch of one, which is also the batch that is exported."""
    return tuple(torch.clone(values) for values in in_memory(samples.first(1)).inputs.values())
