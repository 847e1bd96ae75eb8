"""Runs a bundle on a device by onnxruntime-qnn; needs numpy, onnxruntime and onnxruntime-qnn, and nothing of bitladder.

    python runner.py                          # repeats the recorded samples, compares, and prints the latency
    python runner.py --inputs my.npz --outputs outputs.npz
    python runner.py --check                  # what this device lacks, with cause and remedy

my.npz holds an array per input under the input's name, its first dimension the number of samples; the README beside
this file says which there are, and how they were made. Exit code 1: outputs differ, or a check fails.
"""

from __future__ import annotations  # an older Python is told that it is too old, and fails at no annotation

import argparse
import io
import json
import os
import platform
import re
import struct
import sys
import time
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

__all__ = ["CODES", "MODE", "Finding", "Model", "check", "explain", "facts", "qairt_of", "receive", "send", "shown"]

HERE = Path(__file__).resolve().parent
PROVIDER = "QNNExecutionProvider"
PACKAGES = ("numpy", "onnxruntime", "onnxruntime-qnn")
SYS = Path("/sys")
MODE = "burst"  # what is asked of the NPU's clocks

CODES = {
    1002: ("QNN_COMMON_ERROR_MEM_ALLOC", "too little memory for the model: end other processes, or ship a smaller one"),
    1008: ("", "the DSP finds no skel library: put the folder of QAIRT's skels first in ADSP_LIBRARY_PATH"),
    3110: ("QNN_OP_PACKAGE_ERROR_VALIDATION_FAILURE", "an op is not of this Hexagon generation: look at target.soc"),
    4000: ("", "the DSP finds no skel library (ADSP_LIBRARY_PATH), or this user may not open the DSP"),
    5000: ("QNN_CONTEXT_ERROR_INVALID_ARGUMENT", "for another SoC (target.soc), or of a newer QAIRT than is there"),
    5004: ("QNN_CONTEXT_ERROR_BINARY_VERSION", "of a newer QAIRT (onnxruntime-qnn): install the one that compiled it"),
    5005: ("QNN_CONTEXT_ERROR_CREATE_FROM_BINARY", "for another SoC (target.soc), or too large for the memory"),
    14001: (
        "QNN_DEVICE_ERROR_INVALID_CONFIG",
        "the NPU cannot be set up: another QAIRT's skels come first (ADSP_LIBRARY_PATH), this process sees no"
        " libcdsprpc.so, or the firmware is older than the QAIRT",
    ),
}
"""QNN's error codes that people meet: its name for it, if it prints one, and cause and remedy."""

Finding = dict[str, str]
"""What a check found: `check`, `state` (ok, note or fail), `found`, and `remedy` where it fails."""


def explain(text: str) -> str:
    """Give cause and remedy of the first error code of QNN that a message names; nothing where it names none."""
    codes = [code for code, (name, _) in CODES.items() if name and name in text]
    told = re.findall(r"(?i)(?:err(?:or)?(?: code)?|failed) *[:=,]? *(0x[0-9a-f]{3,4}|[1-9]\d{3,4})\b", text)
    codes += [int(one, 0) for one in told]
    known = next((code for code in codes if code in CODES), None)
    return "" if known is None else f" (QNN's {known}: {CODES[known][1]})"


class Model(NamedTuple):
    """What is compiled: the ONNX file around a context binary, and its SoC: name, QNN's number, Hexagon generation."""

    context: str
    fp16: bool
    soc: str
    soc_model: int
    arch: str


def open_session(model: Model) -> Any:
    """Load a context binary, with nothing left for the CPU; the time of what emulates an NPU is not the NPU's."""
    import onnxruntime as ort

    device, npu = find_device()
    settings = {"backend_path": str(_library())}
    settings |= {"htp_performance_mode": MODE} if npu else {"soc_model": str(model.soc_model)}
    if model.fp16:
        settings["enable_htp_fp16_precision"] = "1"
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_provider_for_devices([device], settings)
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return ort.InferenceSession(model.context, options)


def find_device() -> tuple[Any, bool]:
    """Find the NPU, or what emulates one, and say whether it is one."""
    import onnxruntime as ort
    import onnxruntime_qnn

    if not any(device.ep_name == PROVIDER for device in ort.get_ep_devices()):
        ort.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
    found = [device for device in ort.get_ep_devices() if device.ep_name == PROVIDER]
    return max(((one, one.device.type == ort.OrtHardwareDeviceType.NPU) for one in found), key=lambda pair: pair[1])


