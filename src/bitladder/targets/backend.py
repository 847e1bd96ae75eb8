"""Qualcomm's Hexagon backend in this process: the only place that touches onnxruntime-qnn.

Its x86-64 Linux build compiles for the NPU as on a device, and emulates it on the CPU. It runs in processes of its
own (see hexagon.py), since a graph can keep it busy for ever or take the process down. Nothing here imports torch.
"""

import os
import re
import time
from collections.abc import Callable, Collection
from contextlib import chdir
from functools import cache, wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
import onnxruntime as ort
import onnxruntime_qnn

__all__ = [
    "CONTEXT_FILE",
    "PROFILE_FILE",
    "Placement",
    "Row",
    "check_backend",
    "compile_context",
    "has_npu",
    "redirect_output",
    "run_batch",
    "run_batches",
    "time_runs",
    "write_profile",
]

P = ParamSpec("P")
T = TypeVar("T")

PROVIDER = "QNNExecutionProvider"

CONTEXT_FILE = "model_ctx.onnx"
"""The small ONNX file that wraps the context binary."""

PROFILE_FILE = "profile.csv"
"""The backend's events of one inference, per op."""

QDQ = ("QuantizeLinear", "DequantizeLinear")

Row = dict[str, np.ndarray]
"""One batch of tensors by name: inputs, or outputs."""

Placement = dict[str, list[tuple[str, str]]]
"""Nodes by where they run, `npu` and `cpu`, each by name and type; QDQ nodes are not ops, so they are left out."""

_NAMED = re.compile(r"Node '(?P<node>.+?)(_token_\d+)?' OpType:(?P<op>\w+)")
"""A node that a message is about: one that the backend has asked for in another layout, and then does not take."""


def _plain_errors(work: Callable[P, T]) -> Callable[P, T]:
    """Raise RuntimeError for what ONNX Runtime raises: its own kinds of error share no base but Exception.

    Inputs that are not the graph's are a ValueError of its Python part.
    """

    @wraps(work)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return work(*args, **kwargs)
        except Exception as error:
            if isinstance(error, ValueError) or type(error).__module__.startswith("onnxruntime"):
                raise RuntimeError(str(error)) from None
            raise

    return wrapped


def redirect_output(log: str) -> None:
    """Send what the backend prints (it writes past Python) to a file. For a process that does nothing else."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


@_plain_errors
def compile_context(model: str, folder: str, soc_model: int, fp16: bool) -> Placement:
    """Compile an ONNX model to a context binary in `folder`.

    Works in the model's directory: its path as given goes into the binary, which would differ between clones.

    Returns: where the nodes run. If any is left for the CPU there is no context, and `cpu` names them: ops, or the
    quantizers beside them where only these are left.
    """
    context = Path(folder).resolve() / CONTEXT_FILE
    options = _options(soc_model, fp16, fallback=False)
    options.add_session_config_entry("ep.context_enable", "1")
    options.add_session_config_entry("ep.context_file_path", str(context))
    options.add_session_config_entry("ep.context_embed_mode", "0")
    with chdir(Path(model).parent):
        try:
            return _placement(ort.InferenceSession(Path(model).name, options), QDQ)
        except Exception as refusal:
            # With fallback allowed the session says which nodes the NPU does not take
            loose = _options(soc_model, fp16, fallback=True)
            try:
                session = ort.InferenceSession(Path(model).name, loose)
            except Exception as again:
                if not (named := _NAMED.search(str(again))):
                    raise RuntimeError(str(refusal)) from None
                return {"npu": [], "cpu": [(named["node"], named["op"])]}
            for left_out in (QDQ, ()):
                if (placement := _placement(session, left_out))["cpu"]:
                    return placement
            raise RuntimeError(str(refusal)) from None


@_plain_errors
def run_batch(context: str, soc_model: int, fp16: bool, inputs: Row) -> Row:
    """Run one batch on the emulated NPU; the session is opened once a process."""
    session, names = _open(context, soc_model, fp16)
    return dict(zip(names, session.run(names, _fed(session, inputs)), strict=True))


def run_batches(
    one: Callable[..., Row], context: str, soc_model: int, fp16: bool, rows: list[Row]
) -> tuple[list[Row], float]:
    """Run batches one after the other by `one`, which is `run_batch`; give the outputs, and the seconds it took."""
    start = time.perf_counter()
    return [one(context, soc_model, fp16, row) for row in rows], time.perf_counter() - start


@_plain_errors
def time_runs(
    context: str, soc_model: int, fp16: bool, inputs: dict[str, np.ndarray], warmup: int, runs: int
) -> list[float]:
    """Time inferences one by one, in ms, after some that do not count."""
    session, names = _open(context, soc_model, fp16)
    times, inputs = [], _fed(session, inputs)
    for _ in range(warmup + runs):
        start = time.perf_counter()
        session.run(names, inputs)
        times.append((time.perf_counter() - start) * 1e3)
    return times[warmup:]


@_plain_errors
def write_profile(context: str, folder: str, soc_model: int, fp16: bool, inputs: dict[str, np.ndarray]) -> None:
    """Run once with profiling on; the backend writes its events to PROFILE_FILE in `folder`."""
    path = Path(folder).resolve() / PROFILE_FILE
    path.unlink(missing_ok=True)  # the backend would append
    settings = {"profiling_level": "detailed", "profiling_file_path": str(path)}
    session = ort.InferenceSession(context, _options(soc_model, fp16, fallback=False, more=settings))
    session.run(None, _fed(session, inputs))


def check_backend() -> None:
    """Find the backend's library. Raises FileNotFoundError where the installed package has none."""
    for path in (onnxruntime_qnn.get_library_path(), onnxruntime_qnn.get_qnn_htp_path()):
        if not Path(path).is_file():
            raise FileNotFoundError(f"onnxruntime-qnn has no {Path(path).name}; install it again, for this machine")


def has_npu() -> bool:
    """Whether this machine has an NPU that the backend can use, rather than emulate."""
    return _device().device.type == ort.OrtHardwareDeviceType.NPU


def _fed(session: ort.InferenceSession, inputs: Row) -> Row:
    """Give what the graph takes: an input that the network does not use is not in it."""
    return {one.name: inputs[one.name] for one in session.get_inputs() if one.name in inputs}


@cache
def _open(context: str, soc_model: int, fp16: bool) -> tuple[ort.InferenceSession, list[str]]:
    session = ort.InferenceSession(context, _options(soc_model, fp16, fallback=False))
    return session, [output.name for output in session.get_outputs()]


def _options(soc_model: int, fp16: bool, fallback: bool, more: dict[str, str] | None = None) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    settings = {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), "soc_model": str(soc_model), **(more or {})}
    if fp16:
        settings["enable_htp_fp16_precision"] = "1"
    options.add_provider_for_devices([_device()], settings)
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "0" if fallback else "1")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


@cache
def _device() -> ort.OrtEpDevice:
    check_backend()
    ort.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
    found = [device for device in ort.get_ep_devices() if device.ep_name == PROVIDER]
    # A Snapdragon machine lists its NPU beside the CPU; elsewhere there is only the CPU, which emulates one
    return max(found, key=lambda device: device.device.type == ort.OrtHardwareDeviceType.NPU)


def _placement(session: ort.InferenceSession, left_out: Collection[str]) -> Placement:
    placement: Placement = {"npu": [], "cpu": []}
    for subgraph in session.get_provider_graph_assignment_info():
        nodes = [(node.name, node.op_type) for node in subgraph.get_nodes() if node.op_type not in left_out]
        placement["npu" if subgraph.ep_name == PROVIDER else "cpu"] += nodes
    return placement
