"""Qualcomm's Hexagon backend as a target, emulated or on a Snapdragon's own NPU, in processes that can be given up."""

import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pebble import ProcessPool
from tqdm import tqdm

from bitladder.errors import RefusedError, UserError
from bitladder.network.evaluate import Outputs
from bitladder.params import TargetParams
from bitladder.running.files import load_tensors, save_tensors
from bitladder.socs import Soc
from bitladder.targets.backend import (
    CONTEXT_FILE,
    PROFILE_FILE,
    Placement,
    Row,
    answer,
    answers,
    compile_context,
    has_npu,
    time_runs,
    write_profile,
)
from bitladder.targets.binary import read_memory
from bitladder.targets.estimated import estimated_latency
from bitladder.targets.ops import OPS_FILE, read_profile, weights_bytes, write_ops
from bitladder.targets.target import Job, Latency, Measured
from bitladder.targets.workers import check_room, result, worker_pool
from bitladder.tasks.task import Split

__all__ = ["Compiled", "Hexagon", "Snapdragon", "compile_model", "run"]

SAVE_EVERY_S = 10.0  # how much emulation a killed run loses at most

QUICK_S = 0.1  # samples that took less together are asked for twice as many at a time
TOGETHER = 32  # at most
AHEAD = 2  # a process, so that none waits


@dataclass(frozen=True)
class Hexagon:
    """The emulator: answers as the NPU's, on this machine's CPU; its time says nothing of the device's."""

    soc: Soc
    settings: TargetParams

    def measure(self, job: Job) -> Measured:
        """Compile, run every sample, and profile one inference into OPS_FILE; the latency is an estimate."""
        compiled, found = self._run(job, "emulated")
        return _measured(job, compiled, found, estimated_latency(job.model, job.precision, self.soc))

    def _run(self, job: Job, source: str) -> tuple["Compiled", Outputs]:
        limit_s, fp16 = self.settings.compile_limit_s, job.precision == "FP16"
        with worker_pool(min(self.settings.workers, len(job.split)), job.workspace) as pool:
            compiled = compile_model(job.model, job.folder, self.soc, fp16, limit_s, job.workspace, pool)
            found = run(compiled, self.soc, fp16, job.split, self.settings, job.workspace, pool)
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
        if not self._in_worker(job, has_npu, (), 1):
            raise UserError(
                "target.backend: snapdragon needs a machine with a Snapdragon NPU (Windows or Linux on Arm), and this"
                " one has none; use hexagon-emulator or ai-hub"
            )
        compiled, found = self._run(job, "measured")
        return _measured(job, compiled, found, self.time(job, compiled))

    def time(self, job: Job, compiled: "Compiled") -> Latency:
        """Time inferences of the first sample, after some that warm up."""
        warmup, runs = self.settings.warmup, self.settings.runs
        fp16 = job.precision == "FP16"
        arguments = (str(compiled.context), self.soc.soc_model, fp16, job.split.row(0), warmup, runs)
        times = self._in_worker(job, time_runs, arguments, warmup + runs)
        median, p90 = (float(value) for value in np.quantile(times, [0.5, 0.9]))
        reason = f"latency: median of {runs} runs after {warmup} to warm up, on this machine's NPU"
        return Latency("measured", reason, median, p90_ms=p90)


def _measured(job: Job, compiled: "Compiled", answers: Outputs, latency: Latency) -> Measured:
    return Measured(
        answers,
        compiled.memory_bytes,
        weights_bytes(job.model),
        compiled.ops_npu,
        compiled.ops_cpu,
        latency,
        compiled.memory,
    )


@dataclass(frozen=True)
class Compiled:
    """A context binary: its wrapper ONNX, its size in bytes, how many ops run where, what it says of its memory."""

    context: Path
    memory_bytes: int
    ops_npu: int
    ops_cpu: int
    memory: dict[str, int] | None = None


