"""Distillation: a quantized network learns the outputs of the FP32 network that it was made from."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitladder.network.evaluate import predict, run_batch
from bitladder.network.outputs import Outputs
from bitladder.network.training import Batch
from bitladder.tasks.outputs import as_returned, name_outputs
from bitladder.tasks.samples import HELD_BYTES, Samples, Split
from bitladder.tasks.task import Task

__all__ = ["distance", "distilled"]


def distilled(
    teacher: nn.Module, task: Task, train: Samples, weight: float, batch_size: int
) -> Callable[[Any, Batch], Tensor]:
    """Mix the task's loss with the distance to the teacher's outputs, in parts 1 - weight and weight.

    Of samples in memory without augmentation the teacher's outputs are kept, where they take little of it; else it runs
    on every batch, as it was changed.
    """
    teacher.eval()
    keep = isinstance(train, Split) and not task.augment and _bytes(teacher, train) <= HELD_BYTES
    known = predict(teacher, train, batch_size, "fp32 outputs") if keep else None

    def loss(returned: Any, batch: Batch) -> Tensor:
        outputs = name_outputs(returned)
        names = list(outputs)
        if known:
            taught = {name: values[batch.rows.cpu()] for name, values in known.items()}
        else:
            with torch.no_grad():
                taught = run_batch(teacher, batch.inputs)
        taught = dict(zip(names, taught.values(), strict=True))
        classes = isinstance(batch.targets, Tensor) and not batch.targets.is_floating_point()
        away = weight * distance(outputs, taught, classes)
        return away if weight == 1 else away + (1 - weight) * task.loss(as_returned(outputs), batch.targets)

    return loss


def _bytes(teacher: nn.Module, train: Samples) -> int:
    """Give what the outputs of all samples take."""
    inputs, _ = next(train.first(1).batches(1))
    with torch.no_grad():
        return len(train) * sum(values.nbytes for values in run_batch(teacher, inputs).values())


def distance(outputs: Outputs, taught: Mapping[str, Tensor], classes: bool) -> Tensor:
    """Sum, over outputs, how far they are from the teacher's.

    Args:
        outputs: by name; of several samples.
        taught: the same of the teacher.
        classes: whether dimension 1 holds scores of classes: then it is the Kullback-Leibler divergence
            (arXiv:1503.02531), else the mean square error as a share of the teacher's own mean square.

    """
    parts = [_distance(values, taught[name].to(values.device), classes) for name, values in outputs.items()]
    return torch.stack(parts).sum()


def _distance(output: Tensor, taught: Tensor, classes: bool) -> Tensor:
    if classes and output.ndim > 1 and output.shape[1] > 1:
        scores, wanted = functional.log_softmax(output, 1), functional.log_softmax(taught, 1)
        return functional.kl_div(scores, wanted, reduction="none", log_target=True).sum(1).mean()
    return functional.mse_loss(output, taught) / taught.square().mean().clamp_min(1e-12)
