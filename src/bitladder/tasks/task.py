"""What a user brings: a model, its data, its metric and its loss."""

import dataclasses
import hashlib
import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitladder.errors import UserError
from bitladder.tasks.source import find_factory, user_code

__all__ = [
    "SPLITS",
    "Metric",
    "Quantization",
    "Split",
    "Task",
    "as_returned",
    "flatten_outputs",
    "load_task",
    "make_splits",
    "name_outputs",
]


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

    def after(self, count: int) -> "Split":
        """Give the samples after the first `count`; none, if there are no more."""
        return Split({name: values[count:] for name, values in self.inputs.items()}, self.targets[count:])

    def subset(self, rows: Tensor) -> "Split":
        """Give the samples with these indices, in their order."""
        return Split({name: values[rows] for name, values in self.inputs.items()}, self.targets[rows])

    def batches(self, size: int) -> Iterator[tuple[Tensor, ...]]:
        """Give the inputs as the model takes them, `size` samples at a time, in their order; the last may be fewer."""
        for start in range(0, len(self), size):
            yield tuple(values[start : start + size] for values in self.inputs.values())

    def row(self, index: int) -> dict[str, np.ndarray]:
        """Give a sample's inputs as ONNX Runtime takes them: a batch of one, by name."""
        return {name: values[index : index + 1].numpy() for name, values in self.inputs.items()}


@dataclass(frozen=True)
class Metric:
    """How good outputs are. `compute` takes what the model returns for a whole split, and the targets."""

    name: str
    compute: Callable[[Any, Tensor], float]
    higher_is_better: bool = True

    def __call__(self, outputs: Mapping[str, Tensor], targets: Tensor) -> float:
        """Score the outputs of a split, by name. Raise UserError if the task's metric gives no finite number."""
        with user_code(f"the metric {self.name!r}"):
            value = self.compute(as_returned(outputs), targets)
        if isinstance(value, Tensor) and value.numel() == 1:  # as torchmetrics give it
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(
                f"task: the metric {self.name!r} must return a finite float, and returned {value!r};"
                " check Metric.compute, and the outputs for NaN"
            )
        return float(value)

    def drop(self, reference: float, value: float) -> float:
        """How much worse `value` is than `reference`; negative if it is better.

        Rounded to 9 digits of the metric, so that a drop of just the limit is not over it by the last bit.
        """
        drop, largest = (
            reference - value if self.higher_is_better else value - reference,
            max(abs(reference), abs(value)),
        )
        return round(drop, 8 - math.floor(math.log10(largest))) if drop else 0.0


@dataclass(frozen=True)
class Quantization:
    """What a task asks of AIMET beyond the default.

    `define` is called before a QuantSim is built: it imports what registers quantized definitions of the task's own
    module types (`@QuantizationMixin.implements(MyModule)`), and so keeps AIMET out of the stages that do not need it.
    `config` is the path of a QuantSim configuration in JSON that takes the place of the SoC's. `exclude` names layers
    that stay in float.
    """

    define: Callable[[], Any] | None = None
    config: str | None = None
    exclude: Sequence[str] = ()


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
    quantization: Quantization = field(default_factory=Quantization)


def load_task(factory: str, args: Mapping[str, Any]) -> Task:
    """Call the task factory that params.yaml names with its args.

    Args:
        factory: `package.module:name`, or `path/to/file.py:name` from the folder that holds params.yaml.
        args: for the factory.

    Raises UserError that says whether the module, the name in it, the arguments or the task itself is wrong.

    """
    make = find_factory(factory)
    try:
        inspect.signature(make).bind(**args)
    except TypeError as error:
        raise UserError(f"task.args: {factory} {error}; it takes {inspect.signature(make)}") from None
    with user_code(f"task.factory: {factory}"):
        task = make(**args)
    if not isinstance(task, Task):
        raise UserError(f"task.factory: {factory} must return a Task, and returned {type(task).__name__}")
    for name in ("model", "splits", "loss"):
        if not callable(getattr(task, name)):
            raise UserError(f"task: {name} must be a function, and is {getattr(task, name)!r}")
    if not isinstance(task.metric, Metric) or not callable(task.metric.compute):
        raise UserError(f"task: metric must be a Metric(name, function), and is {task.metric!r}")
    return task


