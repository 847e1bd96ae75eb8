"""Sums of two quantized tensors, in fixed point."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bitladder.htp.arithmetic.layer import Layer

__all__ = ["add"]

BITS, WIDE_BITS = 14, 15  # of both multipliers together at 8 bits; of the larger one at 16

COARSE = 256  # units of a multiplier in a unit of the constant


def add(layer: Layer) -> Callable[..., Tensor] | None:
    """Model an Add of two tensors.

    Steps of the inputs, in steps of the output, become integers. At 8 bits their sum has 14 bits; zero points and the
    half that rounds are one constant, which is rounded to 256 units of these. At 16 bits the larger has 15 bits.
    """
    if layer.node.op_type != "Add" or len(layer.tensors) != 2 or len(layer.operands) != 2:
        return None
    left, right = (one.quantizer for one in layer.tensors)
    assert left is not None and right is not None
    ratios = [left.step / layer.quantizer.step, right.step / layer.quantizer.step]
    zeros = [int(left.zero_point), int(right.zero_point)]
    zero_point, levels = int(layer.quantizer.zero_point), layer.levels
    if layer.has_bits(8):
        unit = 2.0 ** (math.frexp(sum(ratios))[1] - BITS)
        first, second = (round(ratio / unit) for ratio in ratios)
        constant = (zero_point + 0.5) / unit - zeros[0] * first - zeros[1] * second
        constant = COARSE * round(constant / COARSE)
        shift = round(-math.log2(unit))

        def fixed(one: Tensor, other: Tensor) -> Tensor:
            found = one.int() * first + other.int() * second + constant
            return (found >> shift).clamp(*levels).float()

        return fixed
    if not layer.has_bits(16):
        return None
    unit = 2.0 ** (math.frexp(max(ratios))[1] - WIDE_BITS)
    factors = [round(ratio / unit) * unit for ratio in ratios]

    def wide(one: Tensor, other: Tensor) -> Tensor:
        found = (one.double() - zeros[0]) * factors[0] + (other.double() - zeros[1]) * factors[1]
        return (torch.floor(found + 0.5) + zero_point).clamp(*levels).float()

    return wide
