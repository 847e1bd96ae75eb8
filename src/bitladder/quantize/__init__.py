"""Quantization by AIMET, which comes in first, and without what it brings along."""

from bitladder.quantize.sim import aimet as _aimet  # noqa: F401
