"""Samples and outputs as .npz, which numpy reads on a device. The same arrays give the same bytes; no pickles."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bitladder.errors import UserError
from bitladder.running.files import replacing

__all__ = ["load_arrays", "save_arrays"]

EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say

LARGEST = 8 << 30  # bytes, unpacked


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as numpy.savez does, whole or not at all; it would not take one that is called `file`."""
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, values in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy", EPOCH), "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(values), allow_pickle=False)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read what save_arrays wrote, in its order: numbers, the first dimension counts samples.

    Raises UserError where a file is none of its; pickles in it are not loaded.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LARGEST:
                raise UserError(f"{path}: unpacks to more than {LARGEST:,} bytes; it is not bitladder's")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: _checked(name, arrays[name]) for name in arrays.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: damaged ({' '.join(str(error).split())[:200]})") from None


def _checked(name: str, values: Any) -> np.ndarray:
    if not isinstance(values, np.ndarray):
        raise ValueError(f"{name!r} is no array")
    if not values.ndim:
        raise ValueError(f"{name!r} is a single number")
    if values.dtype.kind not in "biuf" or values.dtype.itemsize > 8 or not values.dtype.isnative:
        raise ValueError(f"{name!r} is of {values.dtype}, which no network takes")
    return values
