"""The metrics/target record of a model that the target did not run. Starts without torch."""

from typing import Any

from bitladder.params import TargetParams
from bitladder.socs import find_soc

__all__ = ["header", "not_profiled"]

MEASURED = (
    "value",
    "drop",
    "reference_value",
    "gap",
    "agreement",
    "sqnr_db",
    "memory_bytes",
    "weights_bytes",
    "ops_npu",
    "ops_cpu",
    "latency_ms",
    "latency_low_ms",
    "latency_high_ms",
    "latency_p90_ms",
)


def not_profiled(settings: TargetParams, reason: str) -> dict[str, Any]:
    """Give the record of a model that the target does not take or was not asked about: nothing measured, and why."""
    return {
        **header(settings),
        "samples": 0,
        **dict.fromkeys(MEASURED),
        "latency_source": "none",
        "reason": reason,
    }


def header(settings: TargetParams) -> dict[str, Any]:
    """Say which target it is."""
    return {"backend": settings.backend, "soc": find_soc(settings.soc).name}
