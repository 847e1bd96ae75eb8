"""Sums of two quantized tensors."""

from collections.abc import Callable

import torch
from torch import Tensor

from bitladder.htp.arithmetic.layer import Layer

__all__ = ["add"]


def add(layer: Layer) -> Callable[..., Tensor] | None:
    """Model an Add of two tensors: the sum in steps of the output, rounded half up."""
    if layer.node.op_type != "Add" or len(layer.tensors) != 2 or not (layer.has_bits(8) or layer.has_bits(16)):
        return None
    quantizers = [one.quantizer for one in layer.tensors if one.quantizer is not None]
    ratios = [one.step / layer.quantizer.step for one in quantizers]
    zeros = [int(one.zero_point) for one in quantizers]
    zero_point, levels = int(layer.quantizer.zero_point), layer.levels

    def run(left: Tensor, right: Tensor) -> Tensor:
        found = (left.double() - zeros[0]) * ratios[0] + (right.double() - zeros[1]) * ratios[1]
        return (torch.floor(found + 0.5) + zero_point).clamp(*levels).float()

    return run
