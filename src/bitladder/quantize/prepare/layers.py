"""Calls that bring weights of their own, as the layers that would hold these."""

from collections.abc import Callable
from typing import Any

import torch
from aimet_torch.nn.modules import custom
from torch import Tensor, nn

from bitladder.quantize.prepare.calls import handler
from bitladder.quantize.prepare.composites import GroupNorm
from bitladder.quantize.prepare.writer import Writer

__all__: list[str] = []


def _layer(
    write: Writer, module: Any, input: Any, weight: Any, bias: Any, written: Callable[[Any], nn.Module] | None = None
) -> Any:
    """Write a layer with weights that are known now; where they come with the inputs, leave the call."""
    values, offsets = write.value(weight), write.value(bias)
    if not isinstance(values, Tensor) or (bias is not None and not isinstance(offsets, Tensor)):
        return NotImplemented
    module.weight = nn.Parameter(values.detach().clone())
    module.register_parameter("bias", None if offsets is None else nn.Parameter(offsets.detach().clone()))
    return write(written(module) if written else module, input, name=write.layer_of(weight))


@handler("linear")
def _linear(write: Writer, input: Any, weight: Any, bias: Any = None) -> Any:
    outputs, inputs = write.shape(weight)
    return _layer(write, nn.Linear(inputs, outputs), input, weight, bias)


@handler("matmul", "mm")
def _matmul(write: Writer, input: Any, other: Any) -> Any:
    first, second = write.value(input), write.value(other)
    if _is_known(first) and second is None and write.is_float(other) and len(write.shape(other)) > 1:
        # the NPU takes a constant as the second of two alone: A X is the transpose of X' A'
        turned = write.function(torch.transpose, other, -2, -1)
        return write.function(torch.transpose, _times(write, turned, first.transpose(-2, -1)), -2, -1)
    if _is_known(second) and first is None and write.is_float(input):
        return _times(write, input, second)
    return write(custom.MatMul(), input, other)


def _times(write: Writer, input: Any, values: Tensor) -> Any:
    """Multiply by weights: a layer where they are one matrix."""
    if values.ndim > 2:
        return write(custom.MatMul(), input, write.constant(values))
    module = nn.Linear(values.shape[0], values.shape[1], bias=False)
    module.weight = nn.Parameter(values.detach().t().contiguous().clone())
    return write(module, input)


@handler("addmm")
def _addmm(write: Writer, input: Any, mat1: Any, mat2: Any, beta: float = 1, alpha: float = 1) -> Any:
    bias, values = write.value(input), write.value(mat2)
    if not _is_matrix(values) or not isinstance(bias, Tensor) or (beta, alpha) != (1, 1):
        return NotImplemented
    module = nn.Linear(*values.shape)
    module.weight = nn.Parameter(values.detach().t().contiguous().clone())
    module.bias = nn.Parameter(bias.detach().expand(values.shape[1]).clone())
    return write(module, mat1)


def _is_matrix(values: Any) -> bool:
    return _is_known(values) and values.ndim == 2


def _is_known(values: Any) -> bool:
    return isinstance(values, Tensor) and values.ndim > 1 and values.is_floating_point()


def _conv(kind: type[nn.Module]) -> Callable:
    def handle(
        write: Writer,
        input: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Any:
        outputs, inputs, *size = write.shape(weight)
        own = {"stride": _one(stride), "padding": _one(padding), "dilation": _one(dilation), "groups": groups}
        return _layer(write, kind(inputs * groups, outputs, tuple(size), **own), input, weight, bias)

    return handle


def _transposed(kind: type[nn.Module]) -> Callable:
    def handle(
        write: Writer,
        input: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Any:
        inputs, outputs, *size = write.shape(weight)
        own = {"stride": _one(stride), "padding": _one(padding), "dilation": _one(dilation), "groups": groups}
        own["output_padding"] = _one(output_padding)
        return _layer(write, kind(inputs, outputs * groups, tuple(size), **own), input, weight, bias)

    return handle


def _one(setting: Any) -> Any:
    """Make [1] 1: torch.export writes a list even of one number, which then holds for every dimension."""
    if isinstance(setting, str | int):
        return setting
    return setting[0] if len(setting) == 1 else tuple(setting)


for _size in (1, 2, 3):
    handler(f"conv{_size}d")(_conv(getattr(nn, f"Conv{_size}d")))
    handler(f"conv_transpose{_size}d")(_transposed(getattr(nn, f"ConvTranspose{_size}d")))


@handler("embedding")
def _embedding(
    write: Writer,
    input: Any,
    weight: Any,
    padding_idx: int | None = None,
    *_: Any,
    **__: Any,
) -> Any:
    if write.exported:  # with the weight first
        input, weight = weight, input
    values = write.value(weight)
    if values is None:
        return NotImplemented
    module = nn.Embedding(values.shape[0], values.shape[1], _weight=values.detach().clone())
    return write(module, input, name=write.layer_of(weight))


@handler("layer_norm")
def _layer_norm(
    write: Writer, input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Any:
    module = nn.LayerNorm(tuple(normalized_shape), eps)
    return write(module, input) if weight is None else _layer(write, module, input, weight, bias)


@handler("group_norm")
def _group_norm(
    write: Writer, input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Any:
    channels = write.shape(input)[1]
    if weight is None:
        return write(GroupNorm(nn.GroupNorm(num_groups, channels, eps, affine=False)), input)
    return _layer(write, nn.GroupNorm(num_groups, channels, eps), input, weight, bias, GroupNorm)


@handler("batch_norm")
def _batch_norm(
    write: Writer,
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: Any,
) -> Any:
    if write.exported:  # with the weights before the statistics
        running_mean, running_var, weight, bias = weight, bias, running_mean, running_var
    known = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    values = {name: write.value(one) for name, one in known.items() if one is not None}
    if training or any(value is None for value in values.values()) or running_mean is None:
        return NotImplemented
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(write.shape(input))]
    module = kind(len(values["running_mean"]), eps).eval()
    with torch.no_grad():
        for name, value in values.items():
            getattr(module, name).copy_(value)
    return write(module, input, name=write.layer_of(weight))


@handler("instance_norm")
def _instance_norm(
    write: Writer,
    input: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: Any,
) -> Any:
    if write.exported:
        running_mean, running_var, weight, bias = weight, bias, running_mean, running_var
    if not use_input_stats or running_mean is not None:
        return NotImplemented
    shape = write.shape(input)
    kind = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}[len(shape)]
    if weight is None:
        return write(kind(shape[1], eps), input)
    return _layer(write, kind(shape[1], eps, affine=True), input, weight, bias)
