"""Outputs on disk, in chunks: those of a large split are never whole in memory."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitladder.running.files import load_tensors, save_tensors

__all__ = ["Outputs", "StoredOutputs"]

Outputs = dict[str, Tensor]
"""By name; each tensor's first dimension is the number of samples."""

CHUNK_BYTES = 2**25


class StoredOutputs:
    """Outputs of samples in their order, in a folder: a file of safetensors a chunk, named by its first sample.

    What is there already is kept, and `append` goes on behind it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._starts = sorted(int(path.stem) for path in folder.glob("*.safetensors"))
        self._waiting: list[Outputs] = []
        self._last: tuple[int, Outputs] = (-1, {})
        self._stored = self._starts[-1] + _count(self._chunk(self._starts[-1])) if self._starts else 0

    def __len__(self) -> int:
        """Give the number of samples, those that are not yet on disk with them."""
        return self._stored + sum(map(_count, self._waiting))

    def append(self, outputs: Outputs) -> None:
        """Take outputs of the next samples; `flush` writes what no chunk was full of.

        Chunks have one size, so that the same outputs give the same files.
        """
        self._waiting.append({name: values.detach().cpu() for name, values in outputs.items()})
        each = sum(values[:1].nbytes for values in outputs.values())
        size = max(1, CHUNK_BYTES // max(each, 1))
        if sum(map(_count, self._waiting)) < size:
            return
        waiting = _joined(self._waiting)
        while _count(waiting) >= size:
            self._write({name: values[:size] for name, values in waiting.items()})
            waiting = {name: values[size:] for name, values in waiting.items()}
        self._waiting = [waiting]

    def flush(self) -> None:
        """Write what is left."""
        waiting, self._waiting = self._waiting, []
        if sum(map(_count, waiting)):
            self._write(_joined(waiting))

    def read(self, start: int, stop: int) -> Outputs:
        """Give the outputs of these samples, which must be on disk."""
        parts = []
        for first in self._starts:
            if first >= stop:
                break
            chunk = self._chunk(first) if first + self._reach(first) > start else {}
            if chunk:
                parts.append({name: values[max(start - first, 0) : stop - first] for name, values in chunk.items()})
        return _joined(parts)

    def batches(self, size: int) -> Iterator[Outputs]:
        """Give all, `size` samples at a time."""
        for start in range(0, len(self), size):
            yield self.read(start, min(start + size, len(self)))

    def whole(self) -> Outputs:
        """Give all in one; for a few samples."""
        return self.read(0, len(self))

    def state_dict(self) -> dict[str, Any]:
        """Give what a killed pass goes on from: what is on disk by then, and what waits."""
        return {"stored": self._stored, "waiting": self._waiting}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave; chunks that were written after it go."""
        for first in [first for first in self._starts if first >= saved["stored"]]:
            (self.folder / f"{first:09}.safetensors").unlink()
            self._starts.remove(first)
        self._stored, self._waiting = saved["stored"], list(saved["waiting"])

    def clear(self) -> None:
        """Delete what is there."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.__init__(self.folder)  # type: ignore[misc]

    def _reach(self, first: int) -> int:
        index = self._starts.index(first)
        return (self._starts[index + 1] if index + 1 < len(self._starts) else self._stored) - first

    def _chunk(self, first: int) -> Outputs:
        if self._last[0] != first:
            self._last = first, load_tensors(self.folder / f"{first:09}.safetensors")
        return self._last[1]

    def _write(self, outputs: Outputs) -> None:
        save_tensors(self.folder / f"{self._stored:09}.safetensors", outputs)
        self._starts.append(self._stored)
        self._stored += _count(outputs)


def _count(outputs: Outputs) -> int:
    return len(next(iter(outputs.values()), ()))


def _joined(parts: list[Outputs]) -> Outputs:
    if len(parts) == 1:
        return parts[0]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
