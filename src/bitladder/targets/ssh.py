"""A Linux board over SSH as a target: compiled here, run there, its outputs and times brought back."""

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from bitladder.errors import UserError
from bitladder.network.outputs import StoredOutputs
from bitladder.targets.backend import PROFILE_FILE, write_profile
from bitladder.targets.context import Compiled, compile_model
from bitladder.targets.estimated import estimated_latency
from bitladder.targets.hexagon import Hexagon, measured
from bitladder.targets.host import MODEL, Conversation, Host, LostError, failing
from bitladder.targets.ops import OPS_FILE, read_profile, write_ops
from bitladder.targets.target import Job, Latency, Measured
from bitladder.targets.workers import worker_pool

__all__ = ["Ssh"]

LOAD_S = 300  # to load a model there
CHUNK_BYTES, CHUNK = 2**25, 64  # of inputs that go there at a time, and samples at most
TRIES, WAIT_S = 3, 2.0  # connections without an answer; seconds before the second one, doubled for each further


@dataclass(frozen=True)
class Ssh(Hexagon):
    """The NPU of `target.host`, by the runner that ships with each bundle."""

    def measure(self, job: Job) -> Measured:
        """Compile here; there, run every sample and time the first. The cycles of each op are the emulator's."""
        host = Host(str(self.settings.host), self.settings.python)
        with host.folder({}) as folder:
            if failed := failing(host.check(folder)):
                raise UserError(f"target.host: {host.name}: {failed}")
        compiled = self._compile(job)
        files = {path.name: path for path in sorted(compiled.context.parent.iterdir()) if path.suffix in MODEL}
        with host.folder(files) as folder:
            outputs, device, times = self._run_there(job, host, folder, compiled)
        return measured(job, compiled, outputs, self._latency(job, host, device, times))

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

    def _run_there(
        self, job: Job, host: Host, folder: str, compiled: Compiled
    ) -> tuple[StoredOutputs, dict[str, Any], list[float]]:
        """Run what is not kept yet, over as many connections as it takes; then time the first sample."""
        kept, arguments = StoredOutputs(job.workspace / "outputs"), ["--context", compiled.context.name]
        arguments += ["--soc-model", str(self.soc.soc_model), *(["--fp16"] if job.precision == "FP16" else [])]
        tries = 0
        with tqdm(total=len(job.split), initial=len(kept), desc=f"run on {host.name}", unit="sample") as bar:
            while True:
                done = len(kept)
                try:
                    with host.serve(folder, arguments, job.workspace / "ssh.log") as device:
                        told, _ = device.hear(LOAD_S)
                        self._run_samples(job, device, kept, bar)
                        return kept, told, self._time(job, device) if told["npu"] else []
                except LostError as lost:
                    tries = 0 if len(kept) > done else tries + 1
                    if tries >= TRIES:
                        raise UserError(
                            f"target.host: {host.name}: the connection broke {tries} times ({lost}); `dvc repro` goes"
                            f" on after sample {len(kept)}"
                        ) from None
                    time.sleep(WAIT_S * 2**tries)

    def _run_samples(self, job: Job, device: Conversation, kept: StoredOutputs, bar: tqdm) -> None:
        size = max(1, min(CHUNK, CHUNK_BYTES // max(1, sum(one.nbytes for one in job.split.row(0).values()))))
        while (start := len(kept)) < len(job.split):
            rows = [job.split.row(index) for index in range(start, min(start + size, len(job.split)))]
            inputs = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
            _, outputs = device.ask({}, inputs, self.settings.sample_limit_s * len(rows))
            kept.append({name: torch.from_numpy(values) for name, values in outputs.items()})
            kept.flush()
            bar.update(len(rows))

    def _time(self, job: Job, device: Conversation) -> list[float]:
        asked = {"warmup": self.settings.warmup, "runs": self.settings.runs}
        limit_s = self.settings.sample_limit_s * sum(asked.values())
        times: list[float] = device.ask(asked, job.split.row(0), limit_s)[0]["ms"]
        return times

    def _latency(self, job: Job, host: Host, device: dict[str, Any], times: list[float]) -> Latency:
        """Take the times that the device's own clock gave; an estimate, where its backend emulates the NPU."""
        if not device["npu"]:
            estimate = estimated_latency(job.model, job.precision, self.soc)
            return replace(estimate, reason=f"{host.name} has no NPU, its backend emulates one; {estimate.reason}")
        median, p90 = (float(value) for value in np.quantile(times, [0.5, 0.9]))
        told = [f"{name} {device[name]}" for name in ("chip", "governor", "celsius") if device[name] is not None]
        told.append(f"onnxruntime-qnn {device['packages']['onnxruntime-qnn']}")
        reason = (
            f"latency: median of {self.settings.runs} runs after {self.settings.warmup} to warm up, on the NPU of"
            f" {host.name}, by its clock; {', '.join(told)}"
        )
        return Latency("measured", reason, median, p90_ms=p90)
