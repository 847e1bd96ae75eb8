"""Accumulators of convolutions and matrix products, exact to the last bit, by float32 kernels.

Float32 adds integers exactly while no partial sum passes 2^24. Weights for which one could are cut in two, each part of
which stays below.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["EXACT", "Accumulator"]

EXACT = 2**24
"""Below it a float32 holds every integer."""

PART = 16  # weights of 8 bits are cut into 16 x high + low


@dataclass(frozen=True, eq=False)
class Accumulator:
    """Sums of inputs times weights, in int32. `product` is the kernel: it takes inputs and weights."""

    parts: tuple[tuple[int, Tensor], ...]
    """What a part counts for, and its weights: all, or 16 times the high ones and the low ones."""
    product: Callable[[Tensor, Tensor], Tensor]

    @classmethod
    def of(cls, weights: Tensor, largest: int, product: Callable[[Tensor, Tensor], Tensor]) -> "Accumulator":
        """Give that of integer weights, output channels first, for inputs of at most this size."""
        if largest * _sum(weights) < EXACT:
            return cls(((1, weights.float()),), product)
        high = torch.round(weights / PART)
        low = weights - PART * high
        return cls(((PART, _exact(high, largest)), (1, _exact(low, largest))), product)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Give the sums for a batch of integers."""
        (factor, first), *others = self.parts
        found = self.product(inputs.to(first.dtype), first).int()
        for _, low in others:
            found = factor * found + self.product(inputs.to(low.dtype), low).int()
        return found


def _sum(weights: Tensor) -> float:
    return weights.abs().flatten(1).sum(1).max().item()


def _exact(weights: Tensor, largest: int) -> Tensor:
    return weights.float() if largest * _sum(weights) < EXACT else weights.double()
