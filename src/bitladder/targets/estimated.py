"""Latency of a SoC that is not at hand, from published measurements of the device that has it."""

from pathlib import Path

from bitladder.errors import UserError
from bitladder.latency.estimate import RUNTIME, estimate
from bitladder.socs import Soc
from bitladder.targets.target import Latency

__all__ = ["estimated_latency"]

NOT_THE_EMULATORS = "latency: the emulator's time is the host's, not the device's"


def estimated_latency(model: Path, precision: str, soc: Soc) -> Latency:
    """Estimate a model's latency; without a source, and the reason why, where there is nothing to estimate it from."""
    if soc.device is None:
        return Latency(
            "none", f"{NOT_THE_EMULATORS}, and there are no published latencies of {soc.name} to estimate from"
        )
    try:
        found = estimate(model, soc.device, precision.lower())
    except UserError as error:
        return Latency("none", f"{NOT_THE_EMULATORS}, and there is no estimate: {error}")
    reason = (
        f"latency: estimated for {found.device} and runtime {RUNTIME} from published latencies of other models; 80 %"
        " interval"
    )
    return Latency("estimated", reason, found.latency_ms, found.low_ms, found.high_ms)
