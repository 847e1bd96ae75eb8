"""Calls that are written out in operations that AIMET has modules for, each with its own quantizers."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from aimet_torch.nn.modules import custom
from torch import nn

from bitladder.quantize.prepare.attention import Attention, additive
from bitladder.quantize.prepare.calls import HANDLERS, handler
from bitladder.quantize.prepare.writer import Writer

__all__: list[str] = []

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


@handler("scaled_dot_product_attention")
def _attention(
    write: Writer,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    if dropout_p or (write.value(scale) is None and scale is not None):
        return NotImplemented
    fixed = None
    if is_causal:
        fixed = torch.ones(write.shape(query)[-2], write.shape(key)[-2], dtype=torch.bool).tril()
    elif attn_mask is not None:
        fixed = write.value(attn_mask, broadcasts=True)
    groups = write.shape(query)[1] // write.shape(key)[1] if enable_gqa else 1
    if attn_mask is None or fixed is not None:
        mask = None if fixed is None or (fixed.dtype == torch.bool and fixed.all()) else additive(fixed)
        return write(Attention(write.value(scale), mask, False, groups), query, key, value)
    if not write.is_float(attn_mask):
        # 0 where attention is allowed, MASKED elsewhere
        attn_mask = write(custom.Where(), attn_mask, write.constant(0.0), write.constant(additive(torch.tensor(False))))
    return write(Attention(write.value(scale), None, True, groups), query, key, value, attn_mask)


@handler("mish")
def _mish(write: Writer, input: Any, inplace: bool = False) -> Any:
    return write(custom.Multiply(), input, write(nn.Tanh(), write(nn.Softplus(), input)))


@handler("selu")
def _selu(write: Writer, input: Any, inplace: bool = False) -> Any:
    return write(custom.Multiply(), write(nn.ELU(SELU_ALPHA), input), SELU_SCALE)


@handler("celu")
def _celu(write: Writer, input: Any, alpha: float = 1.0, inplace: bool = False) -> Any:
    if alpha == 1:
        return write(nn.ELU(), input)
    return write(custom.Multiply(), write(nn.ELU(), write(custom.Multiply(), input, 1 / alpha)), alpha)


@handler("softsign")
def _softsign(write: Writer, input: Any) -> Any:
    return write(custom.Divide(), input, write(custom.Add(), write(custom.Abs(), input), 1.0))


@handler("logsigmoid", "log_sigmoid")
def _logsigmoid(write: Writer, input: Any) -> Any:
    """Not as the logarithm of a sigmoid, of which 8 bits hold little where it is near 0."""
    return write(custom.Neg(), write(nn.Softplus(), write(custom.Neg(), input)))


@handler("glu")
def _glu(write: Writer, input: Any, dim: int = -1) -> Any:
    half = write.shape(input)[dim] // 2
    values, gates = (write.function(torch.narrow, input, dim, start, half) for start in (0, half))
    return write(custom.Multiply(), values, write(nn.Sigmoid(), gates))


@handler("tanhshrink")
def _tanhshrink(write: Writer, input: Any) -> Any:
    return write(custom.Subtract(), input, write(nn.Tanh(), input))


@handler("softshrink")
def _softshrink(write: Writer, input: Any, lambd: float = 0.5) -> Any:
    return write(custom.Subtract(), input, write(nn.Hardtanh(-lambd, lambd), input))


@handler("hardshrink")
def _hardshrink(write: Writer, input: Any, lambd: float = 0.5) -> Any:
    large = write(custom.Greater(), write(custom.Abs(), input), lambd)
    return write(custom.Where(), large, input, write.constant(0.0))


@handler("threshold")
def _threshold(write: Writer, input: Any, threshold: float, value: float, inplace: bool = False) -> Any:
    return write(custom.Where(), write(custom.Greater(), input, threshold), input, write.constant(float(value)))


@handler("normalize")
def _normalize(write: Writer, input: Any, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None) -> Any:
    length = _length(write, input, p, dim, True)
    return write(custom.Divide(), input, write(custom.Maximum(), length, write.constant(eps)))


def _length(write: Writer, input: Any, p: float, dim: Any, keepdim: bool) -> Any:
    """Write the usual length out: as one op the NPU computes it in float."""
    if p != 2:
        return write(custom.Norm(), input, p, dim, keepdim)
    return write(custom.Sqrt(), write(custom.Sum(), write(custom.Square(), input), dim, keepdim))


@handler("linalg_norm", "linalg_vector_norm")
def _norm(write: Writer, input: Any, ord: Any = None, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    if dim is None or (not isinstance(dim, int) and len(dim) != 1 and ord is None):
        return NotImplemented
    return _length(write, input, 2.0 if ord is None else ord, dim, keepdim)


@handler("norm")
def _norm_by_p(
    write: Writer, input: Any, p: Any = "fro", dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Any:
    return _norm(write, input, 2.0 if p == "fro" else p, dim, keepdim)


@handler("rms_norm")
def _rms_norm(write: Writer, input: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    dims = list(range(-len(normalized_shape), 0))
    power = write(custom.Mean(), write(custom.Square(), input), dims, True)
    power = write(custom.Add(), power, torch.finfo(torch.float32).eps if eps is None else eps)
    normed = write(custom.Divide(), input, write(custom.Sqrt(), power))
    return normed if weight is None else write(custom.Multiply(), normed, weight)


@handler("local_response_norm")
def _local_response_norm(
    write: Writer, input: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Any:
    """Write a sum over neighbouring channels as a convolution of one pixel."""
    channels, rank = write.shape(input)[1], len(write.shape(input))
    window = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[rank](channels, channels, 1)
    apart = torch.arange(channels) - torch.arange(channels)[:, None]
    near = (apart >= -(size // 2)) & (apart <= (size - 1) // 2)
    window.weight = nn.Parameter((alpha / size * near).view_as(window.weight))
    window.bias = nn.Parameter(torch.full((channels,), float(k)))
    power = write(custom.Log(), write(window, write(custom.Square(), input)))
    return write(custom.Multiply(), input, write(custom.Exponential(), write(custom.Multiply(), power, -beta)))


@handler("var")
def _var(
    write: Writer,
    input: Any,
    dim: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    correction: int | None = None,
) -> Any:
    shape = write.shape(input)
    if dim is None or isinstance(dim, bool):
        return NotImplemented
    dims = [dim] if isinstance(dim, int) else list(dim)
    count = prod(shape[one] for one in dims)
    taken = int(unbiased) if correction is None else correction
    apart = write(custom.Subtract(), input, write(custom.Mean(), input, dims, True))
    spread = write(custom.Mean(), write(custom.Square(), apart), dims, keepdim)
    return write(custom.Multiply(), spread, count / (count - taken)) if taken else spread


@handler("std")
def _std(write: Writer, *args: Any, **kwargs: Any) -> Any:
    spread = _var(write, *args, **kwargs)
    return spread if spread is NotImplemented else write(custom.Sqrt(), spread)


@handler("logsumexp")
def _logsumexp(write: Writer, input: Any, dim: Any, keepdim: bool = False) -> Any:
    top = write(custom.AMax(), input, dim, True)
    apart = write(custom.Exponential(), write(custom.Subtract(), input, top))
    found = write(custom.Add(), write(custom.Log(), write(custom.Sum(), apart, dim, True)), top)
    return found if keepdim else write.function(torch.squeeze, found, dim)


@handler("lerp")
def _lerp(write: Writer, input: Any, end: Any, weight: Any) -> Any:
    return write(custom.Add(), input, write(custom.Multiply(), write(custom.Subtract(), end, input), weight))


@handler("addcmul")
def _addcmul(write: Writer, input: Any, tensor1: Any, tensor2: Any, value: float = 1) -> Any:
    product = write(custom.Multiply(), tensor1, tensor2)
    return write(custom.Add(), input, product if value == 1 else write(custom.Multiply(), product, value))


@handler("einsum")
def _einsum(write: Writer, equation: str, *operands: Any) -> Any:
    """Two operands: a matrix product of batches, of rows and columns, once their dimensions are in that order."""
    tensors = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], Sequence) else list(operands)
    left, _, result = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(tensors) != 2 or not result or "." in equation or any(len(set(term)) != len(term) for term in terms):
        return NotImplemented
    first, second = terms
    batch = [one for one in first if one in second and one in result]
    inner = [one for one in first if one in second and one not in result]
    rows, columns = ([one for one in term if one not in batch + inner] for term in terms)
    if set(rows + columns) - set(result) or not inner:
        return NotImplemented
    size = {
        one: n
        for term, one_of in zip(terms, tensors, strict=True)
        for one, n in zip(term, write.shape(one_of), strict=True)
    }

    def arranged(tensor: Any, term: str, groups: Sequence[list[str]]) -> Any:
        order = [term.index(one) for one in [*batch, *groups[0], *groups[1]]]
        moved = write.function(torch.permute, tensor, order)
        # a batch of any size stays one dimension of its own
        return write.function(torch.reshape, moved, [*kept, *(prod(size[one] for one in group) for group in groups)])

    varying = [one for one in batch if one in result[:1]]
    kept = [-1 if one in varying else size[one] for one in batch]
    if not varying and result[0] in rows and len(rows) > 1:
        return NotImplemented if batch else _rows_first(write, tensors, terms, result, size)
    product = write(
        custom.MatMul(), arranged(tensors[0], first, (rows, inner)), arranged(tensors[1], second, (inner, columns))
    )
    apart = write.function(torch.reshape, product, [*kept, *(size[one] for one in rows + columns)])
    order = [*batch, *rows, *columns]
    return write.function(torch.permute, apart, [order.index(one) for one in result])


def _rows_first(write: Writer, tensors: list[Any], terms: list[str], result: str, size: dict[str, int]) -> Any:
    """Multiply an input by a matrix of weights: `bij,jk->bik`."""
    first, second = terms
    if len(second) != 2 or result != first[:-1] + second[1] or first[-1] != second[0]:
        return NotImplemented
    return HANDLERS["matmul"](write, tensors[0], tensors[1])
