"""Tensors that wait to be used again: in memory up to a limit, in a folder beyond it."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = ["Spill", "Spilled"]

_KEY = "value"


@dataclass(frozen=True)
class Spilled:
    """A tensor that is in a file."""

    path: Path
    device: torch.device


class Spill:
    """Keeps what a network's layers give: a tensor, or anything that lists and tuples of tensors hold.

    Args:
        folder: must have room for what is over the limit.
        limit: bytes in memory.

    """

    def __init__(self, folder: Path, limit: int) -> None:
        """Begin with nothing."""
        self._folder, self._free, self._numbers = folder, limit, count()

    def keep(self, value: Any) -> Any:
        """Give what stands for a value until it is dropped."""
        return _each(value, self._keep)

    def load(self, kept: Any) -> Any:
        """Give the value: of what is in memory itself, of what is in the folder a copy."""
        return _each(kept, _load)

    def drop(self, kept: Any) -> None:
        """Free the memory, or delete the file."""
        _each(kept, self._drop)

    def _keep(self, value: Tensor) -> Tensor | Spilled:
        if value.nbytes <= self._free:
            self._free -= value.nbytes
            return value
        path = self._folder / f"{next(self._numbers)}.safetensors"
        save_file({_KEY: value.contiguous()}, path)
        return Spilled(path, value.device)

    def _drop(self, kept: Tensor | Spilled) -> None:
        if isinstance(kept, Spilled):
            kept.path.unlink()
        else:
            self._free += kept.nbytes


def _load(kept: Tensor | Spilled) -> Tensor:
    return load_file(kept.path, str(kept.device))[_KEY] if isinstance(kept, Spilled) else kept


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, Tensor | Spilled):
        return change(value)
    if type(value) in (tuple, list):
        return type(value)(_each(one, change) for one in value)
    return value
