"""Calls of functions and methods, and the modules that stand for them: what AIMET's preparer has none for.

A handler has the signature of what it stands for, after the writer: so arguments may come by position or by name. It
gives the node of the result, or NotImplemented where the call is left as it is.
"""

from collections.abc import Callable
from typing import Any

import torch
from aimet_torch.nn.modules import custom
from torch import nn

from bitladder.quantize.prepare.attention import MASKED
from bitladder.quantize.prepare.writer import Writer

__all__ = ["HANDLERS", "handler"]

HANDLERS: dict[str, Callable] = {}
"""By the name of the function, the method or the operator, without the _ of what works in place."""

INFINITE = -1e9  # what masks have in the place of minus infinity, or less

_MAX_POOL = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")

_FUNCTIONS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "relu": (nn.ReLU, ()),
    "relu6": (nn.ReLU6, ()),
    "hardtanh": (nn.Hardtanh, ("min_val", "max_val")),
    "hardswish": (nn.Hardswish, ()),
    "hardsigmoid": (nn.Hardsigmoid, ()),
    "elu": (nn.ELU, ("alpha",)),
    "leaky_relu": (nn.LeakyReLU, ("negative_slope",)),
    "gelu": (nn.GELU, ()),
    "softplus": (nn.Softplus, ("beta", "threshold")),
    "softmin": (nn.Softmin, ("dim",)),
    "softmax": (nn.Softmax, ("dim",)),
    "log_softmax": (nn.LogSoftmax, ("dim",)),
    "tanh": (nn.Tanh, ()),
    "sigmoid": (nn.Sigmoid, ()),
    "silu": (custom.CustomSiLU, ()),
    "pixel_shuffle": (nn.PixelShuffle, ("upscale_factor",)),
    "pixel_unshuffle": (nn.PixelUnshuffle, ("downscale_factor",)),
    "channel_shuffle": (nn.ChannelShuffle, ("groups",)),
    "avg_pool1d": (nn.AvgPool1d, ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")),
    "avg_pool3d": (nn.AvgPool3d, ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")),
    "max_pool1d": (nn.MaxPool1d, _MAX_POOL),
    "max_pool3d": (nn.MaxPool3d, _MAX_POOL),
    "adaptive_avg_pool1d": (nn.AdaptiveAvgPool1d, ("output_size",)),
    "adaptive_avg_pool3d": (nn.AdaptiveAvgPool3d, ("output_size",)),
    "adaptive_max_pool1d": (nn.AdaptiveMaxPool1d, ("output_size",)),
    "adaptive_max_pool2d": (nn.AdaptiveMaxPool2d, ("output_size",)),
    "unfold": (nn.Unfold, ("kernel_size", "dilation", "padding", "stride")),
    "fold": (nn.Fold, ("output_size", "kernel_size", "dilation", "padding", "stride")),
}
"""Functions of one tensor: their module, and which settings it takes, in the function's order."""

_MODULES: dict[str, type[nn.Module]] = {
    "abs": custom.Abs,
    "absolute": custom.Abs,
    "neg": custom.Neg,
    "negative": custom.Neg,
    "sqrt": custom.Sqrt,
    "square": custom.Square,
    "exp": custom.Exponential,
    "log": custom.Log,
    "erf": custom.Erf,
    "sin": custom.Sin,
    "cos": custom.Cos,
    "asin": custom.Asin,
    "atan": custom.Atan,
    "ceil": custom.ElementwiseCeil,
    "floor": custom.ElementwiseFloor,
    "round": custom.Round,
    "maximum": custom.Maximum,
    "minimum": custom.Minimum,
    "remainder": custom.Remainder,
    "fmod": custom.Fmod,
    "amax": custom.AMax,
    "amin": custom.AMin,
    "argmax": custom.Argmax,
    "argmin": custom.Argmin,
    "prod": custom.Prod,
    "gather": custom.Gather,
    "pow": custom.Pow,
    "bmm": custom.Bmm,
    "outer": custom.Outer,
    "gt": custom.Greater,
    "greater": custom.Greater,
    "lt": custom.Less,
    "less": custom.Less,
    "ge": custom.GreaterEqual,
    "greater_equal": custom.GreaterEqual,
    "le": custom.LessEqual,
    "less_equal": custom.LessEqual,
    "logical_not": custom.LogicalNot,
    "logical_and": custom.LogicalAnd,
    "logical_or": custom.LogicalOr,
    "invert": custom.LogicalNot,
    "bitwise_not": custom.LogicalNot,
    "and": custom.LogicalAnd,
    "or": custom.LogicalOr,
}
"""Functions that a module of AIMET's calls with the same arguments."""


def handler(*names: str) -> Callable[[Callable], Callable]:
    """Register what stands for calls of these names."""

    def register(function: Callable) -> Callable:
        HANDLERS.update(dict.fromkeys(names, function))
        return function

    return register


def _of_one_tensor(kind: type[nn.Module], settings: tuple[str, ...]) -> Callable:
    names = ("input", *settings, "inplace")
    ignored = {"inplace", "_stacklevel", "dtype", "return_indices"}  # a softmax is asked for float32, which all is

    def handle(write: Writer, *args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        tensor = given.pop("input", None) or given.pop("self")
        return write(kind(**{key: value for key, value in given.items() if key not in ignored}), tensor)

    return handle


def _same_call(kind: type[nn.Module]) -> Callable:
    def handle(write: Writer, *args: Any, **kwargs: Any) -> Any:
        node = write(kind(), *args)
        node.kwargs = kwargs
        return node

    return handle


HANDLERS |= {name: _of_one_tensor(*entry) for name, entry in _FUNCTIONS.items()}
HANDLERS |= {name: _same_call(kind) for name, kind in _MODULES.items()}


@handler("add", "iadd", "radd")
def _add(write: Writer, input: Any, other: Any, alpha: float = 1) -> Any:
    return write(custom.Add(), input, other if alpha == 1 else write(custom.Multiply(), other, alpha))


@handler("sub", "subtract", "isub")
def _sub(write: Writer, input: Any, other: Any, alpha: float = 1) -> Any:
    other = other if alpha == 1 else write(custom.Multiply(), other, alpha)
    if write.is_float(input):
        return write(custom.Subtract(), input, other)
    return write(custom.Add(), write(custom.Multiply(), other, -1.0), input)


@handler("rsub")
def _rsub(write: Writer, input: Any, other: Any, alpha: float = 1) -> Any:
    return _sub(write, other, input, alpha)


@handler("mul", "multiply", "imul")
def _mul(write: Writer, input: Any, other: Any) -> Any:
    return write(custom.Multiply(), input, other)


@handler("div", "divide", "true_divide", "truediv", "itruediv")
def _div(write: Writer, input: Any, other: Any, rounding_mode: str | None = None) -> Any:
    if rounding_mode:
        return NotImplemented
    return write(custom.Divide(), input if write.is_float(input) else write.constant(float(input)), other)


@handler("reciprocal")
def _reciprocal(write: Writer, input: Any) -> Any:
    return _div(write, 1.0, input)


@handler("rsqrt")
def _rsqrt(write: Writer, input: Any) -> Any:
    return _reciprocal(write, write(custom.Sqrt(), input))


@handler("clamp", "clip")
def _clamp(write: Writer, input: Any, min: Any = None, max: Any = None) -> Any:
    low, high = write.value(min), write.value(max)
    if isinstance(low, int | float) and isinstance(high, int | float):
        return write(nn.ReLU6() if (low, high) == (0, 6) else nn.Hardtanh(float(low), float(high)), input)
    if low == 0 and max is None:
        return write(nn.ReLU(), input)
    for bound, kind in ((min, custom.Maximum), (max, custom.Minimum)):
        if bound is not None:
            known = write.value(bound)
            input = write(kind(), input, write.constant(float(known)) if isinstance(known, int | float) else bound)
    return input


@handler("clamp_min")
def _clamp_min(write: Writer, input: Any, min: Any) -> Any:
    return _clamp(write, input, min)


@handler("clamp_max")
def _clamp_max(write: Writer, input: Any, max: Any) -> Any:
    return _clamp(write, input, None, max)


@handler("max")
def _max(write: Writer, input: Any, *args: Any, **kwargs: Any) -> Any:
    return _largest(write, custom.Maximum, custom.AMax, input, *args, **kwargs)


@handler("min")
def _min(write: Writer, input: Any, *args: Any, **kwargs: Any) -> Any:
    return _largest(write, custom.Minimum, custom.AMin, input, *args, **kwargs)


def _largest(
    write: Writer, of_two: Any, along: Any, input: Any, dim: Any = None, keepdim: bool = False, other: Any = None
) -> Any:
    """Two tensors' larger values; or those along a dimension, of which only the values are used."""
    second = other if other is not None else dim
    if second is not None and not isinstance(second, int):
        return write(of_two(), input, second)
    if dim is None:
        return write(along(), input)
    picks = list(write.node.users)
    if any(pick.args[1] not in (0, "values") for pick in picks):
        return NotImplemented
    values = write(along(), input, dim, keepdim)
    for pick in picks:
        pick.replace_all_uses_with(values)
    return values


@handler("where")
def _where(write: Writer, condition: Any, input: Any = None, other: Any = None) -> Any:
    if isinstance(write.node.target, str):  # of a tensor, which takes its own values where the condition holds
        condition, input = input, condition
    if not any(write.is_float(one) for one in (input, other)):
        return NotImplemented
    return write(custom.Where(), condition, *(_with_steps(write, one) for one in (input, other)))


def _with_steps(write: Writer, chosen: Any) -> Any:
    """Give a value of `where`; a constant that stands for minus infinity leaves the others of its range their steps."""
    known = write.value(chosen)
    if known is None or (write.is_float(chosen) and not (known <= INFINITE).any()):
        return chosen
    values = torch.as_tensor(known, dtype=torch.float32)
    return write.constant(torch.where(values <= INFINITE, MASKED, values))


@handler("masked_fill")
def _masked_fill(write: Writer, input: Any, mask: Any, value: Any) -> Any:
    filled = write.value(value)
    if not write.is_float(input) or not isinstance(filled, int | float | torch.Tensor):
        return NotImplemented
    return write(custom.Where(), mask, write.constant(max(float(filled), MASKED)), input)


@handler("prelu")
def _prelu(write: Writer, input: Any, weight: Any) -> Any:
    slopes = write.value(weight)
    if slopes is None:
        return NotImplemented
    module = nn.PReLU(slopes.numel())
    module.weight.data.copy_(slopes.flatten())
    return write(module, input, name=write.layer_of(weight))


@handler("to", "float")
def _to_float(write: Writer, input: Any, dtype: Any = torch.float32, *_: Any, **__: Any) -> Any:
    """Drop a cast to the type that the tensor has, as of norms that ask for float32: between integers it is float."""
    return input if dtype is torch.float32 and write.is_float(input) else NotImplemented


def _upsampled(mode: str) -> Callable:
    def handle(write: Writer, input: Any, output_size: Any, *settings: Any) -> Any:
        *aligned, factors = settings or (None,)
        node = write(custom.Interpolate(), input)
        node.kwargs = {"size": output_size, "scale_factor": factors, "mode": mode}
        if aligned:
            node.kwargs = {**node.kwargs, "align_corners": aligned[0]}
        return node

    return handle


for _mode in ("nearest", "bilinear", "bicubic"):
    handler(f"upsample_{_mode}2d")(_upsampled(_mode))  # as torch.export calls `interpolate`
