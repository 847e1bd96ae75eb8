"""Sums of two quantized tensors, in fixed point."""

import math
from collections.abc import Callable

from torch import Tensor

from bitladder.htp.arithmetic.layer import Layer

__all__ = ["add"]

BITS, WIDE_BITS = 14, 15  # of both multipliers together at 8 bits; of the larger one at 16

COARSE = 256  # units of a multiplier in a unit of the constant


def add(layer: Layer) -> Callable[..., Tensor] | None:
    """Model an Add of two tensors.

    Steps of the inputs, in steps of the output, become integers. At 8 bits their sum has 14 bits; zero points and the
    half that rounds are one constant, which is rounded to 256 units of these. At 16 bits the larger has 15 bits, and
    an odd constant is rounded up.
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
    exponent = math.frexp(max(ratios))[1] - WIDE_BITS
    near, far = (round(math.ldexp(ratio, -exponent)) for ratio in ratios)
    whole = round(math.ldexp(zero_point + 0.5, -exponent)) - zeros[0] * near - zeros[1] * far
    whole += whole % 2

    def wide(one: Tensor, other: Tensor) -> Tensor:
        found = one.long() * near + other.long() * far + whole
        return (found >> -exponent).clamp(*levels).float()

    return wide
