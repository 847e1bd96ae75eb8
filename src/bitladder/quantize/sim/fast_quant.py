"""A leaner QuantizeDequantize than AIMET's on the CPU, with AIMET's results.

In training AIMET's takes nine passes over a tensor forward and about twelve back, and derives every scale and offset by
a chain of differentiable one-element operations; in inference it calls a kernel that works element by element. Here
passes are merged: a scale's gradient is a dot product with the rounding error that the forward pass leaves, and where
nothing is clipped, which is asked once, there is no mask at all.

Outputs equal AIMET's, in training (which divides by the scale) and in inference (which multiplies by its inverse), and
so do the gradients of what is quantized; those of ranges are sums in another order. Whatever is not affine quantization
of float32 on the CPU, of a whole tensor or symmetric by channel, stays with AIMET: blocks, calibration, tracing,
export, GPUs (where AIMET has kernels of its own).

`running/patches.py` says with which versions it is in force.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from aimet_torch.experimental import pgs
from aimet_torch.quantization.affine import QuantizeDequantize
from aimet_torch.quantization.affine.backends import torch_builtins
from aimet_torch.quantization.tensor import DequantizedTensor
from aimet_torch.utils import _enable_qtensor_casting, _is_qtensor_casting_enabled
from torch import Tensor

from bitladder.quantize.sim.small_scales import minimum_scale

__all__ = ["aimets_own", "install", "plain_tensors"]

aimet_forward = QuantizeDequantize.forward


class _Grid(NamedTuple):
    """Scale and the least and greatest step; how the scale and the offset follow from the range."""

    scale: Any  # float for a whole tensor, else a tensor that broadcasts
    low: int
    high: int
    slope: Any  # of the scale against max - min, times the number of steps: 0 where the minimum scale takes over
    offset_moves: bool  # False at the ends of what the offset may be, and where it is fixed


def install() -> None:
    """Put the lean forward in AIMET's place, for this process. Doing so twice does no harm."""
    QuantizeDequantize.forward = _forward


@contextmanager
def aimets_own() -> Iterator[None]:
    """Let AIMET quantize by its own code, to compare with it."""
    before, QuantizeDequantize.forward = QuantizeDequantize.forward, aimet_forward
    try:
        yield
    finally:
        QuantizeDequantize.forward = before


def plain_tensors() -> Any:
    """Give the context in which quantizers return plain tensors: those that carry encodings cost time at every call."""
    return _enable_qtensor_casting(False)


def _forward(self: QuantizeDequantize, input: Tensor) -> Tensor:
    if not _is_ours(self, input):
        return aimet_forward(self, input)
    x = input if type(input) is Tensor else input.as_subclass(Tensor)
    low, high = self._parameters["min"], self._parameters["max"]
    if torch.is_grad_enabled():
        output = _QuantizeDequantize.apply(x, low, high, self.qmin, self.qmax, self._symmetric)
    else:
        grid = _grid(low, high, self.qmin, self.qmax, self._symmetric)
        output = (x * _inverse(grid.scale)).round_().clamp_(grid.low, grid.high).mul_(_operand(grid.scale))
    if _is_qtensor_casting_enabled():
        output = output.as_subclass(DequantizedTensor)
        output.encoding = self.get_encodings()
    return output


def _is_ours(quantizer: QuantizeDequantize, x: Tensor) -> bool:
    """Tell whether the quantizer, as it is now, and the tensor are of the common kind."""
    parameters = quantizer._parameters
    if type(quantizer) is not QuantizeDequantize or parameters.keys() != {"min", "max"}:
        return False
    low, high = parameters["min"], parameters["max"]
    return (
        x.dtype is low.dtype is high.dtype is torch.float32
        and x.device.type == low.device.type == "cpu"
        and x.numel() > 0
        and (low.numel() == 1 or (quantizer._symmetric and low.ndim == x.ndim and _by_channel(low, x)))
        and low.requires_grad == high.requires_grad
        and quantizer.block_size is None
        and quantizer.zero_point_shift == 0
        and quantizer.qmax - quantizer.qmin < 2**16
        and "get_encodings" not in quantizer.__dict__  # AIMET has put other encodings in place for now
        and torch_builtins._round_fn is torch.round
        and not pgs.is_pgs_enabled()
        and not torch.jit.is_tracing()
        and not torch.onnx.is_in_onnx_export()
        and quantizer.is_initialized()
    )