def run(session: Any, inputs: dict[str, Any]) -> tuple[dict[str, Any], list[float]]:
    """Run samples one at a time, as the model was exported; give the outputs by name, and each inference's ms."""
    import numpy as np

    names = [output.name for output in session.get_outputs()]
    inputs = {one.name: inputs[one.name] for one in session.get_inputs()}  # the graph has none that nothing reads
    rows, times = [], []
    for index in range(len(next(iter(inputs.values())))):
        row = {name: values[index : index + 1] for name, values in inputs.items()}
        start = time.perf_counter()
        rows.append(session.run(names, row))
        times.append((time.perf_counter() - start) * 1e3)
    return {name: np.concatenate(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}, times


def check(model: Model | None) -> list[Finding]:
    """Look for what keeps a model from running here, the first cause first; without one, at the device alone."""
    findings: list[Finding] = []

    def add(what: str, good: bool, found: str, remedy: str, state: str = "fail") -> bool:
        findings.append({"check": what, "state": "ok" if good else state, "found": found, "remedy": remedy})
        return good

    told = facts()
    good = add("python", sys.version_info >= (3, 10), platform.python_version(), "install Python 3.10")
    for package, found in told["packages"].items():
        good &= add(package, bool(found), found or "not installed", f"pip install {package}")
    if chip := told["chip"]:
        soc = model.soc if model else ""
        add("SoC", soc.lower() in chip.lower(), chip, f"the model is for {soc}: is that this device's?", "note")
    if not good:
        return findings
    library = _library()
    if platform.system() == "Linux" and platform.machine() == "aarch64":
        ways = [path for path in ("/dev/fastrpc-cdsp", "/dev/adsprpc-smd") if os.access(path, os.R_OK)]
        add("DSP", bool(ways), ", ".join(ways) or "none that this user may open", CODES[4000][1])
        skel = f"libQnnHtp{model.arch.upper() if model else 'V*'}Skel.so"
        add("skel library", any(library.parent.glob(skel)), skel, CODES[1008][1])
    if failed := _failing(find_device):
        add("NPU", False, failed, "install onnxruntime-qnn again, for this machine")
        return findings
    npu = find_device()[1]
    add("NPU", npu, "there" if npu else "none: the backend emulates one, and its time is the CPU's", "", "note")
    if model is not None:
        context, runs = Path(model.context), qairt_of(library)
        made, size = qairt_of(context), sum(path.stat().st_size for path in context.parent.glob("*.bin"))
        add("QAIRT", runs == made, f"{runs} here, {made} compiled the model", CODES[5004][1], "note")
        free = told["memory_available"]
        add("memory", free is None or free > 2 * size, f"{free} bytes free, the binary has {size}", CODES[1002][1])
        failed = _failing(lambda: open_session(model))
        add("model", not failed, failed or "loads, all of it on the NPU", CODES[5005][1])
    return findings


def _failing(work: Callable[[], Any]) -> str:
    """Say what an error of ONNX Runtime's says, and what is known of it; nothing where there is none."""
    try:
        work()
    except Exception as error:  # its kinds of error share no base
        return " ".join(str(error).split())[:400] + explain(str(error))
    return ""


def qairt_of(path: Path) -> str | None:
    """Read the version of QAIRT that stands in its libraries and in what they compile; None where there is none."""
    found = re.search(rb"v\d+\.\d+\.\d+\.\d{6,}", path.read_bytes()) if path.is_file() else None
    return found[0].decode() if found else None


def facts() -> dict[str, Any]:
    """Name what a measurement depends on; None where the device does not tell."""
    thermal = SYS / "class/thermal"
    sensors = [int(_read(path) or 0) / 1e3 for path in thermal.glob("thermal_zone*/temp")]
    coolers = {path.parent: _read(path) for path in thermal.glob("cooling_device*/cur_state")}
    cooling = sorted({_read(path / "type") for path, state in coolers.items() if state not in ("", "0")})
    free = re.search(r"MemAvailable: +(\d+) kB", _read("/proc/meminfo"))
    return {
        "packages": {name: next((one.version for one in distributions(name=name)), None) for name in PACKAGES},
        "chip": _read(SYS / "devices/soc0/machine") or None,
        "governor": _read(SYS / "devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
        "celsius": max(sensors, default=None),
        "throttling": (", ".join(cooling) or "none") if coolers else None,
        "memory_available": int(free[1]) * 1024 if free else None,
    }


def _library() -> Path:
    import onnxruntime_qnn

    return Path(onnxruntime_qnn.get_qnn_htp_path())


def _read(path: Any) -> str:
    try:
        return Path(path).read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def serve(model: Model) -> None:
    """Answer, in messages as `send` writes, inputs to run or to time, until they end; first, what the device is."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the backend prints must not come between
    if failed := _failing(lambda: _answer(answers, open_session(model))):
        send(answers, {"error": failed})


def _answer(answers: BinaryIO, session: Any) -> None:
    send(answers, facts() | {"npu": find_device()[1], "qairt": qairt_of(_library()), "mode": MODE})
    while (asked := receive(sys.stdin.buffer)) is not None:
        request, inputs = asked
        for _ in range(request.get("warmup", 0)):
            run(session, inputs)
        before = facts()["celsius"]
        outputs, times = run(session, inputs)
        for _ in range(request.get("runs", 1) - 1):
            times += run(session, inputs)[1]
        send(answers, facts() | {"ms": times, "celsius_before": before}, outputs)


def send(stream: BinaryIO, words: dict[str, Any], arrays: dict[str, Any] | None = None) -> None:
    """Write a message: words as JSON, and arrays by name as .npz, each after its length."""
    import numpy as np

    packed = io.BytesIO()
    if arrays:
        np.savez(packed, allow_pickle=False, **arrays)
    text = json.dumps(words).encode()
    stream.write(struct.pack(">IQ", len(text), packed.tell()) + text + packed.getvalue())
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Read a message; None where there is no whole one any more."""
    import numpy as np

    head = stream.read(12)
    sizes = struct.unpack(">IQ", head) if len(head) == 12 else (1, 1)
    text, packed = (stream.read(size) for size in sizes)
    if (len(text), len(packed)) != sizes:
        return None
    return json.loads(text), dict(np.load(io.BytesIO(packed), allow_pickle=False)) if packed else {}


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Run this bundle's model by onnxruntime-qnn.")
    parser.add_argument("--soc", help="one of the bundle's SoCs; the first if left out")
    parser.add_argument("--inputs", type=Path, help="an .npz of inputs; the recorded samples if left out")
    parser.add_argument("--outputs", type=Path, help="an .npz to write the outputs to")
    parser.add_argument("--check", action="store_true", help="say what this device lacks")
    parser.add_argument("--json", action="store_true", help="with --check: as JSON")
    parser.add_argument("--model", help=argparse.SUPPRESS)  # as JSON: over SSH there is no manifest
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    words, manifest = parser.parse_args(), {}
    model = Model(**json.loads(words.model)) if words.model else None
    if model is None and (HERE / "manifest.json").is_file():
        manifest = json.loads((HERE / "manifest.json").read_text("utf-8"))
        soc = words.soc or next(iter(manifest["socs"]), "")
        if soc not in manifest["socs"] or manifest["socs"][soc]["context"] is None:
            parser.error(f"the bundle has no context binary for {soc} that onnxruntime-qnn loads: {manifest['reason']}")
        chip = manifest["socs"][soc]
        context = str(HERE / chip["context"])
        model = Model(context, manifest["precision"] == "FP16", soc, chip["soc_model"], chip["arch"])
    if words.check or model is None:
        found = check(model)
        print(json.dumps(found) if words.json else "\n".join(map(shown, found)))  # noqa: T201
        return int(any(one["state"] == "fail" for one in found))
    if words.serve:
        serve(model)
        return 0
    return _repeat(manifest, model.soc, open_session(model), words)


def shown(finding: Finding) -> str:
    """Give the line that says what a check found, with the remedy where there is something to do."""
    remedy = f"; {finding['remedy']}" if finding["state"] != "ok" and finding["remedy"] else ""
    return f"{finding['state']:4} {finding['check']:16} {finding['found']}{remedy}"


def _repeat(manifest: dict[str, Any], soc: str, session: Any, words: argparse.Namespace) -> int:
    import numpy as np

    given = np.load(words.inputs or HERE / manifest["recorded"]["file"], allow_pickle=False)
    outputs, times = run(session, given)
    print(f"{len(times)} samples, median {np.median(times):.3f} ms an inference (on an emulator: not the device's)")  # noqa: T201
    if words.outputs:
        np.savez(words.outputs, allow_pickle=False, **outputs)
    if words.inputs:
        return 0
    recorded = np.load(HERE / manifest["socs"][soc]["answers"], allow_pickle=False)
    apart = {name: float(np.abs(outputs[name] - recorded[name]).max()) for name in recorded.files}
    print("largest difference from the recorded outputs:", ", ".join(f"{k} {v:g}" for k, v in apart.items()))  # noqa: T201
    return int(any(apart.values()))


if __name__ == "__main__":
    sys.exit(main())
