"""The record of a model on a target, and of one that the target did not run. Starts without torch."""

from collections.abc import Mapping

from bitladder.params import Params
from bitladder.records import Measurement, Memory
from bitladder.socs import Soc

__all__ = ["MEMORY", "lacking", "memory_of", "not_profiled", "precision_of"]

MEMORY = tuple(name for name in Memory.model_fields if name != "source")
"""What a context binary says of its memory, in bytes."""


def precision_of(params: Params, rung: str) -> str:
    """Give the label of a rung's precision, by which SoCs take it: FP16, W8A8, ..."""
    return "FP16" if rung == "fp16" else str(params.ladder[rung].precision)


def lacking(params: Params, rung: str, soc: Soc) -> str:
    """Name what of a rung, or of FP16, a SoC does not take; nothing where it takes all."""
    if rung == "fp16":
        return "" if "FP16" in soc.takes else "FP16"
    return params.ladder[rung].lacking(soc)


def not_profiled(backend: str, soc: Soc, reason: str) -> Measurement:
    """Give the record of a model that the target does not take or was not asked about: nothing measured, and why."""
    memory = memory_of(None, reason)
    return Measurement(backend=backend, soc=soc.name, samples=0, memory=memory, latency_source="none", reason=reason)


def memory_of(found: Mapping[str, int] | None, why_not: str) -> Memory:
    """Give the figures by the names of MEMORY with their source; nulls and the reason where there are none."""
    return Memory(source=f"none: {why_not}") if found is None else Memory(**found, source="context binary")