def make_splits(task: Task, seed: int) -> dict[str, Split]:
    """Call the task for its splits, and shuffle each; the same for the same seed.

    A folder is read class by class, and the stages take the first samples of a split: to fit techniques, to run on the
    NPU. Unshuffled, they would see its first classes only.

    Raises UserError where a split is missing, empty, or unlike the others.
    """
    with user_code("splits()"):
        splits = task.splits(seed)
    if not isinstance(splits, Mapping):
        raise UserError(f"task: splits() must give a dict of {', '.join(SPLITS)}; it gave {type(splits).__name__}")
    for name in SPLITS:
        if name not in splits:
            raise UserError(f"task: splits() gave no {name!r} split; it must give {', '.join(SPLITS)}")
        split = splits[name]
        if not isinstance(split, Split) or not isinstance(split.inputs, dict):
            raise UserError(f"task: the {name!r} split must be a Split({{input name: tensor}}, targets)")
        for part, values in (*split.inputs.items(), ("targets", split.targets)):
            if not isinstance(values, Tensor):
                kind = type(values).__name__
                raise UserError(f"task: {part!r} of the {name!r} split must be a tensor, and is of type {kind}")
            if not values.ndim:
                raise UserError(
                    f"task: {part!r} of the {name!r} split is a single number; its first dimension must be the number"
                    " of samples"
                )
        if not len(split) or not split.inputs:
            raise UserError(f"task: the {name!r} split is empty")
        if list(split.inputs) != list(splits["train"].inputs):
            raise UserError(f"task: the {name!r} split has inputs {list(split.inputs)}, unlike the 'train' split")
        for input_name, values in split.inputs.items():
            first = splits["train"].inputs[input_name]
            if (values.shape[1:], values.dtype) != (first.shape[1:], first.dtype):
                raise UserError(
                    f"task: {input_name!r} is {_described(values)} in the {name!r} split, and {_described(first)} in"
                    " the 'train' split; they must be alike"
                )
            if values.is_floating_point() and values.dtype != torch.float32:
                raise UserError(f"task: {input_name!r} of the {name!r} split is {values.dtype}; give torch.float32")
            if len(values) != len(split):
                raise UserError(
                    f"task: the {name!r} split has {len(values)} samples of {input_name!r} and {len(split)} targets"
                )
    return {name: _shuffled(splits[name], f"{seed}:{name}") for name in SPLITS}


def _shuffled(split: Split, key: str) -> Split:
    own = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7])
    return split.subset(torch.randperm(len(split), generator=torch.Generator().manual_seed(own)))


def name_outputs(returned: Any, names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Name the tensors that a model returned, by their path: see flatten_outputs.

    A network that was made fit for AIMET gives a sequence where the user's gave a dict: `names` are then the dict's.
    Raises UserError for anything but tensors.
    """
    outputs = flatten_outputs(returned)
    for name, value in outputs.items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"task: the model must return a tensor, or tensors in tuples, dicts and dataclasses; its {name!r} is of"
                f" type {type(value).__name__}"
            )
    if not outputs:
        raise UserError(f"task: the model must return a tensor; it returned {type(returned).__name__} without one")
    return dict(zip(names, outputs.values(), strict=True)) if names else outputs


def flatten_outputs(returned: Any) -> dict[str, Any]:
    """Give what a model returned by name, None left out.

    A tensor is `output`, a sequence `output_0`, `output_1`, ...; a dict, a dataclass or a named tuple names its own. In
    one another they are joined by `_`. Values need not be tensors: torch.fx has others in their place.
    """
    leaves = list(_leaves(returned, "" if _fields(returned) is not None else "output"))
    names = Counter(name for name, _ in leaves)
    if twice := [name for name, count in names.items() if count > 1]:
        raise UserError(f"task: the model returns two outputs whose names join to {twice[0]!r}; rename one of them")
    return dict(leaves)


def _leaves(returned: Any, name: str) -> Iterator[tuple[str, Any]]:
    parts = _fields(returned)
    if parts is None and isinstance(returned, list | tuple):
        parts = {str(index): value for index, value in enumerate(returned)}
    if parts is None:
        yield from () if returned is None else ((name, returned),)
        return
    for key, value in parts.items():
        yield from _leaves(value, f"{name}_{key}" if name else str(key))


def _fields(returned: Any) -> dict[str, Any] | None:
    """Give the parts of what names its own; None of anything else."""
    if isinstance(returned, Mapping):
        return dict(returned)
    if isinstance(returned, tuple) and hasattr(returned, "_asdict"):
        return returned._asdict()
    if dataclasses.is_dataclass(returned) and not isinstance(returned, type):
        return {one.name: getattr(returned, one.name) for one in dataclasses.fields(returned)}
    return None


def as_returned(outputs: Mapping[str, Tensor]) -> Tensor | dict[str, Tensor]:
    """Give outputs as a metric or a loss takes them: the tensor itself if it is the only one, else all by name."""
    return next(iter(outputs.values())) if len(outputs) == 1 else dict(outputs)


def _described(values: Tensor) -> str:
    return f"{' x '.join(map(str, ('N', *values.shape[1:])))} of {str(values.dtype).removeprefix('torch.')}"
