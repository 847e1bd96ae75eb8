"""AIMET's search for a grid that weights are on already, given up as soon as it cannot succeed.

Before AIMET gives weights a range, it looks whether they were quantized before: for each channel it tries every likely
number of steps. At 16 bits these are thousands, each over the whole tensor: 100 s for the float weights of a ResNet-18.
Here a tenth of the channels, and a tenth of each one's weights, are tried first. AIMET takes a channel if at most 5 %
of its weights are off the grid, and a tensor if 90 % of its channels are taken. Where so many are off already in what
was tried, the search ends, as AIMET's would. Where it may succeed, AIMET's own search follows. So what is found is the
same.

`running/patches.py` says with which versions it is in force.
"""

import torch
from aimet_torch import utils as aimet
from torch import Tensor

__all__ = ["install"]

FEW_LEVELS = 2**8
"""Up to so many AIMET's search is short."""

_theirs = aimet._select_divisor


def install() -> None:
    """Put this before AIMET's search, for this process. Doing so twice does no harm."""
    aimet._select_divisor = _given_up_early


def _given_up_early(
    x: Tensor, absmax: Tensor, min_nonzero: Tensor, zero_point_shift: float, max_level: int, ulp_rel: float
) -> tuple[Tensor, Tensor]:
    """Raise AIMET's _DecompositionError where no grid fits x, of shape (channels, weights); else search as AIMET does.

    Source: aimet_torch.utils._select_divisor, of which a channel's share off the grid is counted in the same way.
    """
    if max_level > FEW_LEVELS and zero_point_shift == 0.0 and _hopeless(x, absmax, min_nonzero, max_level, ulp_rel):
        raise aimet._DecompositionError("not on a grid")
    return _theirs(x, absmax, min_nonzero, zero_point_shift, max_level, ulp_rel)


@torch.no_grad()
def _hopeless(
    x: Tensor, absmax: Tensor, min_nonzero: Tensor, max_level: int, ulp_rel: float, eps: float = 1e-12
) -> bool:
    channels = torch.nonzero(torch.isfinite(min_nonzero) & (absmax > 0)).flatten()
    enough = int((1 - aimet._MIN_MATCHED_FRAC) * len(x)) + 1
    if len(channels) < enough:
        return False
    tried = channels[torch.linspace(0, len(channels) - 1, enough).long()]
    nonzero = (x[tried].abs() > eps).sum(dim=1)
    few = x[tried][:, :: max(1, x.shape[1] // (x.shape[1] // 10 + 64))]
    counted = few.abs() > eps
    for steps in _numbers_of_steps(x, absmax, min_nonzero, max_level, eps):
        scaled = few / (absmax[tried] / steps).clamp(min=eps).unsqueeze(1)
        off = (scaled.round() - scaled).abs() > scaled.abs() * (aimet._ULP_SAFETY * ulp_rel)
        if bool(((off & counted).sum(dim=1) <= aimet._ABS_OFFGRID_CEIL * nonzero).any()):
            return False
    return True


def _numbers_of_steps(x: Tensor, absmax: Tensor, min_nonzero: Tensor, max_level: int, eps: float) -> list[int]:
    """Give what AIMET tries: about the largest weight by the smallest, and by the smallest difference, a channel."""
    gaps = x.abs().sort(dim=1).values.diff(dim=1)
    gaps = gaps.masked_fill_(gaps <= eps, float("inf"))
    least = gaps.min(dim=1).values if gaps.shape[1] else absmax
    least = torch.where(torch.isfinite(least), least, absmax).clamp(min=eps)
    active = torch.isfinite(min_nonzero) & (absmax > 0)
    estimates = [absmax / min_nonzero.clamp(min=eps), absmax / least]
    found: list[int] = aimet._candidate_divisors(estimates, active, max_level, False, x.device).tolist()
    return found
