"""What a compiled context binary says of its own memory, asked of the backend's system library.

The library's C interface, as far as it is needed: QnnSystemInterface.h, QnnSystemContext.h and QnnHtpSystemContext.h
of QAIRT (system API 1). Every versioned struct is looked into only where its version is the one that is laid out here.
"""

import ctypes
from ctypes import POINTER, byref, c_char_p, c_uint8, c_uint32, c_uint64, c_void_p
from pathlib import Path

import onnxruntime_qnn

from bitladder.targets.record import MEMORY

__all__ = ["read_memory"]

API, BINARY_INFO, GRAPH_INFO, BLOB_1, BLOB_2 = 1, 3, 3, 1, 2


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


class _Blob(ctypes.Structure):
    """Two structs, one after the other: of the first version, then of the second."""

    _fields_ = (
        ("first", c_uint32), ("spill_fill_bytes", c_uint64), ("vtcm_bytes", c_uint32), ("optimization", c_uint32),
        ("dlbc", c_uint8), ("hvx_threads", c_uint64), ("second", c_uint32), ("k_tile", c_uint64), ("v_tile", c_uint64),
        ("shares_io", c_uint32), ("io_bytes", c_uint64), ("op_data_bytes", c_uint64), ("constants_bytes", c_uint64),
        ("ddr_tensor_bytes", c_uint64), ("shared_weights_bytes", c_uint64),
    )  # fmt: skip


def read_memory(binary: Path) -> dict[str, int] | None:
    """Read the figures of a context binary with one graph, in bytes, by the names of MEMORY.

    None where the library is of another version than the one whose structs are known here, or is not there.
    """
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
        return _figures(found.contents)
    finally:
        free(handle)


def _figures(found: _BinaryInfo) -> dict[str, int] | None:
    if found.version != BINARY_INFO or found.info.graphs != 1:
        return None
    graph = found.info.graph[0]
    if graph.version != GRAPH_INFO or graph.blob_size != ctypes.sizeof(_Blob):
        return None
    blob = ctypes.cast(graph.blob, POINTER(_Blob)).contents
    if (blob.first, blob.second) != (BLOB_1, BLOB_2):
        return None
    return {name: int(getattr(blob, name)) for name in MEMORY}
