"""The metrics/target record of a model that the target did not run. Starts without torch."""

from typing import Any

from bitladder.params import TargetParams

__all__ = ["header", "not_profiled"]

MEASURED = (
    "value",
    "drop",
    "reference_value",
    "gap",
    "agreement",
    "sqnr_db",
    "memory_bytes",
    "ops_npu",
    "ops_cpu",
)


def not_profiled(settings: TargetParams, reason: str) -> dict[str, Any]:
    """Give the record of a model that the target does not take or was not asked about: nothing measured, and why."""
    nothing = dict.fromkeys(MEASURED)
    return {
        **header(settings),
        "samples": 0,
        **nothing,
        "latency_ms": None,
        "latency_source": "none",
        "reason": reason,
    }


def header(settings: TargetParams) -> dict[str, Any]:
    """Say which target it is."""
    return {"backend": settings.backend, "soc": settings.soc}
