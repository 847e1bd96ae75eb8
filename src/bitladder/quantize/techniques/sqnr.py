"""Ranges that clip outliers where that costs less than wider steps would."""

from bitladder.quantize.techniques.technique import Quantized, Setting, calibrated

__all__ = ["sqnr"]


def sqnr(setting: Setting, start: Quantized | None) -> Quantized:
    """Ranges that clip outliers where that costs less (AIMET's tf_enhanced)."""
    return calibrated(setting, start.model if start else setting.model, "sqnr", ("sqnr",))
