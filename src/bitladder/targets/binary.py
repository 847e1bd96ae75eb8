"""What a compiled context binary says of its memory, inputs and outputs, asked of the backend's system library.

The library's C interface, as far as it is needed: QnnSystemInterface.h, QnnSystemContext.h, QnnHtpSystemContext.h and
QnnTypes.h of QAIRT (system API 1). Every versioned struct is looked into only where its version is the one that is laid
out here.
"""

import ctypes
import math
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_uint8, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnxruntime_qnn

from bitladder.targets.record import MEMORY

__all__ = ["Tensor", "read_memory", "read_tensors"]

T = TypeVar("T")

API, BINARY_INFO, GRAPH_INFO, BLOB_1, BLOB_2 = 1, 3, 3, 1, 2
TENSORS = (1, 2)
"""Versions of a tensor, which begin alike."""

DTYPES = {
    0x0008: np.int8, 0x0016: np.int16, 0x0032: np.int32, 0x0064: np.int64,
    0x0108: np.uint8, 0x0116: np.uint16, 0x0132: np.uint32, 0x0164: np.uint64,
    0x0216: np.float16, 0x0232: np.float32, 0x0508: np.bool_,
    0x0308: np.int8, 0x0316: np.int16, 0x0408: np.uint8, 0x0416: np.uint16,
}  # fmt: skip
"""Types of elements by QNN's numbers; the last row is of quantized ones."""


class _Version(ctypes.Structure):
    _fields_ = (("major", c_uint32), ("minor", c_uint32), ("patch", c_uint32))


class _Interface(ctypes.Structure):
    _fields_ = (
        ("backend", c_uint32), ("name", c_char_p), ("version", _Version),
        ("create", c_void_p), ("get_binary_info", c_void_p), ("get_metadata", c_void_p), ("free", c_void_p),
    )  # fmt: skip


class _Graph(ctypes.Structure):
    _fields_ = (
        ("version", c_uint32), ("name", c_char_p), ("inputs", c_uint32), ("input", c_void_p), ("outputs", c_uint32),
        ("output", c_void_p), ("updateables", c_uint32), ("updateable", c_void_p), ("blob_size", c_uint32),
        ("blob", c_void_p),
    )  # fmt: skip


class _Info(ctypes.Structure):
    _fields_ = (
        ("backend", c_uint32), ("build", c_char_p), ("core_api", _Version), ("backend_api", _Version),
        ("soc_version", c_char_p), ("context_version", _Version), ("context_size", c_uint64), ("tensors", c_uint32),
        ("tensor", c_void_p), ("graphs", c_uint32), ("graph", POINTER(_Graph)),
    )  # fmt: skip


class _BinaryInfo(ctypes.Structure):
    _fields_ = (("version", c_uint32), ("info", _Info))


class _TensorInfo(ctypes.Structure):
    """Of either version. How it is quantized and what follows its shape are not looked into: their size counts."""

    _fields_ = (
        ("version", c_uint32), ("id", c_uint64), ("name", c_char_p), ("type", c_uint32), ("format", c_uint32),
        ("dtype", c_uint32), ("quantization", c_uint64 * 5),
        ("rank", c_uint32), ("dimensions", POINTER(c_uint32)), ("rest", c_uint64 * 6),
    )  # fmt: skip


class _Blob(ctypes.Structure):
    """Two structs, one after the other: of the first version, then of the second."""

    _fields_ = (
        ("first", c_uint32), ("spill_fill_bytes", c_uint64), ("vtcm_bytes", c_uint32), ("optimization", c_uint32),
        ("dlbc", c_uint8), ("hvx_threads", c_uint64), ("second", c_uint32), ("k_tile", c_uint64), ("v_tile", c_uint64),
        ("shares_io", c_uint32), ("io_bytes", c_uint64), ("op_data_bytes", c_uint64), ("constants_bytes", c_uint64),
        ("ddr_tensor_bytes", c_uint64), ("shared_weights_bytes", c_uint64),
    )  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """An input or output of a compiled graph, as the device takes or gives it: row by row, the last axis nearest."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_memory(binary: Path) -> dict[str, int] | None:
    """Read the figures of a context binary with one graph, in bytes, by the names of MEMORY.

    None where the library is of another version than the one whose structs are known here, or is not there.
    """
    return _read(binary, _figures)


def read_tensors(binary: Path) -> tuple[list[Tensor], list[Tensor]] | None:
    """Read the inputs and the outputs of a context binary with one graph; None as for `read_memory`."""
    return _read(binary, lambda graph: (_tensors(graph.input, graph.inputs), _tensors(graph.output, graph.outputs)))


def _read(binary: Path, look: Callable[[_Graph], T | None]) -> T | None:
    """Look at the graph of a context binary, while the library holds it."""
    path = Path(onnxruntime_qnn.get_library_path())
    path = path.with_name("QnnSystem.dll" if path.suffix == ".dll" else "libQnnSystem.so")
    if not path.is_file():
        return None
    library = ctypes.CDLL(str(path))
    providers, count = POINTER(POINTER(_Interface))(), c_uint32()
    if library.QnnSystemInterface_getProviders(byref(providers), byref(count)) or not count.value:
        return None
    interface = providers[0].contents
    if interface.version.major != API:
        return None
    create = ctypes.CFUNCTYPE(c_uint64, POINTER(c_void_p))(interface.create)
    free = ctypes.CFUNCTYPE(c_uint64, c_void_p)(interface.free)
    get_info = ctypes.CFUNCTYPE(
        c_uint64, c_void_p, c_void_p, c_uint64, POINTER(POINTER(_BinaryInfo)), POINTER(c_uint64)
    )(interface.get_binary_info)
    handle, found, size = c_void_p(), POINTER(_BinaryInfo)(), c_uint64()
    content = binary.read_bytes()
    if create(byref(handle)):
        return None
    try:
        if get_info(handle, content, len(content), byref(found), byref(size)):
            return None
        info = found.contents
        if info.version != BINARY_INFO or info.info.graphs != 1 or info.info.graph[0].version != GRAPH_INFO:
            return None
        return look(info.info.graph[0])
    finally:
        free(handle)


def _figures(graph: _Graph) -> dict[str, int] | None:
    if graph.blob_size != ctypes.sizeof(_Blob):
        return None
    blob = ctypes.cast(graph.blob, POINTER(_Blob)).contents
    if (blob.first, blob.second) != (BLOB_1, BLOB_2):
        return None
    return {name: int(getattr(blob, name)) for name in MEMORY}


def _tensors(first: int, count: int) -> list[Tensor]:
    """Copy tensors out of the library. Raises ValueError for one of a version or type that is not known here."""
    found = []
    for one in (_TensorInfo * count).from_address(first):
        if one.version not in TENSORS or one.dtype not in DTYPES:
            raise ValueError(f"tensor of version {one.version} and type {one.dtype:#x}")
        found.append(Tensor(one.name.decode(), tuple(one.dimensions[: one.rank]), np.dtype(DTYPES[one.dtype])))
    return found
