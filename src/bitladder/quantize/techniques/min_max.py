"""Ranges from the least to the greatest value seen."""

from bitladder.quantize.techniques.technique import Quantized, Setting, calibrated

__all__ = ["min_max"]


def min_max(setting: Setting, start: Quantized | None) -> Quantized:
    """Ranges from the least to the greatest value seen."""
    return calibrated(setting, start.model if start else setting.model, "min-max", ("min-max",))
