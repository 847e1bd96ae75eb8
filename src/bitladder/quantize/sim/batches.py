"""A split's inputs, batch by batch, as AIMET and the techniques go through them."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from bitladder.network.placement import on_device
from bitladder.tasks.samples import Samples

__all__ = ["Batches"]


@dataclass(frozen=True)
class Batches:
    """The inputs of `size` samples at a time, as a network takes them; read anew each time, so few are in memory."""

    split: Samples
    size: int

    def __len__(self) -> int:
        """Give the number of batches."""
        return -(-len(self.split) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """Give the batches, in the order of the samples; the last may have fewer."""
        for inputs, _ in self.split.batches(self.size):
            yield on_device(tuple(inputs.values()))

    def one(self) -> tuple[Tensor, ...]:
        """Give a batch of one: the first sample."""
        return next(iter(Batches(self.split.first(1), 1)))
