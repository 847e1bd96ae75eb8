"""A device that is reached from here: models are compiled here and run there, in chunks, over what may break."""

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from bitladder.errors import UserError
from bitladder.network.outputs import StoredOutputs
from bitladder.records import Device
from bitladder.targets.backend import PROFILE_FILE, Row, write_profile
from bitladder.targets.context import Compiled, compile_model, run_stored
from bitladder.targets.hexagon import Hexagon, measured
from bitladder.targets.ops import OPS_FILE, read_profile, write_ops
from bitladder.targets.runner import Finding
from bitladder.targets.target import Job, Latency, Measured
from bitladder.targets.workers import worker_pool
from bitladder.tasks.samples import Samples

__all__ = ["MODEL", "Connect", "LostError", "Remote", "Session", "failing", "last_line"]

T = TypeVar("T")

MODEL = (".onnx", ".bin")
"""Endings of the files of a compiled model."""

CHUNK_BYTES, CHUNK = 2**25, 64  # of inputs that go there at a time, and samples at most
TRIES, WAIT_S = 3, 2.0  # connections without an answer; seconds before the second one, doubled for each further


class LostError(Exception):
    """The connection broke, and may come back."""


class Session(Protocol):
    """A model on a device that is reached. What it is asked raises LostError where the connection breaks."""

    def run(self, inputs: Row, samples: int) -> Row:
        """Run samples; give their outputs."""

    def time(self, inputs: Row, warmup: int, runs: int) -> tuple[list[float], Device]:
        """Time inferences of one sample, in ms by the device's clock; no times where it has no NPU."""


Connect = Callable[[], AbstractContextManager[Session]]
"""Reaches the device, again where the connection broke."""


@dataclass(frozen=True)
class Remote(Hexagon, ABC):
    """The NPU of a device that is reached from here; the emulator runs the first samples too, to compare."""

    def measure(self, job: Job) -> Measured:
        """Compile here; there, run every sample and time the first. The cycles of each op are the emulator's."""
        self.check()
        fp16 = job.precision == "FP16"
        compiled = self._compile(job)
        with self.installed(compiled, fp16, job.workspace) as connect:
            outputs = StoredOutputs(job.workspace / "outputs")
            first, asked = job.split.row(0), (self.settings.warmup, self.settings.runs)
            times, device = self._finish(connect, job.split, outputs, lambda there: there.time(first, *asked))
        emulated = None
        if count := min(self.settings.emulated, len(job.split)):
            work = job.workspace / "emulated"
            work.mkdir(exist_ok=True)
            emulated = run_stored(compiled, self.soc, fp16, job.split.first(count), self.settings, work)
        latency = self.latency(job, times, device)
        return replace(measured(job, compiled, outputs, latency), device=device, emulated=emulated)

    def run(self, compiled: Compiled, fp16: bool, split: Samples, workspace: Path) -> StoredOutputs:
        """Run samples there, and no more."""
        outputs = StoredOutputs(workspace / "outputs")
        with self.installed(compiled, fp16, workspace) as connect:
            self._finish(connect, split, outputs, lambda _: None)
        return outputs

    @abstractmethod
    def check(self) -> None:
        """Raise UserError for what would keep a model from running there, before one is compiled."""

    @abstractmethod
    def installed(self, compiled: Compiled, fp16: bool, workspace: Path) -> AbstractContextManager[Connect]:
        """Bring a model there, for as long as it is needed."""

    @property
    @abstractmethod
    def place(self) -> str:
        """What a message calls the device."""

    def latency(self, job: Job, times: Sequence[float], device: Device) -> Latency:
        """Give median and p90 of what was timed."""
        if not times:
            return Latency("none", f"latency: {device.untold}")
        median, p90 = (float(value) for value in np.quantile(times, [0.5, 0.9]))
        name = device.name or "the device"
        reason = (
            f"latency: median of {device.runs} runs after {device.warmup} to warm up, on the NPU of {name}, by"
            f" its clock ({device.runtime})"
        )
        return Latency("measured", reason, median, p90_ms=p90)

    def _finish(self, connect: Connect, split: Samples, kept: StoredOutputs, last: Callable[[Session], T]) -> T:
        """Run the samples whose outputs are not kept yet, over as many connections as it takes; then do the last."""
        tries = 0
        with tqdm(total=len(split), initial=len(kept), desc="run on the device", unit="sample") as bar:
            while True:
                done = len(kept)
                try:
                    with connect() as session:
                        _run_chunks(session, split, kept, bar)
                        return last(session)
                except LostError as lost:
                    tries = 0 if len(kept) > done else tries + 1
                    if tries >= TRIES:
                        raise UserError(
                            f"{self.place}: the connection broke {tries} times ({lost}); `dvc repro` goes on after"
                            f" sample {len(kept)}"
                        ) from None
                    time.sleep(WAIT_S * 2**tries)

    def _compile(self, job: Job) -> Compiled:
        fp16 = job.precision == "FP16"
        with worker_pool(1, job.workspace) as pool:
            compiled = compile_model(
                job.model, job.folder, self.soc, fp16, self.settings.compile_limit_s, job.workspace, pool
            )
            arguments = (str(compiled.context), str(job.workspace), self.soc.soc_model, fp16, job.split.row(0))
            self._result(job, pool.schedule(write_profile, args=arguments, timeout=self.settings.sample_limit_s))
        write_ops(job.notes / OPS_FILE, read_profile(job.workspace / PROFILE_FILE), "emulated")
        return compiled


def _run_chunks(session: Session, split: Samples, kept: StoredOutputs, bar: tqdm) -> None:
    size = max(1, min(CHUNK, CHUNK_BYTES // max(1, sum(one.nbytes for one in split.row(0).values()))))
    while (start := len(kept)) < len(split):
        rows = [split.row(index) for index in range(start, min(start + size, len(split)))]
        inputs = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        outputs = session.run(inputs, len(rows))
        kept.append({name: torch.from_numpy(values) for name, values in outputs.items()})
        kept.flush()
        bar.update(len(rows))


def failing(findings: Sequence[Finding]) -> str:
    """Say in one line what checks fail, with the remedy of the first; nothing where none does."""
    failed = [one for one in findings if one["state"] == "fail"]
    if not failed:
        return ""
    return "; ".join([*(f"{one['check']}: {one['found']}" for one in failed), failed[0]["remedy"]])


def last_line(text: bytes) -> str:
    """Give the last line that says something: above it may be a banner."""
    lines = [re.sub(r"[^\x20-\x7e]", "", line).strip() for line in text.decode("utf-8", "replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")[:300]
