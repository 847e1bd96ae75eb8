"""What training runs on: this process's device, or the devices of several processes through accelerate.

`torchrun` and `accelerate launch` start the processes and tell each its place. A batch is split between them, and the
gradients are those of the whole batch, so a recipe means the same on any number of devices. Without them, and without a
GPU, accelerate is not even imported.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bitladder.errors import UserError

__all__ = ["Devices", "find_devices", "is_main", "launch"]


def is_main() -> bool:
    """Tell whether this process is the one that writes files."""
    return int(os.environ.get("RANK", 0)) == 0


def launch(processes: int) -> bool:
    """Run this very script in several processes, and tell whether that was done: not in those, and not for one.

    Raises UserError where one of them fails; it has said why.
    """
    if processes == 1 or "WORLD_SIZE" in os.environ:
        return False
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    if subprocess.run([*run, *sys.argv], check=False).returncode:
        raise UserError(f"one of the {processes} processes of qat.processes failed; what it said is above")
    return True


def find_devices() -> "Devices":
    """Join the other processes, if there are any, and take this process's device."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 and not torch.cuda.is_available():
        return Devices(None)
    from accelerate import Accelerator, DistributedDataParallelKwargs

    some_may_rest = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Devices(Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[some_may_rest]))


@dataclass(frozen=True)
class Devices:
    """Where one process trains, and its part of each batch; `accelerator` is None where it trains alone on the CPU."""

    accelerator: Any

    @property
    def device(self) -> torch.device:
        """Where this process's part of a batch goes."""
        return self.accelerator.device if self.accelerator else torch.device("cpu")

    def place(self, model: nn.Module) -> nn.Module:
        """Move a model to the device; give what to call in its place, which keeps the processes' gradients equal."""
        return self.accelerator.prepare_model(model) if self.accelerator else model

    def share(self, values: Any) -> Any:
        """Give this process's samples of a batch: of tensors, of lists with an entry a sample, of mappings of them.

        All of them where there are too few to go round.
        """
        if isinstance(values, Mapping):
            return {name: self.share(inner) for name, inner in values.items()}
        if self.accelerator and len(values) >= self.accelerator.num_processes:
            values = values[self.accelerator.process_index :: self.accelerator.num_processes]
        return self._moved(values)

    def _moved(self, values: Any) -> Any:
        if isinstance(values, Tensor):
            return values.to(self.device)
        if isinstance(values, Mapping):
            return {name: self._moved(inner) for name, inner in values.items()}
        return [self._moved(inner) for inner in values] if isinstance(values, list | tuple) else values

    def weight(self, own: int, batch: int) -> float:
        """Give what makes a share's mean loss part of the batch's: gradients are averaged over processes."""
        return own * self.accelerator.num_processes / batch if self.accelerator and own < batch else 1.0

    def mean(self, value: float) -> float:
        """Average a number over the processes."""
        if not self.accelerator:
            return value
        return self.accelerator.reduce(torch.tensor(value, dtype=torch.float32, device=self.device), "mean").item()

    def align(self, model: nn.Module) -> None:
        """Give every process the first one's buffers: batch norm's statistics are of each process's own samples."""
        if self.accelerator and self.accelerator.num_processes > 1:
            from accelerate.utils import broadcast

            for buffer in model.buffers():
                buffer.copy_(broadcast(buffer))

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.accelerator:
            self.accelerator.wait_for_everyone()
