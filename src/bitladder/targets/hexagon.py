"""The Hexagon emulator as a target: compiling and running in processes that can be given up."""

import time
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pebble import ProcessExpired, ProcessPool
from tqdm import tqdm

from bitladder.errors import UserError
from bitladder.evaluate import Outputs
from bitladder.files import load_tensors, save_tensors
from bitladder.params import TargetParams
from bitladder.socs import Soc
from bitladder.targets.backend import CONTEXT_FILE, Placement, answer, compile_context, redirect_output
from bitladder.tasks.task import Split

__all__ = ["Compiled", "compile_model", "run"]

LOG_FILE = "backend.log"

SAVE_EVERY_S = 10.0  # how much emulation a killed run loses at most


@dataclass(frozen=True)
class Compiled:
    """A context binary: its wrapper ONNX, its size in bytes, and how many ops run where."""

    context: Path
    memory_bytes: int
    ops_npu: int
    ops_cpu: int


def compile_model(model: Path, folder: Path, soc: Soc, fp16: bool, limit_s: float, workspace: Path) -> Compiled:
    """Compile an ONNX model into `folder` for a SoC's NPU, with nothing left for the CPU.

    Raises UserError where the NPU refuses ops (named), the compiler fails, or the limit is reached.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _pool(1, workspace) as pool:
        job = (str(model), str(folder), soc.soc_model, fp16)
        placement: Placement = _result(
            pool.schedule(compile_context, args=job, timeout=limit_s),
            f"{model}: compiling for {soc.name}",
            f"target.compile_limit_s = {limit_s:g} s",
            workspace,
        )
    if placement["cpu"]:
        named = ", ".join(placement["cpu"][:5])
        raise UserError(f"{model}: the NPU of {soc.name} does not take {len(placement['cpu'])} of its ops: {named}")
    size = sum(path.stat().st_size for path in folder.glob("*.bin"))
    return Compiled(folder / CONTEXT_FILE, size, len(placement["npu"]), len(placement["cpu"]))


def run(compiled: Compiled, soc: Soc, fp16: bool, split: Split, params: TargetParams, workspace: Path) -> Outputs:
    """Run samples on the emulator one at a time, over parallel processes.

    Answers are kept in `workspace` as they come, so that a killed run goes on where it was.

    Raises UserError where a sample reaches its limit or the emulator dies on it.
    """
    kept = workspace / "answers.safetensors"
    answers: Outputs = load_tensors(kept) if kept.exists() else {}
    done = len(next(iter(answers.values()))) if answers else 0
    rows: list[dict[str, np.ndarray]] = []
    with (
        _pool(params.workers, workspace) as pool,
        tqdm(total=len(split), initial=done, desc="emulate", unit="sample") as bar,
    ):
        futures = [
            pool.schedule(
                answer,
                args=(str(compiled.context), soc.soc_model, fp16, _row(split, index)),
                timeout=params.sample_limit_s,
            )
            for index in range(done, len(split))
        ]
        saved = time.monotonic()
        try:
            for index, future in enumerate(futures, start=done):
                limit = f"target.sample_limit_s = {params.sample_limit_s:g} s"
                rows.append(_result(future, f"sample {index} on the emulator of {soc.name}", limit, workspace))
                bar.update()
                if time.monotonic() - saved > SAVE_EVERY_S:
                    save_tensors(kept, _joined(answers, rows))
                    saved = time.monotonic()
        except BaseException:
            pool.stop()
            if rows:
                save_tensors(kept, _joined(answers, rows))
            raise
    return _joined(answers, rows)


def _pool(workers: int, workspace: Path) -> ProcessPool:
    # spawn: the backend must not start in a copy of a process that runs torch's threads
    log = str((workspace / LOG_FILE).resolve())
    return ProcessPool(workers, initializer=redirect_output, initargs=(log,), context=get_context("spawn"))


def _row(split: Split, index: int) -> dict[str, np.ndarray]:
    return {name: values[index : index + 1].numpy() for name, values in split.inputs.items()}


def _joined(answers: Outputs, rows: list[dict[str, np.ndarray]]) -> Outputs:
    if not rows:
        return answers
    fresh = {name: torch.from_numpy(np.concatenate([row[name] for row in rows])) for name in rows[0]}
    return {name: torch.cat([answers[name], value]) if answers else value for name, value in fresh.items()}


def _result(future: Future, work: str, limit: str, workspace: Path) -> Any:
    """Wait for a process's result, and put into one line what went wrong with it."""
    try:
        return future.result()
    except TimeoutError:
        raise UserError(f"{work} took longer than {limit}; raise it in params.yaml") from None
    except ProcessExpired as death:
        log = workspace / LOG_FILE
        raise UserError(f"{work}: its process died ({death}); run again, or see {log}") from None
    except Exception as error:
        # The backend's own errors have no common class; anything else is a fault of ours and keeps its traceback
        if not isinstance(error, RuntimeError) and not type(error).__module__.startswith("onnxruntime"):
            raise
        raise UserError(f"{work}: {' '.join(str(error).split())}") from None
