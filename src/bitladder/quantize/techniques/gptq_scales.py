"""The scales that GPTQ rounds to: what goes with the weights that share one, a channel, a tensor or a block."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Blocks", "Channels"]

SCALES = tuple(1 - 0.04 * step for step in range(16))  # tried, as shares of the min-max one


@dataclass(frozen=True)
class Channels:
    """A scale for each output channel, or one for all: groups x outputs x 1."""

    by_channel: bool

    def best(self, target: Tensor, moments: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        """Give the share of each channel's scale at which rounding to the nearest costs its output least."""

        def error(away: Tensor) -> Tensor:
            found = ((away @ moments) * away).sum(2, keepdim=True)
            return found if self.by_channel else found.sum().expand_as(found)

        return _best(target, scale, low, high, error)

    def least_squares(self, steps: Tensor, target: Tensor, moments: Tensor, scale: Tensor) -> Tensor:
        """Give the scales at which these steps come nearest to the target."""
        toward, own = ((values @ moments * steps).sum(2, keepdim=True) for values in (target, steps))
        if not self.by_channel:
            toward, own = toward.sum().expand_as(scale), own.sum().expand_as(scale)
        return torch.where((toward > 0) & (own > 0), toward / own, scale)

    def stored(self, scale: Tensor) -> Tensor:
        """Give them in the order in which a quantizer has them."""
        return scale.reshape(-1) if self.by_channel else scale.reshape(-1)[:1]


@dataclass(frozen=True)
class Blocks:
    """A scale for each block of so many weights of an output, repeated for each of them: 1 x outputs x weights."""

    size: int

    def best(self, target: Tensor, moments: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        """Give the share of each block's scale at which rounding it to the nearest, alone, costs its output least."""

        def error(away: Tensor) -> Tensor:
            return torch.cat([self._error(away, moments, own) for own in self._each(target)], 2)

        return _best(target, scale, low, high, error)

    def least_squares(self, steps: Tensor, target: Tensor, moments: Tensor, scale: Tensor) -> Tensor:
        """Give the scales at which these steps come nearest to the target, block after block."""
        scale = scale.clone()
        left = (target - steps * scale) @ moments
        for own in self._each(target):
            part, rows = steps[:, :, own], moments[:, own]
            size = (part @ rows[:, :, own] * part).sum(2, keepdim=True)
            move = torch.where(size > 0, (left[:, :, own] * part).sum(2, keepdim=True) / size, 0)
            move = torch.where(scale[:, :, own] + move > 0, move, 0)
            scale[:, :, own] += move
            left -= (move * part) @ rows
        return scale

    def stored(self, scale: Tensor) -> Tensor:
        """Give them in the order in which a quantizer has them."""
        return scale[:, :, :: self.size].reshape(-1)

    def _each(self, weights: Tensor) -> list[slice]:
        return [slice(start, start + self.size) for start in range(0, weights.shape[2], self.size)]

    def _error(self, away: Tensor, moments: Tensor, own: slice) -> Tensor:
        part = away[:, :, own]
        return ((part @ moments[:, own, own]) * part).sum(2, keepdim=True).expand_as(part)


def _best(target: Tensor, scale: Tensor, low: int, high: int, error: Callable[[Tensor], Tensor]) -> Tensor:
    """Give the share of each scale whose error, of how far rounding to the nearest is from the target, is least."""
    best, least = scale, torch.full_like(scale, torch.inf)
    for share in SCALES:
        found = error((target / (share * scale)).round().clamp(low, high) * (share * scale) - target)
        best, least = torch.where(found < least, share * scale, best), torch.minimum(found, least)
    return best
