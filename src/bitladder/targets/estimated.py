"""Latency of a SoC that is not at hand, from published measurements of the device that has it, or of its siblings."""

from pathlib import Path

from bitladder.errors import UserError
from bitladder.latency.estimate import MIXED, estimate
from bitladder.socs import Soc
from bitladder.targets.target import Latency

__all__ = ["estimated_latency"]

NOT_THE_EMULATORS = "latency: the emulator's time is the host's, not the device's"


def estimated_latency(model: Path, soc: Soc) -> Latency:
    """Estimate a model's latency, each op at its own bits; "none" and the reason where nothing tells of it."""
    try:
        found = estimate(model, soc.name, MIXED)
    except UserError as error:
        return Latency("none", f"{NOT_THE_EMULATORS}, and there is no estimate: {error}")
    reason = f"latency: estimated for {found.device} from {found.basis} ({found.runtime}); 80 % interval"
    return Latency("estimated", reason, found.latency_ms, found.low_ms, found.high_ms)
