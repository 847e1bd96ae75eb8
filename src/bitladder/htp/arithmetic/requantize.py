"""From an exact accumulator to the integers of the output, in the NPU's fixed point."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Multiplier", "integer_bias"]

FRACTION = 15  # bits of a multiplier

BIAS_STEPS = 2**28  # of the largest bias of a layer: what the others are rounded to


@dataclass(frozen=True, eq=False)
class Multiplier:
    """Steps of an accumulator in steps of the output, channel by channel, as the NPU holds them: m / 2^(15 + shift).

    The accumulator is shifted until the multiplier is in [1/16, 1/8), so that m has 12 bits; what the shift cuts off
    is taken to be one half.
    """

    factor: Tensor
    shift: Tensor

    @classmethod
    def of(cls, ratio: Tensor) -> "Multiplier":
        """Give that of ratios of scales, in float64."""
        shift = torch.ceil(-torch.log2(ratio) - 4).clamp(min=0)
        shift += (ratio * 2**shift < 1 / 16).double()
        shift = torch.where((ratio * 2**shift >= 1 / 8) & (shift > 0), shift - 1, shift)
        return cls(torch.round(ratio * 2 ** (shift + FRACTION)).int(), shift.int())

    def apply(self, accumulator: Tensor, zero_point: int, low: int, high: int) -> Tensor:
        """Give the output's integers of an int32 accumulator, whose channels come last but for those of `factor`."""
        limit = (2**30) // self.factor.clamp(min=1)  # far outside of what an output holds
        doubled = 2 * (accumulator >> self.shift) + (self.shift > 0).int()
        doubled = doubled.maximum(-limit).minimum(limit)
        rounded = (doubled * self.factor + 2**FRACTION) >> (FRACTION + 1)
        return (rounded + zero_point).clamp(low, high).float()


def integer_bias(bias: Tensor, steps: Tensor) -> Tensor:
    """Give biases in steps of the accumulator, int32, as the compiler makes them.

    It rounds them to int32, and then again, in float32, to a step that all channels share: the largest, in steps of its
    own channel, over 2^28. What is left of a whole step is cut off. So most of them are right, and the others one off; by
    more where the bias of a channel that has next to no weights is a huge number of steps.
    """
    limit = 2**31
    whole = torch.round(bias / steps).clamp(-limit, limit - 1).float()
    unit = steps.max().float()
    scaled = whole * unit
    shared = scaled.abs().max() / BIAS_STEPS
    if not shared:
        return whole.int()
    found = torch.trunc(torch.round(scaled * (1 / shared)) * shared / unit)
    return found.double().clamp(-limit, limit - 1).int()
