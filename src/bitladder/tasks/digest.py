"""A hash of what a data set gives, whatever that is made of."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["digest_of"]


def digest_of(value: Any) -> int:
    """Hash an item to 63 bits: tensors and arrays by their bytes, what is in lists and mappings, numbers and texts.

    Of anything else only the type counts: its text may hold an address.
    """
    digest = hashlib.blake2b(digest_size=8)
    _feed(digest, value)
    return int.from_bytes(digest.digest()) >> 1


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        value = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).data)
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            digest.update(str(name).encode())
            _feed(digest, inner)
    elif isinstance(value, list | tuple):
        digest.update(f"{len(value)}".encode())
        for inner in value:
            _feed(digest, inner)
    elif isinstance(value, str | int | float | bool | np.generic | None):
        digest.update(repr(value).encode())
    else:
        digest.update(type(value).__name__.encode())
