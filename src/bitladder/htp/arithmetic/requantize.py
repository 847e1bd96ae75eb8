"""From an exact accumulator to the integers of the output, in the NPU's fixed point."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import torch
from torch import Tensor

__all__ = ["Multiplier", "WideMultiplier", "folded", "integer_bias"]

WIDE_LIMIT = 2**38  # of a shifted accumulator: far outside of what an output holds

INT32 = (-(2**31), 2**31 - 1)

BIAS_STEPS = 2**28  # of the largest bias of a layer: what the others are rounded to


@dataclass(frozen=True, eq=False)
class Multiplier:
    """Steps of an accumulator in steps of the output, channel by channel, as the NPU holds them: m / 2^(15 + shift).

    The accumulator is shifted, to the left too, until the multiplier is in [1/16, 1/8), so that m has 12 bits. What the
    shift cuts off is taken to be one half, also where it cuts off nothing.
    """

    factor: Tensor
    shift: Tensor

    EXPONENT: ClassVar = -3  # of the power of two below which a shifted ratio lies
    FRACTION: ClassVar = 15  # bits of a multiplier behind the point
    DTYPE: ClassVar = torch.int32

    @classmethod
    def of(cls, ratio: Tensor) -> Self:
        """Give that of ratios of scales, which the compiler has in float32."""
        ratio = ratio.double()
        shift = cls.EXPONENT - torch.frexp(ratio).exponent  # whose ratio is in [2^(exponent - 1), 2^exponent)
        return cls(torch.floor(torch.ldexp(ratio, shift + cls.FRACTION) + 0.5).to(cls.DTYPE), shift.to(cls.DTYPE))

    def view(self, along: tuple[int, ...]) -> Self:
        """Give it in the shape in which it meets an accumulator."""
        return type(self)(self.factor.view(along), self.shift.view(along))

    @cached_property
    def _left(self) -> bool:
        """Whether any channel is shifted to the left."""
        return bool((self.shift < 0).any())

    def apply(self, accumulator: Tensor, zero_point: int, low: int, high: int) -> Tensor:
        """Give the output's integers of an int32 accumulator, in whose place they are computed.

        With a half for what is cut off, and a half to round: ((2 a + 1) m + 2^15) / 2^16.
        """
        if self._left:
            accumulator <<= (-self.shift).clamp(min=0)
        accumulator >>= self.shift.clamp(min=0)
        limit = 2**29 // self.factor.clamp(min=1)  # far outside of what an output holds
        torch.minimum(torch.maximum(accumulator, -limit, out=accumulator), limit, out=accumulator)
        accumulator *= 2 * self.factor
        accumulator += self.factor + 2**self.FRACTION + (zero_point << (self.FRACTION + 1))
        accumulator >>= self.FRACTION + 1
        return accumulator.clamp_(low, high).float()

    @property
    def slope(self) -> Tensor:
        """What a shifted accumulator is multiplied by."""
        return self.factor.double() / 2**self.FRACTION

    @property
    def start(self) -> Tensor:
        """What is added then: the half that was cut off, and the half that rounds."""
        return self.slope / 2 + 0.5


@dataclass(frozen=True, eq=False)
class WideMultiplier(Multiplier):
    """The same at 16 bits: m / 2^(29 + shift), where the shift leaves a multiplier in [1/256, 1/128), m with 22 bits.

    So small a multiplier wants the accumulator shifted to the left. A half is added below its last bit all the same.
    """

    EXPONENT: ClassVar = -7
    FRACTION: ClassVar = 29
    DTYPE: ClassVar = torch.int64

    def apply(self, accumulator: Tensor, zero_point: int, low: int, high: int) -> Tensor:
        """Give the output's integers of an int64 accumulator, in whose place they are computed."""
        left = (-self.shift).clamp(min=0)
        limit = WIDE_LIMIT >> left
        torch.minimum(torch.maximum(accumulator, -limit, out=accumulator), limit, out=accumulator)
        accumulator <<= left
        accumulator >>= self.shift.clamp(min=0)
        accumulator *= 2 * self.factor
        accumulator += self.factor + 2**self.FRACTION
        accumulator >>= self.FRACTION + 1
        accumulator += zero_point
        return accumulator.clamp_(low, high).float()


def integer_bias(bias: Tensor, steps: Tensor, cut: bool = True) -> Tensor:
    """Give biases in steps of the accumulator (float32), whole numbers in float64, as the compiler makes them.

    All in float32: it rounds them to int32, and then again to a step that all channels share: the largest, in steps of
    its own channel, over 2^28. What is left of a whole step is cut off, or rounded. So most of them are right, and the
    others one off; by more where a channel has next to no weights, and its bias is a huge number of steps.
    """
    whole = torch.round(bias.float() / steps).double().clamp(*INT32).float()
    unit = steps.max()
    scaled = whole * unit
    shared = scaled.abs().max() / BIAS_STEPS
    if not shared:
        return whole.double()
    found = torch.round(scaled * (1 / shared)) * shared
    found = torch.trunc(found / unit) if cut else torch.round(found * (1 / unit))
    return found.double().clamp(*INT32)


def folded(bias: Tensor, weights: Tensor, zero: int) -> Tensor:
    """Give biases, int32, as they meet a sum over inputs less their zero point.

    The compiler adds the zero point's part to them in 32 bits, where it wraps; the sum then saturates. Here they are
    kept so far from the ends that it need not.
    """
    part = zero * weights.flatten(1).sum(1)
    wrapped = torch.remainder(bias - part - INT32[0], 2**32) + INT32[0] + part
    room = INT32[1] - 255 * weights.abs().flatten(1).sum(1)
    return wrapped.maximum(-room).minimum(room).int()
