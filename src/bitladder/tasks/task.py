"""What a user brings: a model, its data, its metric and its loss."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from bitladder.errors import UserError
from bitladder.tasks.metric import Metric, is_stateful
from bitladder.tasks.outputs import as_returned, flatten_outputs, name_outputs
from bitladder.tasks.samples import SPLITS, Split
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
    "name_outputs",
]


@dataclass(frozen=True)
class Quantization:
    """What a task asks of AIMET beyond the default.

    `define` is called before a QuantSim is built: it imports what registers quantized definitions of the task's own
    module types (`@QuantizationMixin.implements(MyModule)`), and so keeps AIMET out of the stages that do not need it.
    `config` is the path of a QuantSim configuration in JSON that takes the place of the SoC's. `exclude` names layers
    that stay in float. `tied` pairs an input, as `forward` or the ONNX graph calls it, with an output: both get one
    encoding, as what one inference gives, the next one takes: `[("past_key_0", "present_key_0"), ...]`.
    """

    define: Callable[[], Any] | None = None
    config: str | None = None
    exclude: Sequence[str] = ()
    tied: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Task:
    """Everything the pipeline needs to know of a user's model.

    `model` builds the network, not yet trained or with weights of its own; `splits` gives the three splits of SPLITS
    for a seed, each a Split of tensors or a map-style Dataset of PyTorch's with items `(inputs, target)`; `loss` takes
    what the model returns and the targets, and gives a scalar tensor; `metric` is a Metric, or a torchmetrics one;
    `augment`, if there is one, changes a batch of training inputs, drawing from the generator it is given; `collate`
    joins a list of targets of a Dataset, where they do not stack; `label` gives the targets of a batch of inputs, for
    Datasets whose items are inputs alone.
    """

    model: Callable[[], nn.Module]
    splits: Callable[[int], Mapping[str, Split | Dataset]]
    loss: Callable[[Any, Tensor], Tensor]
    metric: Metric
    augment: Callable[[dict[str, Tensor], torch.Generator], dict[str, Tensor]] | None = None
    quantization: Quantization = field(default_factory=Quantization)
    collate: Callable[[list[Any]], Any] | None = None
    label: Callable[[dict[str, Tensor]], Any] | None = None

    def __post_init__(self) -> None:
        """Take a torchmetrics Metric as a Metric; what is neither is refused by load_task."""
        if is_stateful(self.metric):
            object.__setattr__(self, "metric", Metric.of(self.metric))


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
    if task.collate is not None and not callable(task.collate):
        raise UserError(f"task: collate must be a function of a list of targets, and is {task.collate!r}")
    Metric.of(task.metric)
    return task
