"""Qualcomm's Hexagon backend as a target, emulated or on a Snapdragon's own NPU, in processes that can be given up."""

import platform
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bitladder.errors import UserError
from bitladder.network.outputs import StoredOutputs
from bitladder.params import TargetParams
from bitladder.records import Device
from bitladder.socs import Soc
from bitladder.targets.backend import (
    PROFILE_FILE,
    has_npu,
    time_runs,
    write_profile,
)
from bitladder.targets.context import Compiled, compile_model, run_stored
from bitladder.targets.estimated import estimated_latency
from bitladder.targets.ops import OPS_FILE, read_profile, weights_bytes, write_ops
from bitladder.targets.runner import facts
from bitladder.targets.target import Job, Latency, Measured
from bitladder.targets.workers import check_room, result, worker_pool

__all__ = ["Hexagon", "Snapdragon", "measured"]


@dataclass(frozen=True)
class Hexagon:
    """The emulator: the NPU's outputs, on this machine's CPU; its time says nothing of the device's."""

    soc: Soc
    settings: TargetParams

    def measure(self, job: Job) -> Measured:
        """Compile, run every sample, and profile one inference into OPS_FILE; the latency is an estimate."""
        compiled, found = self._run(job, "emulated")
        return measured(job, compiled, found, estimated_latency(job.model, self.soc))

    def _run(self, job: Job, source: str) -> tuple[Compiled, StoredOutputs]:
        limit_s, fp16 = self.settings.compile_limit_s, job.precision == "FP16"
        here = 1 if job.emulators else min(self.settings.workers, len(job.split))
        with (
            worker_pool(here, job.workspace) as pool,
            job.emulators() if job.emulators else nullcontext(pool) as emulators,
        ):
            compiled = compile_model(job.model, job.folder, self.soc, fp16, limit_s, job.workspace, pool)
            found = run_stored(compiled, self.soc, fp16, job.split, self.settings, job.workspace, emulators)
            arguments = (str(compiled.context), str(job.workspace), self.soc.soc_model, fp16, job.split.row(0))
            self._result(job, pool.schedule(write_profile, args=arguments, timeout=self.settings.sample_limit_s))
        check_room(f"{job.model}: profiling on {self.soc.name}", job.workspace)
        write_ops(job.notes / OPS_FILE, read_profile(job.workspace / PROFILE_FILE), source)
        return compiled, found

    def _in_worker(self, job: Job, work: Callable, arguments: tuple, inferences: int) -> Any:
        with worker_pool(1, job.workspace) as pool:
            return self._result(
                job, pool.schedule(work, args=arguments, timeout=self.settings.sample_limit_s * inferences)
            )

    def _result(self, job: Job, future: Future) -> Any:
        limit = f"target.sample_limit_s = {self.settings.sample_limit_s:g} s an inference"
        return result(future, f"{job.model} on {self.soc.name}", limit, job.workspace)


@dataclass(frozen=True)
class Snapdragon(Hexagon):
    """The NPU of the machine that this runs on, through the same backend; its latency is measured."""

    def measure(self, job: Job) -> Measured:
        """Compile, run every sample, and time inferences of the first. Raise UserError where there is no such NPU."""
        self.check(job.workspace)
        compiled, found = self._run(job, "measured")
        before = facts()
        latency = self.time(job, compiled)
        return replace(measured(job, compiled, found, latency), device=self._device(before, facts()))

    def check(self, workspace: Path) -> None:
        """Raise UserError where this machine has no NPU."""
        with worker_pool(1, workspace) as pool:
            limit_s = self.settings.sample_limit_s
            there = pool.schedule(has_npu, timeout=limit_s)
            if not result(there, "looking for the NPU", f"target.sample_limit_s = {limit_s:g} s", workspace):
                raise UserError(
                    "target.backend: snapdragon needs a machine with a Snapdragon NPU (Windows or Linux on Arm), and"
                    " this one has none; use hexagon-emulator or ai-hub"
                )

    def time(self, job: Job, compiled: Compiled) -> Latency:
        """Time inferences of the first sample, after some that warm up."""
        warmup, runs = self.settings.warmup, self.settings.runs
        fp16 = job.precision == "FP16"
        arguments = (str(compiled.context), self.soc.soc_model, fp16, job.split.row(0), warmup, runs)
        times = self._in_worker(job, time_runs, arguments, warmup + runs)
        median, p90 = (float(value) for value in np.quantile(times, [0.5, 0.9]))
        reason = f"latency: median of {runs} runs after {warmup} to warm up, on this machine's NPU"
        return Latency("measured", reason, median, p90_ms=p90)

    def _device(self, before: dict[str, Any], after: dict[str, Any]) -> Device:
        return Device(
            name=after["chip"] or platform.processor() or None,
            runtime=f"onnxruntime-qnn {after['packages']['onnxruntime-qnn']}",
            governor=after["governor"],
            celsius_before=before["celsius"],
            celsius_after=after["celsius"],
            throttling=after["throttling"],
            warmup=self.settings.warmup,
            runs=self.settings.runs,
            untold="the backend's default performance mode; its QAIRT is the compiler's; Linux alone tells the rest",
        )


def measured(job: Job, compiled: Compiled, outputs: StoredOutputs, latency: Latency) -> Measured:
    """Put together what a target on the Hexagon backend found."""
    return Measured(
        outputs,
        compiled.memory_bytes,
        weights_bytes(job.model),
        compiled.ops_npu,
        compiled.ops_cpu,
        latency,
        compiled.memory,
    )
