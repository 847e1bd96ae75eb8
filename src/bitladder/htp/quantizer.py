"""How a tensor is quantized: scale, zero point and type."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

__all__ = ["BITS", "Quantizer", "along"]

BITS = {
    TensorProto.UINT4: 4, TensorProto.INT4: 4, TensorProto.UINT8: 8, TensorProto.INT8: 8,
    TensorProto.UINT16: 16, TensorProto.INT16: 16, TensorProto.INT32: 32,
}  # fmt: skip
"""Bits of the types that QuantizeLinear and DequantizeLinear take."""

_SIGNED = {TensorProto.INT4, TensorProto.INT8, TensorProto.INT16, TensorProto.INT32}
_UNSIGNED = {8: TensorProto.UINT8, 16: TensorProto.UINT16}


@dataclass(frozen=True, eq=False)
class Quantizer:
    """Scale, zero point and type of a quantized tensor; arrays, with one entry a channel where it is per channel.

    With a `block_size` they have the tensor's rank, and an entry for each so many values along `axis`.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    type: int
    axis: int = 1
    block_size: int = 0

    @classmethod
    def of_range(cls, low: float, high: float, bits: int) -> "Quantizer":
        """Give an unsigned quantizer of a range, which comes to hold 0."""
        low, high = min(low, 0.0), max(high, 0.0)
        levels = 2**bits - 1
        scale = max(high - low, 1e-12) / levels
        zero_point = int(np.clip(round(-low / scale), 0, levels))
        return cls(np.array(scale, np.float32), np.array(zero_point), _UNSIGNED[bits])

    @property
    def bits(self) -> int:
        """Its bit-width."""
        return BITS[self.type]

    @property
    def levels(self) -> tuple[int, int]:
        """The lowest and the highest integer."""
        return (-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1) if self.type in _SIGNED else (0, 2**self.bits - 1)

    @property
    def low(self) -> float:
        """Least value that it can give."""
        return float(np.min((self.levels[0] - self.zero_point) * self.scale.astype(np.float64)))

    @property
    def high(self) -> float:
        """Largest value that it can give."""
        return float(np.max((self.levels[1] - self.zero_point) * self.scale.astype(np.float64)))

    @property
    def step(self) -> float:
        """Its scale, or the largest of them."""
        return float(np.max(self.scale))

    @property
    def attributes(self) -> dict[str, int]:
        """What its nodes say of it besides scale and zero point."""
        blocks = {"block_size": self.block_size} if self.block_size else {}
        return {"axis": self.axis, **blocks} if self.scale.size > 1 else {}

    def of_bits(self, bits: int) -> "Quantizer":
        """Give the same range at other bits, unsigned."""
        return Quantizer.of_range(self.low, self.high, bits)

    def same_as(self, other: "Quantizer") -> bool:
        """Whether both give the same values."""
        return (
            self.type == other.type
            and self.block_size == other.block_size
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )


def along(quantizer: Quantizer, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Give scale and zero point in the shape in which they meet a tensor of this shape."""
    ends, axis, size = (quantizer.scale, quantizer.zero_point), quantizer.axis, quantizer.block_size
    if size:
        scale, zero_point = (np.repeat(one, size, axis).take(range(shape[axis]), axis) for one in ends)
    else:
        meet = [1] * len(shape)
        if quantizer.scale.size > 1:
            meet[axis] = -1
        scale, zero_point = (one.reshape(meet) for one in ends)
    return scale, zero_point
