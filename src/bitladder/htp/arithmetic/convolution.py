"""Convolutions and fully connected layers: an exact sum of integers, then the output's step.

What a formula is worth stands in the guide "The NPU's arithmetic"; `tests/htp/arithmetic` holds them to the emulator.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bitladder.htp.arithmetic.accumulate import EXACT, Accumulator
from bitladder.htp.arithmetic.layer import Layer, Operand
from bitladder.htp.arithmetic.requantize import Multiplier, WideMultiplier, folded, integer_bias
from bitladder.htp.quantizer import Quantizer

__all__ = ["weighted"]

LEAST_EXPONENT, SPREAD = -16, 11
"""Of the ratio of steps, for depthwise convolutions of stride 2 to be run by kernels of their own: its exponent at 8
bits; at 16, how far the exponents of a layer's channels are apart."""

IN_CACHE = 2**16
"""Values that several passes are made over, one after the other, while a core's cache has them."""

Product = Callable[..., Tensor]
"""A kernel, of inputs, weights, and a bias if there is one."""


@dataclass(frozen=True, eq=False)
class _Weighted:
    """Weights of a layer with the output's channels first, scales and bias for each, and the kernel that takes them."""

    weights: Tensor
    scales: Tensor
    bias: Tensor
    product: Product
    padded: Product
    """The same with zeros around the inputs."""
    pad: Callable[[Tensor, int], Tensor]
    along: tuple[int, ...]
    """The shape in which what belongs to a channel meets the sums."""


def weighted(layer: Layer) -> Callable[..., Tensor] | None:
    """Model a Conv, a Gemm, or a MatMul with constant weights, all tensors of which have 8 bits, or all 16."""
    read = {"Conv": _conv, "Gemm": _gemm, "MatMul": _matmul}[layer.node.op_type](layer)
    if read is None or len(layer.tensors) != 1:
        return None
    bits = next((bits for bits in (8, 16) if layer.has_bits(bits)), None)
    if bits is None:
        return None
    ratio = _ratio(layer, read)
    if _is_strided_depthwise(layer, len(read.weights)):
        exponents = torch.frexp(ratio).exponent
        spread = exponents.max() - exponents.min()
        if exponents.min() >= LEAST_EXPONENT if bits == 8 else spread < SPREAD:
            return _strided_depthwise(layer, read, ratio)
    return (_eight_bits if bits == 8 else _sixteen_bits)(layer, read, ratio)


def _eight_bits(layer: Layer, read: _Weighted, ratio: Tensor) -> Callable[[Tensor], Tensor]:
    zero = int(_source(layer).zero_point)
    bias = folded(integer_bias(read.bias, _steps(layer, read)), read.weights, zero)
    multiplier = Multiplier.of(ratio)
    zero_point, levels = int(layer.quantizer.zero_point), layer.levels
    if (quick := _in_float(layer, read, bias, multiplier)) is not None:
        return quick
    sums = Accumulator.of(read.weights, 255, read.padded)
    bias, shaped = bias.view(read.along), multiplier.view(read.along)

    def run(inputs: Tensor) -> Tensor:
        found = sums(inputs - zero if zero else inputs)
        found += bias
        return shaped.apply(found, zero_point, *levels)

    return run


