"""Calls that move values: they need no module, but a spelling that AIMET and the NPU know."""

from collections.abc import Sequence
from typing import Any

import torch
from aimet_torch.nn.modules import custom
from torch import nn
from torch.nn import functional

from bitladder.quantize.prepare.calls import handler
from bitladder.quantize.prepare.writer import Writer

__all__: list[str] = []


@handler("stack")
def _stack(write: Writer, tensors: Sequence[Any], dim: int = 0) -> Any:
    dim %= len(write.shape(tensors[0])) + 1
    return write(custom.Concat(dim), *(write.function(torch.unsqueeze, tensor, dim) for tensor in tensors))


@handler("cat", "concat", "concatenate")
def _cat(write: Writer, tensors: Sequence[Any], dim: int = 0) -> Any:
    return write(custom.Concat(dim), *tensors)


@handler("unbind")
def _unbind(write: Writer, input: Any, dim: int = 0) -> Any:
    picks = list(write.node.users)
    if any(not isinstance(pick.args[1], int) for pick in picks):
        return NotImplemented
    for pick in picks:
        pick.replace_all_uses_with(write.function(torch.select, input, dim, pick.args[1]))
    return None


@handler("flip")
def _flip(write: Writer, input: Any, *dims: Any) -> Any:
    for dim in _flat(dims):
        order = write.constant(torch.arange(write.shape(input)[dim]).flip(0))
        input = _moved(write, torch.index_select, input, dim, order)
    return input


@handler("index")
def _index(write: Writer, input: Any, indices: Sequence[Any]) -> Any:
    """Take of every sample the same places, as transformers does of its padding mask."""
    rows, places = indices if len(indices) == 2 else (None, None)
    chosen = write.value(places)
    if rows not in write.facts.rows or chosen is None or len(chosen.shape) > len(write.shape(rows)):
        return NotImplemented
    order = chosen.flatten()
    if not torch.equal(order, torch.arange(write.shape(input)[1])):
        input = write.function(torch.index_select, input, 1, write.constant(order))
    return write.function(torch.reshape, input, (-1, *write.shape(write.node)[1:]))


@handler("roll")
def _roll(write: Writer, input: Any, shifts: Any, dims: Any = None) -> Any:
    if dims is None:
        return NotImplemented
    for shift, dim in zip(_flat([shifts]), _flat([dims]), strict=True):
        size = write.shape(input)[dim]
        first = size - shift % size
        parts = [(first, size - first), (0, first)]
        input = _kept(
            write,
            write(custom.Concat(dim), *(write.function(torch.narrow, input, dim, *part) for part in parts if part[1])),
            write.shape(input),
        )
    return input


@handler("repeat", "tile")
def _repeat(write: Writer, input: Any, *repeats: Any) -> Any:
    counts, shape = _flat(repeats), write.shape(input)
    if not all(isinstance(count, int) for count in counts):
        return NotImplemented
    for _ in range(len(counts) - len(shape)):
        input = write.function(torch.unsqueeze, input, 0)
    for dim, count in enumerate(reversed(counts), 1):  # joined: what stands for a Tile in ONNX asks for its size
        if count != 1:
            input = write(custom.Concat(-dim), *[input] * count)
    return input


@handler("repeat_interleave")
def _repeat_interleave(write: Writer, input: Any, repeats: Any, dim: int | None = None) -> Any:
    if dim is None or not isinstance(write.value(repeats), int):
        return NotImplemented
    rank = len(write.shape(input))
    dim %= rank
    sizes = [-1] * (rank + 1)
    sizes[dim + 1] = write.value(repeats)
    apart = write.function(torch.unsqueeze, input, dim + 1)
    spread = write.function(torch.Tensor.expand, apart, sizes)
    return write.function(torch.flatten, spread, dim, dim + 1)


@handler("movedim", "moveaxis")
def _movedim(write: Writer, input: Any, source: int, destination: int) -> Any:
    if not isinstance(source, int):
        return NotImplemented
    rank = len(write.shape(input))
    order = [dim for dim in range(rank) if dim != source % rank]
    order.insert(destination % rank, source % rank)
    return write.function(torch.permute, input, order)


@handler("swapaxes", "swapdims")
def _swapaxes(write: Writer, input: Any, first: int, second: int) -> Any:
    return write.function(torch.transpose, input, first, second)


@handler("getattr")
def _attribute(write: Writer, input: Any, name: str) -> Any:
    if name == "mT":
        return write.function(torch.transpose, input, -2, -1)
    if name == "T":
        return write.function(torch.permute, input, list(reversed(range(len(write.shape(input))))))
    return NotImplemented


@handler("type_as")
def _type_as(write: Writer, input: Any, other: Any) -> Any:
    return input if write.is_float(input) and write.is_float(other) else NotImplemented


@handler("unflatten")
def _unflatten(write: Writer, input: Any, dim: int, sizes: Any) -> Any:
    sizes, rank = tuple(sizes), len(write.shape(input))
    module = nn.Unflatten(dim % rank, sizes)
    return write(module, input)


@handler("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")
def _dropout(write: Writer, input: Any, p: float = 0.5, training: bool = True, *_: Any, **__: Any) -> Any:
    return NotImplemented if training and p else input


@handler("stochastic_depth")  # torchvision's
def _stochastic_depth(write: Writer, input: Any, p: float, mode: str, training: bool = True) -> Any:
    return NotImplemented if training and p else input


@handler("pad")
def _pad(write: Writer, input: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """Cut where padding is negative; pad with zeros and add a value, which then has a quantizer of its own."""
    pairs = [tuple(pad[index : index + 2]) for index in range(0, len(pad), 2)]
    shape = list(write.shape(input))
    rank = len(shape)
    for index, (before, after) in enumerate(pairs):
        dim = rank - 1 - index
        kept = shape[dim] + min(before, 0) + min(after, 0)
        if kept != shape[dim]:
            input = write.function(torch.narrow, input, dim, max(-before, 0), kept)
            shape[dim] = kept
    outside = [max(size, 0) for size in pad]
    if not any(outside):
        return input
    if mode != "constant":
        return write(custom.Pad(), input, outside, mode)
    padded = write(custom.Pad(), input, outside, mode, 0.0)  # ONNX has no value otherwise, which breaks the export
    if not value:
        return padded
    sizes = [1] * (rank - len(pairs)) + shape[rank - len(pairs) :]
    frame = functional.pad(torch.zeros(sizes), outside, value=value)
    return write(custom.Add(), padded, write.constant(frame))


def _flat(values: Any) -> list[Any]:
    return [one for value in values for one in (value if isinstance(value, list | tuple) else [value])]


def _moved(write: Writer, function: Any, input: Any, *arguments: Any) -> Any:
    """Call a function that keeps the shape."""
    return _kept(write, write.function(function, input, *arguments), write.shape(input))


def _kept(write: Writer, node: Any, shape: tuple[int, ...]) -> Any:
    write.facts.shapes[node] = shape
    return node
