"""Quantization by AIMET, which comes in first, and without what it brings along."""

from bitladder.quantize import aimet as _aimet  # noqa: F401
