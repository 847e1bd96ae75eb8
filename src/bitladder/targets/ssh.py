"""A Linux board over SSH as a target, by the runner that ships with each bundle."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bitladder.errors import UserError
from bitladder.records import Device
from bitladder.targets.backend import Row
from bitladder.targets.context import Compiled
from bitladder.targets.estimated import estimated_latency
from bitladder.targets.host import Conversation, Host
from bitladder.targets.remote import MODEL, Connect, Remote, failing
from bitladder.targets.runner import Model
from bitladder.targets.target import Job, Latency

__all__ = ["Ssh"]

LOAD_S = 300  # to load a model there

UNTOLD = {
    "name": "no /sys/devices/soc0/machine names the chip",
    "qairt": "its libraries name no version of QAIRT",
    "governor": "no cpufreq there",
    "celsius_before": "no thermal zones there",
    "throttling": "no cooling devices there",
}
"""Why a board does not tell."""


@dataclass(frozen=True)
class Ssh(Remote):
    """The NPU of `target.host`."""

    @property
    def place(self) -> str:
        """The key that names it, and its name."""
        return f"target.host: {self.settings.host}"

    def check(self) -> None:
        """Raise UserError for what the device lacks."""
        with self._host.folder({}) as folder:
            if failed := failing(self._host.check(folder)):
                raise UserError(f"{self.place}: {failed}")

    @contextmanager
    def installed(self, compiled: Compiled, fp16: bool, workspace: Path) -> Iterator[Connect]:
        """Bring the model there. Each connection starts the runner anew, which loads it once."""
        files = {path.name: path for path in sorted(compiled.context.parent.iterdir()) if path.suffix in MODEL}
        model = Model(compiled.context.name, fp16, self.soc.name, self.soc.soc_model, self.soc.arch)
        host = self._host
        with host.folder(files) as folder:

            @contextmanager
            def connect() -> Iterator[_Session]:
                with host.serve(folder, model, workspace / "ssh.log") as runner:
                    yield _Session(runner, runner.hear(LOAD_S)[0], self.settings.sample_limit_s)

            yield connect

    def latency(self, job: Job, times: Sequence[float], device: Device) -> Latency:
        """Take the times that the device's own clock gave; an estimate, where its backend emulates the NPU."""
        if times:
            return super().latency(job, times, device)
        estimate = estimated_latency(job.model, self.soc)
        reason = f"{self.settings.host} has no NPU, its backend emulates one; {estimate.reason}"
        return replace(estimate, reason=reason)

    @property
    def _host(self) -> Host:
        return Host(str(self.settings.host), self.settings.python)


@dataclass(frozen=True)
class _Session:
    """A runner that has loaded the model, and what it told of the device."""

    runner: Conversation
    told: dict[str, Any]
    limit_s: float

    def run(self, inputs: Row, samples: int) -> Row:
        """Run samples; give their outputs."""
        outputs: Row = self.runner.ask({}, inputs, self.limit_s * samples)[1]
        return outputs

    def time(self, inputs: Row, warmup: int, runs: int) -> tuple[list[float], Device]:
        """Time inferences of one sample; an emulator's time says nothing."""
        if not self.told["npu"]:
            warmup, runs = 0, 1
        after = self.runner.ask({"warmup": warmup, "runs": runs}, inputs, self.limit_s * (warmup + runs))[0]
        found = {
            "name": self.told["chip"],
            "qairt": self.told["qairt"],
            "governor": after["governor"],
            "celsius_before": after["celsius_before"],
            "celsius_after": after["celsius"],
            "throttling": after["throttling"],
        }
        untold = "; ".join(why for name, why in UNTOLD.items() if found[name] is None)
        version = self.told["packages"]["onnxruntime-qnn"]
        if not self.told["npu"]:
            untold = "; ".join(filter(None, ["no NPU there, so nothing was timed", untold]))
            return [], Device(**found, runtime=f"onnxruntime-qnn {version}, which emulates an NPU", untold=untold)
        return after["ms"], Device(
            **found,
            warmup=warmup,
            runs=runs,
            runtime=f"onnxruntime-qnn {version}",
            performance_mode=self.told["mode"],
            untold=untold or None,
        )
