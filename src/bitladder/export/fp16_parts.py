"""Functions that torch's exporter has no op for, or a wrong one, written out as the NPU computes them in FP16."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from bitladder.quantize.prepare.attention import share_heads

__all__ = ["InParts"]

MASKED = -1e4  # added to a score that must not count: FP16 holds it, and needs not spare steps as a quantizer does


class InParts(TorchFunctionMode):
    """Calls what is written out in place of these functions."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call it, or the function itself."""
        return _PARTS.get(func, func)(*args, **(kwargs or {}))


def _rms_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    least = torch.finfo(torch.float32).eps if eps is None else eps  # of the type in which torch adds up
    normed = x / torch.sqrt((x * x).mean(list(range(-len(shape), 0)), keepdim=True) + least)
    return normed if weight is None else normed * weight


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    *rest: Any,
    enable_gqa: bool = False,
    **others: Any,
) -> Tensor:
    """Give each head its keys, and a boolean mask as numbers: torch's exporter makes FP32 of one, and all after it."""
    if enable_gqa:
        groups = query.shape[1] // key.shape[1]
        key, value = (share_heads(values, groups) for values in (key, value))
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.where(attn_mask, 0.0, MASKED).to(query.dtype)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask, *rest, **others)


def _diff(x: Tensor, n: int = 1, dim: int = -1, prepend: Tensor | None = None, append: Tensor | None = None) -> Tensor:
    x = torch.cat([one for one in (prepend, x, append) if one is not None], dim)
    for _ in range(n):
        after, before = x.narrow(dim, 1, x.shape[dim] - 1), x.narrow(dim, 0, x.shape[dim] - 1)
        x = after != before if x.dtype == torch.bool else after - before
    return x


def _cumsum(x: Tensor, dim: int, **others: Any) -> Tensor:
    return torch.cumsum(x.long() if x.dtype == torch.bool else x, dim, **others)


_PARTS: dict[Any, Callable[..., Tensor]] = {
    functional.rms_norm: _rms_norm,
    functional.scaled_dot_product_attention: _attention,
    torch.cumsum: _cumsum,
    Tensor.cumsum: _cumsum,
    torch.diff: _diff,
    Tensor.diff: _diff,
}
