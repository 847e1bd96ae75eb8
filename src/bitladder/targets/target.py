"""The interface of a target: it takes a model and samples, and gives its outputs and what it costs there."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bitladder.network.outputs import Outputs, StoredOutputs
from bitladder.records import Device, LatencySource
from bitladder.targets.pool import Pool
from bitladder.tasks.samples import Samples

__all__ = ["Job", "Latency", "Measured", "Target"]


@dataclass(frozen=True)
class Job:
    """What a target is asked to do.

    `model` is ONNX, float or QDQ, at `precision` (FP16, W8A8, ...). `folder` takes what is compiled, `notes` what is
    told beside it and differs from run to run (cycles, job ids); `workspace` is where a killed run finds what it did.
    `emulators` opens other machines' processes that emulate; None: it is done here.
    """

    model: Path
    precision: str
    split: Samples
    folder: Path
    notes: Path
    workspace: Path
    emulators: Callable[[], AbstractContextManager[Pool]] | None = None


@dataclass(frozen=True)
class Latency:
    """Latency of an inference in ms: an estimate has an interval, a measurement a median (`ms`) and p90."""

    source: LatencySource
    reason: str
    ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    p90_ms: float | None = None


@dataclass(frozen=True)
class Measured:
    """What a target found. `memory_bytes` is the compiled model's size, None where the target does not tell.

    `memory` is what the compiled model says of the memory that it takes, by the names of record.MEMORY. `device` is
    what ran it, and `emulated` what the emulator gave for the first samples, where both did.
    """

    outputs: Outputs | StoredOutputs
    memory_bytes: int | None
    weights_bytes: int | None
    ops_npu: int
    ops_cpu: int
    latency: Latency
    memory: dict[str, int] | None = None
    device: Device | None = None
    emulated: StoredOutputs | None = None


class Target(Protocol):
    """Where a model runs."""

    def measure(self, job: Job) -> Measured:
        """Compile and run. Raise UserError where the target refuses the model, fails, or takes too long."""
