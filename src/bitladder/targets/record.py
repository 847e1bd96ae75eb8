"""The metrics/target record of a model that the target did not run. Starts without torch."""

from typing import Any

from bitladder.params import Params
from bitladder.socs import Soc

__all__ = ["header", "not_profiled", "precision_of"]

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


def precision_of(params: Params, rung: str) -> str:
    """Give the label of a rung's precision, by which SoCs take it: FP16, W8A8, ..."""
    return "FP16" if rung == "fp16" else str(params.ladder[rung].precision)


def not_profiled(backend: str, soc: Soc, reason: str) -> dict[str, Any]:
    """Give the record of a model that the target does not take or was not asked about: nothing measured, and why."""
    return {
        **header(backend, soc),
        "samples": 0,
        **dict.fromkeys(MEASURED),
        "latency_source": "none",
        "reason": reason,
    }


def header(backend: str, soc: Soc) -> dict[str, Any]:
    """Say which target it is."""
    return {"backend": backend, "soc": soc.name}
