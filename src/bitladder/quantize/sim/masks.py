"""Masks of nn.MultiheadAttention, which AIMET simulates as a whole: it adds -inf, which no range can hold."""

import torch
from torch import nn

from bitladder.quantize.prepare.attention import MASKED

__all__ = ["bound_masks"]


def bound_masks(model: nn.Module) -> None:
    """Let a sim's attention add MASKED where it adds -inf: for a mask of booleans, and for one that is kept so."""
    attentions = [module for module in model.modules() if hasattr(module, "attn_mask_value")]
    for attention in attentions:
        attention.attn_mask_value = MASKED  # type: ignore[assignment]
    with torch.no_grad():
        for buffer in model.buffers() if attentions else ():
            if buffer.is_floating_point() and buffer.isneginf().any():
                buffer.clamp_(min=MASKED)
