"""Ops that move integers and compute nothing: reshaping, transposing, and joining tensors of one scale."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from bitladder.htp.arithmetic.layer import Layer

__all__ = ["concat", "move", "pad"]


def move(layer: Layer) -> Callable[[Tensor], Tensor] | None:
    """Model a Reshape, Flatten, Transpose, Squeeze or Unsqueeze whose output has its input's quantizer."""
    if len(layer.tensors) != 1 or not _tied(layer):
        return None
    if layer.node.op_type == "Transpose":
        order = layer.graph.attribute(layer.node, "perm")
        return None if order is None else lambda inputs: inputs.permute(*order)
    shape = layer.graph.shape(layer.node.output[0])
    if not shape or not all(shape):
        return None
    return lambda inputs: inputs.reshape(-1, *shape[1:])  # graphs are for a batch of one


def concat(layer: Layer) -> Callable[..., Tensor] | None:
    """Model a Concat all parts of which have the output's quantizer."""
    axis = layer.graph.attribute(layer.node, "axis")
    if len(layer.tensors) != len(layer.operands) or not _tied(layer):
        return None
    return lambda *parts: torch.cat(parts, axis)


def pad(layer: Layer) -> Callable[[Tensor], Tensor] | None:
    """Model a Pad by a constant whose output has its input's quantizer."""
    graph, node = layer.graph, layer.node
    if len(layer.tensors) != 1 or not _tied(layer) or graph.attribute(node, "mode", b"constant") != b"constant":
        return None
    around, value, axes = (graph.find_constant(name) if name else None for name in [*node.input[1:], "", "", ""][:3])
    if around is None or axes is not None:
        return None
    rank = len(around) // 2
    sides = [int(side) for axis in reversed(range(rank)) for side in (around[axis], around[axis + rank])]
    filled = 0.0 if value is None else float(value.reshape(()))
    integer = round(filled / layer.quantizer.step) + int(layer.quantizer.zero_point)
    return lambda inputs: functional.pad(inputs, sides, value=integer)


def _tied(layer: Layer) -> bool:
    return all(one.quantizer is not None and one.quantizer.same_as(layer.quantizer) for one in layer.tensors)