def compile_model(
    model: Path, folder: Path, soc: Soc, fp16: bool, limit_s: float, workspace: Path, pool: ProcessPool | None = None
) -> Compiled:
    """Compile an ONNX model into `folder` for a SoC's NPU, with nothing left for the CPU, in a process of `pool`.

    Raises RefusedError where the NPU does not take ops (named), UserError where the compiler fails or takes too long.
    """
    # What a killed compile left is no context, and the backend refuses to write over one
    unfinished = workspace / "context"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    work, limit = f"{model}: compiling for {soc.name}", f"target.compile_limit_s = {limit_s:g} s"
    with nullcontext(pool) if pool else worker_pool(1, workspace) as workers:
        job = (str(model), str(unfinished), soc.soc_model, fp16)
        done = workers.schedule(compile_context, args=job, timeout=limit_s)
        placement: Placement = result(done, work, limit, workspace)
        if placement["cpu"]:
            named = ", ".join(placement["cpu"][:5])
            raise RefusedError(
                f"{model}: the NPU of {soc.name} does not take {len(placement['cpu'])} of its ops: {named}"
            )
        (binary,) = unfinished.glob("*.bin")
        memory = result(workers.schedule(read_memory, args=(binary,), timeout=limit_s), work, limit, workspace)
    size = binary.stat().st_size
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(unfinished, folder)
    return Compiled(folder / CONTEXT_FILE, size, len(placement["npu"]), len(placement["cpu"]), memory)


def run(
    compiled: Compiled,
    soc: Soc,
    fp16: bool,
    split: Split,
    params: TargetParams,
    workspace: Path,
    pool: ProcessPool | None = None,
) -> Outputs:
    """Run samples on the emulator one at a time, over the parallel processes of `pool`, or of one of its own.

    Answers are kept in `workspace` as they come, so that a killed run goes on where it was.

    Raises UserError where a sample reaches its limit or the emulator dies on it.
    """
    kept = workspace / "answers.safetensors"
    known: Outputs = load_tensors(kept) if kept.exists() else {}
    done = len(next(iter(known.values()))) if known else 0
    if done == len(split):
        return known
    rows: list[Row] = []
    with (
        nullcontext(pool) if pool else worker_pool(min(params.workers, len(split) - done), workspace) as workers,
        tqdm(total=len(split), initial=done, desc="emulate", unit="sample") as bar,
    ):
        saved = time.monotonic()
        try:
            for found in _answers(workers, compiled, soc, fp16, split, done, params, workspace):
                rows += found
                bar.update(len(found))
                if time.monotonic() - saved > SAVE_EVERY_S:
                    save_tensors(kept, _joined(known, rows))
                    saved = time.monotonic()
        except BaseException:
            workers.stop()
            if rows:
                save_tensors(kept, _joined(known, rows))
            raise
    return _joined(known, rows)


def _answers(
    pool: ProcessPool,
    compiled: Compiled,
    soc: Soc,
    fp16: bool,
    split: Split,
    done: int,
    params: TargetParams,
    workspace: Path,
) -> Iterator[list[Row]]:
    """Give the answers to the samples from `done` on, some at a time: for quick ones, the way to a process is long.

    Where some together fail, they are asked for one by one, so that the sample is named and its own limit counts.
    """
    size, start = 1, done
    ahead: deque[tuple[range, Future]] = deque()

    def ask(samples: range) -> tuple[range, Future]:
        given = [split.row(index) for index in samples]
        arguments = (answer, str(compiled.context), soc.soc_model, fp16, given)
        return samples, pool.schedule(answers, args=arguments, timeout=params.sample_limit_s)

    while ahead or start < len(split):
        while start < len(split) and len(ahead) < AHEAD * params.workers:
            ahead.append(ask(range(start, min(start + size, len(split)))))
            start = ahead[-1][0].stop
        samples, future = ahead.popleft()
        limit = f"target.sample_limit_s = {params.sample_limit_s:g} s"
        try:
            found, seconds = result(future, f"sample {samples[0]} on the emulator of {soc.name}", limit, workspace)
        except UserError:
            if len(samples) == 1:
                raise
            size = 1
            ahead.extendleft(reversed([ask(range(index, index + 1)) for index in samples]))
            continue
        if seconds < QUICK_S:
            size = min(2 * size, TOGETHER)
        yield found


def _joined(known: Outputs, rows: list[Row]) -> Outputs:
    if not rows:
        return known
    fresh = {name: torch.from_numpy(np.concatenate([row[name] for row in rows])) for name in rows[0]}
    return {name: torch.cat([known[name], value]) if known else value for name, value in fresh.items()}
