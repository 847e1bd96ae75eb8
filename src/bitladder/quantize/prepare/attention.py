"""Attention of separate operations, each of which AIMET can give a quantizer."""

import math

import torch
from aimet_torch.nn.modules import custom
from torch import Tensor, nn

__all__ = ["MASKED", "Attention", "additive", "share_heads"]

MASKED = -100.0
"""Added to a score that must not count. Its exponential is 0 in float32 beside any score in use, and 8 bits can still
tell scores apart in a range that reaches down to it, which they cannot with -inf or -1e4."""


class Attention(nn.Module):
    """`scaled_dot_product_attention`, written out.

    Args:
        scale: of the scores; None for the usual one by the size of the queries.
        mask: what is added to the scores whatever the inputs are, or None.
        masked: whether a mask comes with each input.
        groups: how many queries' heads share one head of keys and values.

    """

    def __init__(self, scale: float | None, mask: Tensor | None, masked: bool, groups: int = 1) -> None:
        super().__init__()
        self.scale, self.groups = scale, groups
        self.scaled, self.scores, self.softmax = custom.Multiply(), custom.MatMul(), nn.Softmax(-1)
        self.weighted = custom.MatMul()
        self.register_buffer("mask", mask)
        self.add_mask = custom.Add() if masked or mask is not None else None

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend to values by their keys."""
        scale = self.scale if self.scale is not None else 1 / math.sqrt(query.shape[-1])
        if self.groups > 1:
            key, value = (share_heads(values, self.groups) for values in (key, value))
        scores = self.scores(self.scaled(query, scale), key.transpose(-2, -1))
        if self.add_mask is not None:
            scores = self.add_mask(scores, self.mask if mask is None else mask)
        return self.weighted(self.softmax(scores), value)


def additive(mask: Tensor) -> Tensor:
    """Make a mask that is true where attention is allowed, or one with -inf, a number to add to the scores."""
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape).masked_fill(~mask, MASKED)
    return mask.clamp(min=MASKED)


def share_heads(values: Tensor, groups: int) -> Tensor:
    """Repeat each head of keys or values for its group of queries' heads."""
    spread = values.unsqueeze(2).expand(-1, -1, groups, -1, -1)
    return spread.flatten(1, 2)
