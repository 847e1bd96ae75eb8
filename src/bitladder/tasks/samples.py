"""Samples of a split: tensors in memory, or a Dataset of PyTorch's that is read as it is needed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

__all__ = ["HELD_BYTES", "SPLITS", "Batch", "Origin", "Samples", "Split", "held", "in_memory"]

SPLITS = ("train", "calibration", "evaluation")

HELD_BYTES = 2**29
"""Inputs that may be held in memory to be gone over again."""

Batch = tuple[dict[str, Tensor], Any]
"""Inputs by name, in the order in which the model takes them, and targets: a tensor, or what the task's collate gives.
The first dimension of each tensor is the number of samples."""


@dataclass(frozen=True)
class Origin:
    """Where another process finds a split: the folder that holds params.yaml, the task with its args in JSON, ..."""

    folder: str
    factory: str
    args: str
    seed: int
    split: str


class Samples(Protocol):
    """Samples in a fixed order, which does not change from one reading to the next."""

    def __len__(self) -> int:
        """Give the number of samples."""
        ...

    def subset(self, rows: Sequence[int] | Tensor) -> "Samples":
        """Give the samples with these indices, in their order."""
        ...

    def first(self, count: int | None) -> "Samples":
        """Give the first `count` samples; all if there are fewer, or it is None."""
        ...

    def after(self, count: int) -> "Samples":
        """Give the samples after the first `count`; none, if there are no more."""
        ...

    def batches(self, size: int) -> Iterator[Batch]:
        """Give inputs and targets, `size` samples at a time, in their order; the last may be fewer."""
        ...

    def row(self, index: int) -> dict[str, np.ndarray]:
        """Give a sample's inputs as ONNX Runtime takes them: a batch of one, by name."""
        ...

    def held(self) -> "Samples":
        """Give the same samples, read into memory."""
        ...


@dataclass(frozen=True)
class Split:
    """Samples in memory.

    `inputs` maps each input's name (also its name in the exported graph) to a tensor whose first dimension is the
    number of samples, in the order in which the model takes them; `targets` has the same first dimension.
    """

    inputs: dict[str, Tensor]
    targets: Any

    def __len__(self) -> int:
        """Give the number of samples."""
        return len(next(iter(self.inputs.values()), self.targets))

    def first(self, count: int | None) -> "Split":
        """Give the first `count` samples; all if there are fewer, or it is None."""
        return self._part(slice(count))

    def after(self, count: int) -> "Split":
        """Give the samples after the first `count`; none, if there are no more."""
        return self._part(slice(count, None))

    def subset(self, rows: Sequence[int] | Tensor) -> "Split":
        """Give the samples with these indices, in their order."""
        return self._part(torch.as_tensor(rows))

    def batches(self, size: int) -> Iterator[Batch]:
        """Give inputs and targets, `size` samples at a time, in their order; the last may be fewer."""
        for start in range(0, len(self), size):
            part = self._part(slice(start, start + size))
            yield part.inputs, part.targets

    def row(self, index: int) -> dict[str, np.ndarray]:
        """Give a sample's inputs as ONNX Runtime takes them: a batch of one, by name."""
        return {name: values[index : index + 1].numpy() for name, values in self.inputs.items()}

    def held(self) -> "Split":
        """Give the samples themselves."""
        return self

    def _part(self, rows: slice | Tensor) -> "Split":
        targets = self.targets
        if isinstance(targets, list | tuple) and isinstance(rows, Tensor):  # as a task's collate joined them
            targets = [targets[row] for row in rows.tolist()]
        elif isinstance(targets, Tensor | list | tuple):
            targets = targets[rows]
        return Split({name: values[rows] for name, values in self.inputs.items()}, targets)


def held(samples: Samples) -> Samples:
    """Read samples into memory that are gone over many times, where they take little of it."""
    if isinstance(samples, Split) or not len(samples):
        return samples
    one = sum(values.nbytes for values in samples.row(0).values())
    return samples.held() if one * len(samples) <= HELD_BYTES else samples


def in_memory(samples: Samples) -> Split:
    """Read samples into memory; for a few."""
    if isinstance(samples, Split):
        return samples
    ((inputs, targets),) = samples.batches(len(samples))
    return Split(inputs, targets)
