"""The metrics/target record of a model that the target did not run. Starts without torch."""

from collections.abc import Mapping
from typing import Any

from bitladder.params import Params
from bitladder.socs import Soc

__all__ = ["MEMORY", "header", "memory_table", "not_profiled", "precision_of"]

MEMORY = ("spill_fill_bytes", "vtcm_bytes", "ddr_tensor_bytes", "constants_bytes", "op_data_bytes", "io_bytes")
"""What a context binary says of its memory: the buffer for what does not fit the NPU's own memory and is spilled to
DDR; that memory (VTCM), as it was compiled for; tensors that live in DDR; weights; the ops' data; inputs and outputs.
"""

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
        "memory": memory_table(None, reason),
        "latency_source": "none",
        "reason": reason,
    }


def memory_table(found: Mapping[str, int] | None, why_not: str) -> dict[str, Any]:
    """Give the figures by the names of MEMORY with their source; nulls and the reason where there are none."""
    if found is None:
        return {**dict.fromkeys(MEMORY), "source": f"none: {why_not}"}
    return {**found, "source": "context binary"}


def header(backend: str, soc: Soc) -> dict[str, Any]:
    """Say which target it is."""
    return {"backend": backend, "soc": soc.name}
