"""What a decision says of a rung besides figures: what was asked of it, and what its figures come from."""

from bitladder.params import GoalsParams, TargetParams
from bitladder.records import Evaluation, Goals, Measurement, Sources

__all__ = ["asked", "sources_of"]


def asked(goals: GoalsParams, settings: TargetParams) -> Goals:
    """Give the goals that are set."""
    latencies = [goals.max_latency_ms, *(own.max_latency_ms for own in goals.per_soc.values())]
    asks_latency = any(limit is not None for limit in latencies)
    per_soc = {name: own.model_dump(exclude_unset=True) for name, own in goals.per_soc.items()}
    return Goals(
        max_drop=goals.max_drop,
        max_relative_drop=goals.max_relative_drop,
        min_value=goals.min_value,
        confidence=goals.confidence,
        undecided=goals.undecided,
        max_memory_bytes=goals.max_memory_bytes,
        max_latency_ms=goals.max_latency_ms,
        accept_latency_estimates=goals.accept_latency_estimates if asks_latency else None,
        per_soc=per_soc or None,
        max_gap=settings.max_gap,
        max_relative_gap=settings.max_relative_gap,
    )


def sources_of(off: Evaluation, on: Measurement) -> Sources:
    """Say what simulated and ran a rung, and where its memory and latency come from."""
    if off.skipped or off.refused:
        none = f"none: {'skipped' if off.skipped else 'refused'}"
        return Sources(off_target=none, on_target=none, memory=none, latency=none)
    simulated = "FP16 module" if off.technique == "fp16" else "QuantSim"
    if on.value is None:
        target = memory = "none: refused" if on.refused else f"none: {on.reason}"
    else:
        target = f"{on.ran_by}, {on.soc}, {on.samples} samples"
        memory = f"context binary compiled for {on.soc}"
    why = "refused" if on.refused else on.reason.removeprefix("latency: ")
    return Sources(
        off_target=f"{simulated} on the CPU, {off.samples} samples",
        on_target=target,
        memory=memory,
        latency=on.latency_source if on.latency_ms is not None else f"none: {why}",
    )
