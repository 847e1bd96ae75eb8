"""A task tried on a few samples before any long work: what is wrong with it is said at once, in one line."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bitladder.errors import UserError
from bitladder.network.model import build_network
from bitladder.tasks.onnx_model import OnnxNetwork
from bitladder.tasks.outputs import as_returned, name_outputs
from bitladder.tasks.samples import Samples, Split, in_memory
from bitladder.tasks.source import user_code
from bitladder.tasks.task import Task

__all__ = ["try_task"]

FEW = 2

BATCH_TOLERANCE = 1e-2  # relative; sums of other batch sizes differ by 1e-6, a network that mixes samples by 1


def try_task(task: Task, splits: Mapping[str, Samples]) -> nn.Module:
    """Run a batch of two through the model, the loss, the metric and the augmentation, and check what they give.

    Returns the network that was tried. Raises UserError that names what is wrong.
    """
    split = in_memory(splits["train"].first(FEW))
    model = build_network(task).eval()
    if isinstance(model, OnnxNetwork):
        model.check_inputs(split.inputs)
    outputs, again = _run(model, split), _run(model, split)
    for name, values in outputs.items():
        if not torch.equal(values.nan_to_num(), again[name].nan_to_num()):
            raise UserError(
                f"task: the model's {name!r} differs from one run to the next; is there dropout that does not stop in"
                " evaluation (F.dropout without training=self.training) or other randomness?"
            )
        if not values.ndim or len(values) != len(split):
            raise UserError(
                f"task: the model's {name!r} has shape {tuple(values.shape)} for {len(split)} samples; its first"
                " dimension must be the number of samples"
            )
        if values.is_complex():
            raise UserError(f"task: the model's {name!r} is {values.dtype}; give its real and imaginary part apart")
        if not values.isfinite().all():
            raise UserError(f"task: the model's {name!r} holds NaN or infinity already in FP32")
    if both := sorted(set(split.inputs) & set(outputs)):
        raise UserError(f"task: {both[0]!r} names an input and an output of the model; rename one of them")
    for name, values in _run(model, split.first(1)).items():
        expected = outputs[name][:1]
        if values.shape != expected.shape or _differ(values, expected):
            raise UserError(
                f"task: the model's {name!r} of a sample depends on the samples beside it; the NPU takes one at a time"
            )
    _try_loss(task, model, split)
    with torch.no_grad():
        task.metric(outputs, split.targets)
    if task.augment:
        with user_code("augment()"):
            changed = task.augment(dict(split.inputs), torch.Generator().manual_seed(0))
        if not isinstance(changed, dict) or list(changed) != list(split.inputs):
            raise UserError(f"task: augment() must give the inputs {list(split.inputs)} as a dict")
    return model


def _run(model: nn.Module, split: Split) -> dict[str, Tensor]:
    shapes = ", ".join(f"{name} {tuple(values.shape)}" for name, values in split.inputs.items())
    with torch.no_grad(), user_code(f"the model, given {shapes},"):
        returned = model(*split.inputs.values())
    return name_outputs(returned)


def _differ(values: Tensor, expected: Tensor) -> bool:
    if not values.is_floating_point():  # by other sums, a sample near a limit may be on its other side
        return (values != expected).double().mean().item() > BATCH_TOLERANCE
    return bool((values - expected).norm() > BATCH_TOLERANCE * expected.norm() + 1e-6)


def _try_loss(task: Task, model: nn.Module, split: Split) -> None:
    with user_code("the loss"):
        loss = task.loss(as_returned(name_outputs(model(*split.inputs.values()))), split.targets)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        found = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise UserError(f"task: the loss must be one number as a tensor, and gave {found}")
    if not loss.isfinite():
        raise UserError(f"task: the loss of the first samples is {loss.item()}")
    trained = any(parameter.requires_grad for parameter in model.parameters())
    if trained and not loss.requires_grad:
        raise UserError("task: the loss does not depend on the model's weights; is there a detach() or a no_grad()?")