def _in_float(layer: Layer, read: _Weighted, bias: Tensor, multiplier: Multiplier) -> Callable[[Tensor], Tensor] | None:
    """Do it all in float32, with few passes over memory; None where float32 would not hold the sums.

    A bias that is too large is whole multiples of what the shift takes away, which are added behind it, and a rest.
    """
    zero, levels = int(_source(layer).zero_point), layer.levels
    sums, scale = 255 * read.weights.abs().flatten(1).sum(1), torch.exp2(-multiplier.shift.double())
    whole = torch.where(sums + bias.abs() < EXACT, 0, torch.floor(bias * scale))
    rest = bias - whole / scale
    start = multiplier.start + whole * multiplier.slope + int(layer.quantizer.zero_point)
    if (
        (sums + rest.abs()).max() >= EXACT
        or start.abs().max() >= 2**8
        or not torch.equal(start, start.float().double())
    ):
        return None
    # times powers of two, which keep the sums exact
    weights, added = (read.weights * scale.view(-1, *[1] * (read.weights.ndim - 1))).float(), (rest * scale).float()
    slope, start, rows = multiplier.slope.float(), start.float(), max(1, IN_CACHE // len(weights))
    channels = -1 if read.along == (-1,) else 1

    def run(inputs: Tensor) -> Tensor:
        found = read.padded(inputs - zero if zero else inputs, weights, added)
        last = found.movedim(channels, -1)
        for part in last.flatten(0, -2).split(rows) if last.is_contiguous() else (last,):
            part.floor_()
            # exact below 2^8, where all has 16 bits behind the point at most; what lies beyond is clipped
            torch.addcmul(start, part, slope, out=part)
            part.floor_().clamp_(*levels)
        return found

    return run


def _sixteen_bits(layer: Layer, read: _Weighted, ratio: Tensor) -> Callable[[Tensor], Tensor]:
    """Model the sum of upper and lower bytes, of which the lower ones' sum is cut to steps of 256."""
    zero = int(_source(layer).zero_point)
    # the bias is cut where the zero point's part is rounded
    constant = torch.trunc(integer_bias(read.bias, _steps(layer, read)) / 256)
    constant -= torch.floor(zero * read.weights.flatten(1).sum(1) / 256 + 0.5)
    constant, multiplier = constant.long().view(read.along), WideMultiplier.of(256 * ratio).view(read.along)
    sums = Accumulator.of(read.weights, 255, read.product)
    zero_point, levels = int(layer.quantizer.zero_point), layer.levels

    def run(inputs: Tensor) -> Tensor:
        inputs = read.pad(inputs, zero)
        upper = torch.floor(inputs / 256)
        found = sums(upper).long()
        found += sums(inputs - 256 * upper) >> 8
        found += constant
        return multiplier.apply(found, zero_point, *levels)

    return run


def _is_strided_depthwise(layer: Layer, channels: int) -> bool:
    attribute = layer.graph.attribute
    groups, strides = attribute(layer.node, "group", 1), attribute(layer.node, "strides", [1])
    return groups == channels > 1 and list(strides) == [2, 2]


def _strided_depthwise(layer: Layer, read: _Weighted, ratio: Tensor) -> Callable[[Tensor], Tensor]:
    """Model other kernels of the NPU: bias and output's zero point join the sum, and the multiplier has 15 bits."""
    source, output = _source(layer), layer.quantizer
    zero, zero_point, levels = int(source.zero_point), int(output.zero_point), layer.levels
    bias = integer_bias(read.bias, _steps(layer, read), cut=False)
    constant = (bias + torch.floor(ratio.new_tensor(zero_point) / ratio + 0.5)).view(read.along)
    unit = torch.ldexp(torch.ones_like(ratio), torch.frexp(ratio).exponent - 15)
    multiplier = (torch.floor(ratio / unit + 0.5) * unit).double().view(read.along)
    sums = Accumulator.of(read.weights, 2**source.bits - 1, read.padded)

    def run(inputs: Tensor) -> Tensor:
        found = (sums(inputs - zero) + constant) * multiplier
        return torch.floor(found + 0.5).clamp(*levels).float()

    return run


def _source(layer: Layer) -> Quantizer:
    (source,) = layer.tensors
    assert source.quantizer is not None
    return source.quantizer


def _steps(layer: Layer, read: _Weighted) -> Tensor:
    """Give the steps of the sums, channel by channel."""
    return _step(_source(layer)) * read.scales.float()


def _ratio(layer: Layer, read: _Weighted) -> Tensor:
    """Give these in steps of the output. In float32 the order of the operations decides where ties fall."""
    scales = read.scales.float()
    largest = scales.max()
    return _step(_source(layer)) * largest / _step(layer.quantizer) * (scales / largest)


def _step(quantizer: Quantizer) -> Tensor:
    """Give a step as the compiler has it, in float32."""
    return torch.tensor(quantizer.step, dtype=torch.float32)


def _scales(operand: Operand, channels: int) -> Tensor | None:
    """Give a scale for each output channel; None where weights have zero points of their own, or scales for blocks."""
    quantizer = operand.quantizer
    if quantizer is None or operand.integers is None or np.any(quantizer.zero_point) or quantizer.block_size:
        return None
    return torch.from_numpy(quantizer.scale.astype(np.float64)).reshape(-1).expand(channels).clone()


def _bias(operand: Operand | None, channels: int) -> Tensor | None:
    if operand is None:
        return torch.zeros(channels, dtype=torch.float64)
    if operand.floats is not None:
        values = operand.floats
    elif operand.integers is not None and operand.quantizer is not None:
        values = operand.integers.astype(np.float64) * operand.quantizer.scale.astype(np.float64)
    else:
        return None
    return torch.from_numpy(np.broadcast_to(values.astype(np.float64).reshape(-1), channels).copy())


def _read(
    weights: np.ndarray,
    operand: Operand,
    bias: Operand | None,
    product: Product,
    padded: Product | None = None,
    pad: Callable[[Tensor, int], Tensor] = lambda inputs, zero: inputs,
    along: tuple[int, ...] = (-1,),
) -> _Weighted | None:
    scales, added = _scales(operand, len(weights)), _bias(bias, len(weights))
    if scales is None or added is None:
        return None
    values = torch.from_numpy(weights.astype(np.float64))
    return _Weighted(values, scales, added, product, padded or product, pad, along)


def _conv(layer: Layer) -> _Weighted | None:
    attribute = layer.graph.attribute
    operand, bias = [*layer.operands[1:], None, None][:2]
    if operand is None or operand.integers is None or attribute(layer.node, "auto_pad", b"NOTSET") != b"NOTSET":
        return None
    rank = operand.integers.ndim - 2
    kernels: dict[int, Product] = {1: functional.conv1d, 2: _conv2d}
    if (kernel := kernels.get(rank)) is None:
        return None
    stride, dilation = (attribute(layer.node, name, [1] * rank) for name in ("strides", "dilations"))
    groups = attribute(layer.node, "group", 1)
    pads = attribute(layer.node, "pads", [0] * 2 * rank)
    around = [side for axis in reversed(range(rank)) for side in (pads[axis], pads[axis + rank])]

    def product(inputs: Tensor, weights: Tensor, bias: Tensor | None = None) -> Tensor:
        return kernel(inputs, weights, bias, stride, 0, dilation, groups)

    def pad(inputs: Tensor, zero: int) -> Tensor:
        return functional.pad(inputs, around, value=zero) if any(around) else inputs

    def padded(inputs: Tensor, weights: Tensor, bias: Tensor | None = None) -> Tensor:
        if pads[:rank] != pads[rank:]:
            return product(pad(inputs, 0), weights, bias)
        return kernel(inputs, weights, bias, stride, pads[:rank], dilation, groups)

    return _read(operand.integers, operand, bias, product, padded, pad, (1, -1, *(1,) * rank))


def _conv2d(
    inputs: Tensor,
    weights: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: int | list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """Convolve by oneDNN. On one thread, torch gives kernels of 1 x 1 to MKL below 16 samples, at half the speed."""
    if weights.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
        return functional.conv2d(inputs, weights, bias, stride, padding, dilation, groups)
    around = padding if isinstance(padding, list) else [padding] * 2
    return torch.mkldnn_convolution(inputs, weights, bias, around, stride, dilation, groups)


def _gemm(layer: Layer) -> _Weighted | None:
    attribute = layer.graph.attribute
    operand, bias = [*layer.operands[1:], None][:2]
    plain = attribute(layer.node, "alpha", 1.0) == attribute(layer.node, "beta", 1.0) == 1.0
    if not plain or attribute(layer.node, "transA", 0) or operand is None or operand.integers is None:
        return None
    weights = operand.integers if attribute(layer.node, "transB", 0) else operand.integers.T
    return _read(weights, operand, bias, functional.linear)


def _matmul(layer: Layer) -> _Weighted | None:
    operand = layer.operands[1]
    if operand.integers is None or operand.integers.ndim != 2:
        return None
    return _read(operand.integers.T, operand, layer.bias, functional.linear)