def _by_channel(low: Tensor, x: Tensor) -> bool:
    wide = [axis for axis, size in enumerate(low.shape) if size != 1]
    return len(wide) == 1 and low.shape[wide[0]] == x.shape[wide[0]]


def _grid(low: Tensor, high: Tensor, qmin: int, qmax: int, symmetric: bool) -> _Grid:
    """Derive the grid from the range, in float32 as AIMET does. Numbers where one will do: they cost least."""
    steps, middle = qmax - qmin, -round((qmin + qmax) / 2)
    if low.numel() > 1:
        widths = (high.detach() - low.detach()) / steps
        scales = widths.abs().clamp_min_(minimum_scale())
        slopes = widths.sign() * (widths.abs() >= minimum_scale())
        return _Grid(scales, middle + qmin, middle + qmax, slopes, False)
    least, greatest = np.float32(low.item()), np.float32(high.item())
    width = (greatest - least) / np.float32(steps)
    scale = np.float32(max(abs(float(width)), minimum_scale()))
    slope = float(np.sign(width)) if abs(width) >= minimum_scale() else 0.0
    if symmetric or not np.isfinite(width):  # a range that training lost gives NaN, which the loss shows
        scale = scale if np.isfinite(width) else np.float32("nan")
        return _Grid(scale, middle + qmin, middle + qmax, slope, False)
    wanted = int(np.rint(least / scale)) - qmin
    offset = min(max(wanted, -qmax), -qmin)
    # at the ends torch.clamp, through which AIMET goes, passes no gradient
    return _Grid(scale, offset + qmin, offset + qmax, slope, -qmax < wanted < -qmin)


def _operand(value: Any) -> Any:
    return value if isinstance(value, Tensor) else float(value)


def _inverse(scale: Any) -> Any:
    return scale.reciprocal() if isinstance(scale, Tensor) else float(np.float32(1) / scale)


class _QuantizeDequantize(torch.autograd.Function):
    """Straight-through rounding; gradients of both ends of the range (arXiv:1902.08153, arXiv:1903.08066)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Tensor, high: Tensor, qmin: int, qmax: int, symmetric: bool) -> Tensor:
        grid = _grid(low, high, qmin, qmax, symmetric)
        train_range = ctx.needs_input_grad[1]
        # ranges that do not train leave AIMET to torch's own fake quantization, which multiplies
        scaled = x / _operand(grid.scale) if train_range else x * _inverse(grid.scale)
        steps = scaled.round()
        least, greatest = (value.item() for value in steps.aminmax())
        inside = None
        if not (grid.low <= least and greatest <= grid.high):
            clipped = steps.clamp(grid.low, grid.high)
            inside = steps == clipped
            steps = clipped
        error = scaled.sub_(steps) if train_range else None
        if error is not None and inside is not None:  # what is clipped moves with the end of the range
            error = torch.where(inside, error, -steps)
        ctx.save_for_backward(error, inside, low if train_range and grid.offset_moves else None)
        ctx.grid, ctx.steps, ctx.shape = grid, qmax - qmin, low.shape
        return steps.mul_(_operand(grid.scale))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = gradients
        error, inside, low = ctx.saved_tensors
        passed = grad if inside is None else torch.where(inside, grad, 0)
        if error is None:
            return passed, None, None, None, None, None
        grid = ctx.grid
        by_scale = -_sum_products(grad, error, grid.scale)
        by_low: Any = 0.0
        if inside is not None and grid.offset_moves:
            # the offset is the range's lower end in steps: it moves with that end, and against the scale
            by_low = (grad - passed).sum()
            by_scale = by_scale - by_low * (low.reshape(()) / float(grid.scale))
        by_width = (by_scale * (grid.slope / ctx.steps)).reshape(ctx.shape)
        return passed, by_low - by_width, by_width, None, None, None


def _sum_products(a: Tensor, b: Tensor, like: Any) -> Tensor:
    """Sum a * b over all that shares a scale."""
    if not isinstance(like, Tensor):
        return torch.dot(a.reshape(-1), b.reshape(-1))
    axes = [axis for axis, size in enumerate(like.shape) if size == 1]
    return (a * b).sum(axes, keepdim=True)
