"""What a user brings: a model, its data, its metric and its loss."""

import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bitladder.errors import UserError

__all__ = ["SPLITS", "Metric", "Split", "Task", "as_returned", "load_task", "make_splits", "name_outputs"]

SPLITS = ("train", "calibration", "evaluation")


@dataclass(frozen=True)
class Split:
    """Samples of one split.

    `inputs` maps each input's name (also its name in the exported graph) to a tensor whose first dimension is the
    number of samples, in the order in which the model takes them; `targets` has the same first dimension.
    """

    inputs: dict[str, Tensor]
    targets: Tensor

    def __len__(self) -> int:
        """Give the number of samples."""
        return len(self.targets)

    def first(self, count: int) -> "Split":
        """Give the first `count` samples, or all if there are fewer."""
        return Split({name: values[:count] for name, values in self.inputs.items()}, self.targets[:count])


@dataclass(frozen=True)
class Metric:
    """How good outputs are. `compute` takes what the model returns for a whole split, and the targets."""

    name: str
    compute: Callable[[Any, Tensor], float]
    higher_is_better: bool = True

    def __call__(self, outputs: Mapping[str, Tensor], targets: Tensor) -> float:
        """Score the outputs of a split, by name. Raise UserError if the task's metric gives no finite number."""
        value = self.compute(as_returned(outputs), targets)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(
                f"task: the metric {self.name!r} must return a finite float, and returned {value!r};"
                " check Metric.compute, and the outputs for NaN"
            )
        return float(value)

    def drop(self, reference: float, value: float) -> float:
        """How much worse `value` is than `reference`; negative if it is better.

        Rounded past what a metric can mean, so that a drop of just the limit is not over it by the last bit.
        """
        return round(reference - value if self.higher_is_better else value - reference, 9)


@dataclass(frozen=True)
class Task:
    """Everything the pipeline needs to know of a user's model.

    `model` builds the network, not yet trained or with weights of its own; `splits` gives the three splits of
    SPLITS for a seed; `loss` takes what the model returns and the targets, and gives a scalar tensor; `augment`,
    if there is one, changes a batch of training inputs, drawing from the generator it is given.
    """

    model: Callable[[], nn.Module]
    splits: Callable[[int], Mapping[str, Split]]
    loss: Callable[[Any, Tensor], Tensor]
    metric: Metric
    augment: Callable[[dict[str, Tensor], torch.Generator], dict[str, Tensor]] | None = None


def load_task(factory: str, args: Mapping[str, Any]) -> Task:
    """Call the task factory that params.yaml names (`package.module:name`) with its args.

    Raises UserError that says whether the module, the name in it, or the arguments are wrong.
    """
    module_name, _, name = factory.partition(":")
    try:
        make = getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        raise UserError(f"task.factory: cannot import {module_name!r} ({error})") from None
    except AttributeError:
        raise UserError(f"task.factory: {module_name!r} has no {name!r}") from None
    try:
        inspect.signature(make).bind(**args)
    except TypeError as error:
        raise UserError(f"task.args: {factory} {error}; it takes {inspect.signature(make)}") from None
    task = make(**args)
    if not isinstance(task, Task):
        raise UserError(f"task.factory: {factory} must return a Task, and returned {type(task).__name__}")
    return task


def make_splits(task: Task, seed: int) -> dict[str, Split]:
    """Call the task for its splits. Raise UserError where one is missing, empty, or unlike the others."""
    splits = task.splits(seed)
    for name in SPLITS:
        if name not in splits:
            raise UserError(f"task: splits() gave no {name!r} split; it must give {', '.join(SPLITS)}")
        split = splits[name]
        if not len(split) or not split.inputs:
            raise UserError(f"task: the {name!r} split is empty")
        if list(split.inputs) != list(splits["train"].inputs):
            raise UserError(f"task: the {name!r} split has inputs {list(split.inputs)}, unlike the 'train' split")
        for input_name, values in split.inputs.items():
            if len(values) != len(split):
                raise UserError(
                    f"task: the {name!r} split has {len(values)} samples of {input_name!r} and {len(split)} targets"
                )
    return {name: splits[name] for name in SPLITS}


def name_outputs(returned: Any) -> dict[str, Tensor]:
    """Name what a model returned: a tensor is `output`, a sequence `output_0`, `output_1`, ...; a dict names its own.

    Raises UserError for anything else.
    """
    if isinstance(returned, Tensor):
        return {"output": returned}
    if isinstance(returned, list | tuple):
        returned = {f"output_{index}": value for index, value in enumerate(returned)}
    if isinstance(returned, dict) and all(isinstance(value, Tensor) for value in returned.values()):
        return dict(returned)
    raise UserError(
        f"task: the model must return a tensor, a tuple or a dict of tensors; it returned {type(returned).__name__}"
    )


def as_returned(outputs: Mapping[str, Tensor]) -> Tensor | dict[str, Tensor]:
    """Give outputs as a metric or a loss takes them: the tensor itself if it is the only one, else all by name."""
    return next(iter(outputs.values())) if len(outputs) == 1 else dict(outputs)
