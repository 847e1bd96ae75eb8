"""Distillation: a quantized network learns the answers of the FP32 network that it was made from."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitladder.network.evaluate import Outputs, predict
from bitladder.network.model import output_names
from bitladder.network.training import Batch
from bitladder.tasks.task import Split, Task, as_returned, name_outputs

__all__ = ["distance", "distilled"]


def distilled(
    teacher: nn.Module, task: Task, train: Split, weight: float, batch_size: int
) -> Callable[[Any, Batch], Tensor]:
    """Mix the task's loss with the distance to the teacher's answers, in parts 1 - weight and weight.

    Without augmentation the teacher answers once for the whole split; with it, for every batch as it was changed.
    """
    classes = not train.targets.is_floating_point()
    known = None if task.augment else predict(teacher.eval(), train, batch_size, "fp32 answers")

    def loss(returned: Any, batch: Batch) -> Tensor:
        outputs = name_outputs(returned)
        names = list(outputs)
        if known:
            answers = {name: values[batch.rows.cpu()] for name, values in known.items()}
        else:
            with torch.no_grad():
                inputs = (values.cpu() for values in batch.inputs.values())
                answers = name_outputs(teacher(*inputs), output_names(teacher))
        answers = dict(zip(names, answers.values(), strict=True))
        away = weight * distance(outputs, answers, classes)
        return away if weight == 1 else away + (1 - weight) * task.loss(as_returned(outputs), batch.targets)

    return loss


def distance(outputs: Outputs, answers: Mapping[str, Tensor], classes: bool) -> Tensor:
    """Sum, over outputs, how far they are from the answers.

    Args:
        outputs: by name; of several samples.
        answers: the same of the teacher.
        classes: whether dimension 1 holds scores of classes: then it is the Kullback-Leibler divergence
            (arXiv:1503.02531), else the mean square error as a share of the answers' own mean square.

    """
    parts = [_distance(values, answers[name].to(values.device), classes) for name, values in outputs.items()]
    return torch.stack(parts).sum()


def _distance(output: Tensor, answer: Tensor, classes: bool) -> Tensor:
    if classes and output.ndim > 1 and output.shape[1] > 1:
        scores, wanted = functional.log_softmax(output, 1), functional.log_softmax(answer, 1)
        return functional.kl_div(scores, wanted, reduction="none", log_target=True).sum(1).mean()
    return functional.mse_loss(output, answer) / answer.square().mean().clamp_min(1e-12)
