"""Quantizers whose steps are as small as their tensor asks for.

AIMET lets no scale under 1.2e-7. At 16 bits that is coarse for ranges under 0.008, at 8 bits for those under 3e-5: a
network whose weights or activations are small would be worse in simulation than on the NPU, which has no such limit.
Here the limit holds only within a tensor: a channel of nothing but zeros, or of next to nothing, among others of usual
size keeps AIMET's step, as a bias counts in steps of input times weight, and would overflow.

`running/patches.py` says with which versions it is in force.
"""

import torch
from aimet_torch.quantization import encoding_analyzer
from aimet_torch.quantization.affine import quantizer
from torch import Tensor

from bitladder.running.patches import in_force

__all__ = ["install", "minimum_scale"]

AIMETS = quantizer._get_minimum_scale(2**16 - 1)
LEAST = 2.0**-60
WITHIN = 2.0**-10  # of a tensor's largest scale, where that is under AIMET's limit

_set_range = quantizer.AffineQuantizerBase.set_range


def install() -> None:
    """Take AIMET's limit away, for this process. Doing so twice does no harm."""
    quantizer._get_minimum_scale = encoding_analyzer._get_minimum_scale = _least
    quantizer.AffineQuantizerBase.set_range = _set_widened_range


def minimum_scale() -> float:
    """Give the scale under which no quantizer of up to 16 bits goes."""
    return LEAST if in_force("small-scales") else AIMETS


def _least(num_steps: int) -> float:
    return LEAST


def _set_widened_range(self: quantizer.AffineQuantizerBase, min: Tensor | None, max: Tensor | None) -> None:
    """Widen what is next to nothing beside the tensor's other channels by a step of AIMET's, as AIMET does."""
    if isinstance(min, Tensor) and isinstance(max, Tensor):
        steps = self.qmax - self.qmin
        scales = (max.detach() - min.detach()) / steps
        largest = float(scales.max())
        limit = AIMETS if largest >= AIMETS or largest <= 2 * LEAST else largest * WITHIN
        if bool((scales < limit).any()):
            above = steps // 2 if self.symmetric else steps
            low = scales < limit
            min, max = torch.where(low, min - limit * (steps - above), min), torch.where(low, max + limit * above, max)
    _set_range(self, min, max)
