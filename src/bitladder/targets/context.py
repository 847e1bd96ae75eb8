"""Context binaries of the Hexagon backend: compiled from ONNX, and run, in processes that can be given up."""

import shutil
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from bitladder.errors import RefusedError, UserError
from bitladder.network.outputs import Outputs, StoredOutputs
from bitladder.params import TargetParams
from bitladder.running.cluster import ClusterError
from bitladder.running.cluster_worker import NotHereError
from bitladder.socs import Soc
from bitladder.targets.backend import CONTEXT_FILE, Placement, Row, compile_context, run_batch, run_batches
from bitladder.targets.binary import read_memory
from bitladder.targets.ops import place_in, where_from
from bitladder.targets.pool import Pool
from bitladder.targets.workers import check_room, result, worker_pool
from bitladder.tasks.samples import HELD_BYTES, Samples

__all__ = ["Compiled", "compile_model", "run", "run_stored"]

SHOWN = 5  # ops that a message names

SAVE_EVERY_S = 10.0  # how much emulation a killed run loses at most

QUICK_S = 0.2  # samples that took less together are asked for twice as many at a time
TOGETHER = 128  # at most

TELL_AFTER, TOLD_S = 4, 60.0  # the first in each process loads the model; what takes less needs no telling
AHEAD = 2  # a process, so that none waits


@dataclass(frozen=True)
class Compiled:
    """A context binary: its wrapper ONNX, its size in bytes, how many ops run where, what it says of its memory."""

    context: Path
    memory_bytes: int
    ops_npu: int
    ops_cpu: int
    memory: dict[str, int] | None = None


def compile_model(
    model: Path, folder: Path, soc: Soc, fp16: bool, limit_s: float, workspace: Path, pool: Pool | None = None
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
        try:
            placement: Placement = result(done, work, limit, workspace)
        except RefusedError as refusal:
            raise RefusedError(f"{str(refusal).rstrip('.')}{place_in(model, str(refusal))}") from None
        if placement["cpu"]:
            check_room(work, workspace)  # a profile that was cut short names ops that it did not come to
            ops = where_from(model, placement["cpu"])
            named = ", ".join(ops[:SHOWN])
            raise RefusedError(f"{model}: the NPU of {soc.name} does not take {len(ops)} of its ops: {named}")
        (binary,) = unfinished.glob("*.bin")
        memory = result(workers.schedule(read_memory, args=(binary,), timeout=limit_s), work, limit, workspace)
    size = binary.stat().st_size
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(unfinished, folder)
    return Compiled(folder / CONTEXT_FILE, size, len(placement["npu"]), len(placement["cpu"]), memory)


def run(compiled: Compiled, soc: Soc, fp16: bool, split: Samples, params: TargetParams, workspace: Path) -> Outputs:
    """Run a few samples on the emulator as `run_stored` does, and give their outputs in one."""
    return run_stored(compiled, soc, fp16, split, params, workspace).whole()


def run_stored(
    compiled: Compiled,
    soc: Soc,
    fp16: bool,
    split: Samples,
    params: TargetParams,
    workspace: Path,
    pool: Pool | None = None,
) -> StoredOutputs:
    """Run samples on the emulator one at a time, over the parallel processes of `pool`, or of one of its own.

    Outputs are kept in `workspace` as they come, so that a killed run goes on where it was.

    Raises UserError where a sample reaches its limit or the emulator dies on it.
    """
    kept = StoredOutputs(workspace / "outputs")
    if (done := len(kept)) == len(split):
        return kept
    with (
        nullcontext(pool) if pool else worker_pool(min(params.workers, len(split) - done), workspace) as workers,
        tqdm(total=len(split), initial=done, desc="emulate", unit="sample") as bar,
    ):
        saved = time.monotonic()
        try:
            for found in _answers(workers, compiled, soc, fp16, split, done, params, workspace):
                for row in found:
                    kept.append(
                        {name: torch.from_numpy(np.require(values, requirements="W")) for name, values in row.items()}
                    )
                bar.update(len(found))
                if time.monotonic() - saved > SAVE_EVERY_S:
                    kept.flush()
                    saved = time.monotonic()
        except BaseException:
            workers.stop()
            kept.flush()
            raise
    kept.flush()
    return kept


def _answers(
    pool: Pool,
    compiled: Compiled,
    soc: Soc,
    fp16: bool,
    split: Samples,
    done: int,
    params: TargetParams,
    workspace: Path,
) -> Iterator[list[Row]]:
    """Give the outputs of the samples from `done` on, some at a time: for quick ones, the way to a process is long.

    Where some together fail, they are asked for one by one, so that the sample is named and its own limit counts.
    """
    size, start, answered, late = 1, done, 0, 0
    ahead: deque[tuple[range, Future]] = deque()
    context = pool.send(compiled.context)

    def ask(samples: range) -> tuple[range, Future]:
        arguments = (run_batch, context, soc.soc_model, fp16, pool.rows(split, samples))
        return samples, pool.schedule(run_batches, args=arguments, timeout=params.sample_limit_s)

    def may_ask() -> bool:
        # One that is late holds up the order, and must not hold up the others: their outputs wait in memory
        full = len(ahead) >= AHEAD * pool.workers + late
        return not full and sum(not future.done() for _, future in ahead) < AHEAD * pool.workers

    while ahead or start < len(split):
        while start < len(split) and may_ask():
            ahead.append(ask(range(start, min(start + size, len(split)))))
            start = ahead[-1][0].stop
        samples, future = ahead.popleft()
        limit = f"target.sample_limit_s = {params.sample_limit_s:g} s"
        try:
            found, seconds = result(future, f"sample {samples[0]} on the emulator of {soc.name}", limit, workspace)
        except NotHereError:  # nor do others, which are now sent the samples themselves
            ahead.appendleft(ask(samples))
            continue
        except ClusterError:
            raise
        except UserError:
            if len(samples) == 1:
                raise
            size = 1
            ahead.extendleft(reversed([ask(range(index, index + 1)) for index in samples]))
            continue
        answered += 1
        late = HELD_BYTES // max(1, sum(values.nbytes for row in found for values in row.values()))
        if answered == TELL_AFTER:
            _tell_time(seconds / len(samples) * (len(split) - samples.stop) / pool.workers, len(split), pool.workers)
        if seconds < QUICK_S:
            size = min(2 * size, TOGETHER)
        yield found


def _tell_time(seconds: float, samples: int, workers: int) -> None:
    if seconds > TOLD_S:
        many = f"{workers} worker{'s' if workers > 1 else ''}"
        tqdm.write(f"emulate: {samples} samples take about {seconds / 60:.0f} min on {many}; target.samples lowers it")
