"""Pooling: means and maxima over windows."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bitladder.htp.arithmetic.layer import Layer

__all__ = ["max_pool", "mean"]

BITS = 15  # of the multiplier


def mean(layer: Layer) -> Callable[[Tensor], Tensor] | None:
    """Model an AveragePool without padding, or a mean over all of the image: a sum times a multiplier of 15 bits."""
    sums = {"AveragePool": _windows, "GlobalAveragePool": _image, "ReduceMean": _axes}[layer.node.op_type](layer)
    if sums is None or len(layer.tensors) != 1 or not (layer.has_bits(8) or layer.has_bits(16)):
        return None
    quantizer = layer.tensors[0].quantizer
    assert quantizer is not None
    ratio, zero = quantizer.step / layer.quantizer.step, int(quantizer.zero_point)
    zero_point, levels = int(layer.quantizer.zero_point), layer.levels
    window = math.prod(layer.graph.attribute(layer.node, "kernel_shape", [0]))  # 0: the whole image

    def run(inputs: Tensor) -> Tensor:
        found = sums(inputs.double() - zero)
        each = ratio / (window or inputs.numel() / found.numel())
        unit = 2.0 ** (math.frexp(each)[1] - BITS)
        return (torch.floor(found * (round(each / unit) * unit) + 0.5) + zero_point).clamp(*levels).float()

    return run


def max_pool(layer: Layer) -> Callable[[Tensor], Tensor] | None:
    """Model a MaxPool whose output has its input's quantizer, so that integers are only moved."""
    attribute = layer.graph.attribute
    (source,) = layer.tensors
    if source.quantizer is None or not source.quantizer.same_as(layer.quantizer):
        return None
    if attribute(layer.node, "ceil_mode", 0) or attribute(layer.node, "auto_pad", b"NOTSET") != b"NOTSET":
        return None
    kernel = attribute(layer.node, "kernel_shape")
    if len(kernel) != 2 or len(layer.node.output) > 1:
        return None
    stride, dilation = (attribute(layer.node, name, [1, 1]) for name in ("strides", "dilations"))
    top, left, bottom, right = attribute(layer.node, "pads", [0] * 4)
    levels = layer.levels

    def run(inputs: Tensor) -> Tensor:
        padded = functional.pad(inputs, (left, right, top, bottom), value=-np.inf)
        return functional.max_pool2d(padded, kernel, stride, 0, dilation).clamp(*levels)

    return run


def _windows(layer: Layer) -> Callable[[Tensor], Tensor] | None:
    attribute = layer.graph.attribute
    kernel = attribute(layer.node, "kernel_shape")
    moved = any(attribute(layer.node, "pads", [0])) or attribute(layer.node, "ceil_mode", 0)
    dilated = set(attribute(layer.node, "dilations", [1])) != {1}
    if len(kernel) != 2 or moved or dilated or attribute(layer.node, "auto_pad", b"NOTSET") != b"NOTSET":
        return None
    stride = attribute(layer.node, "strides", [1, 1])
    return lambda inputs: functional.avg_pool2d(inputs, kernel, stride, divisor_override=1)


def _image(layer: Layer) -> Callable[[Tensor], Tensor] | None:
    return lambda inputs: inputs.sum(tuple(range(2, inputs.ndim)), keepdim=True)


def _axes(layer: Layer) -> Callable[[Tensor], Tensor] | None:
    graph, node = layer.graph, layer.node
    axes = graph.attribute(node, "axes")
    if axes is None and len(node.input) > 1:
        found = graph.find_constant(node.input[1])
        axes = None if found is None else [int(axis) for axis in found]
    if not axes or 0 in axes:
        return None
    keep = bool(graph.attribute(node, "keepdims", 1))
    return lambda inputs: torch.sum(inputs, tuple(axes), keepdim=keep)
