"""Runs a bundle on a device by onnxruntime-qnn; needs numpy, onnxruntime and onnxruntime-qnn, and nothing of bitladder.

    python runner.py                          # repeats the recorded samples, compares, and prints the latency
    python runner.py --inputs my.npz --outputs outputs.npz
    python runner.py --check                  # what this device lacks, with cause and remedy

my.npz holds one array per input of the model under the input's name, its first dimension the number of samples. The
README beside this file says which inputs there are, and how they were made. Exit code 1: outputs differ, or a check
fails.
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
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["Finding", "check", "explain_code", "main", "open_session", "receive", "run", "send", "serve", "shown"]

HERE = Path(__file__).resolve().parent
PROVIDER = "QNNExecutionProvider"
PACKAGES = ("numpy", "onnxruntime", "onnxruntime-qnn")
PYTHON = (3, 10)

FASTRPC = ("/dev/fastrpc-cdsp", "/dev/adsprpc-smd")
"""The ways to the DSP of a Linux or Android device; one is enough."""

CODES = {
    1002: ("QNN_COMMON_ERROR_MEM_ALLOC", "too little memory for the model: end other processes, or ship a smaller one"),
    1008: ("", "the DSP finds no skel library: put the folder of onnxruntime-qnn's skels first in ADSP_LIBRARY_PATH"),
    3110: (
        "QNN_OP_PACKAGE_ERROR_VALIDATION_FAILURE",
        "an op is not what this Hexagon generation takes: compile for the device's own SoC (target.soc)",
    ),
    4000: ("", "the DSP finds no skel library (ADSP_LIBRARY_PATH), or this user may not open the DSP"),
    5000: (
        "QNN_CONTEXT_ERROR_INVALID_ARGUMENT",
        "the model is not for this device, or of a newer QAIRT than it has: compare target.soc, and the versions of"
        " onnxruntime-qnn here and where it was compiled",
    ),
    5004: ("QNN_CONTEXT_ERROR_BINARY_VERSION", "of another QAIRT: install the onnxruntime-qnn that compiled the model"),
    5005: (
        "QNN_CONTEXT_ERROR_CREATE_FROM_BINARY",
        "the model is for another Hexagon generation or SoC, or does not fit into memory: compile for the device's own"
        " SoC (target.soc)",
    ),
    14001: (
        "QNN_DEVICE_ERROR_INVALID_CONFIG",
        "the NPU cannot be set up: another QAIRT's skel library is found first (ADSP_LIBRARY_PATH), libcdsprpc.so is"
        " not visible to this process, or the firmware is older than onnxruntime-qnn's QAIRT",
    ),
}
"""QNN's error codes that people meet: its name for it, if it prints one, and cause and remedy."""

Finding = dict[str, str]
"""What a check found: `check`, `state` (ok, note or fail), `found`, and `remedy` where it fails."""


def explain_code(text: str) -> str:
    """Give cause and remedy of the first error code of QNN that a message names; nothing where it names none."""
    codes = [code for code, (name, _) in CODES.items() if name and name in text]
    codes += [int(one) for one in re.findall(r"(?i)(?:err(?:or)?(?: code)?|failed):? *(\d{4,5})\b", text)]
    known = next((code for code in codes if code in CODES), None)
    return "" if known is None else f" (QNN's {known}: {CODES[known][1]})"


def open_session(context: Path, soc_model: int, fp16: bool) -> Any:
    """Load a context binary by the ONNX file that wraps it, with nothing left for the CPU.

    On a Snapdragon the NPU runs it. Elsewhere Qualcomm's emulator does, which is told which SoC to be: its outputs are
    the NPU's, its time is not.
    """
    import onnxruntime as ort
    import onnxruntime_qnn

    device = find_device()
    settings = {"backend_path": onnxruntime_qnn.get_qnn_htp_path()}
    if is_npu(device):
        settings["htp_performance_mode"] = "burst"
    else:
        settings["soc_model"] = str(soc_model)
    if fp16:
        settings["enable_htp_fp16_precision"] = "1"
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_provider_for_devices([device], settings)
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return ort.InferenceSession(str(context), options)


def find_device() -> Any:
    """Find the NPU; the CPU, which emulates one, where there is none."""
    import onnxruntime as ort
    import onnxruntime_qnn

    if not any(device.ep_name == PROVIDER for device in ort.get_ep_devices()):
        ort.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
    return max((device for device in ort.get_ep_devices() if device.ep_name == PROVIDER), key=is_npu)


def is_npu(device: Any) -> bool:
    """Whether a device of ONNX Runtime's is an NPU."""
    import onnxruntime as ort

    return bool(device.device.type == ort.OrtHardwareDeviceType.NPU)


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


def check(context: Path | None = None, soc_model: int = 0, fp16: bool = False, soc: str = "") -> list[Finding]:
    """Look for what keeps a model from running here, the first cause first.

    Args:
        context: the ONNX file that wraps a context binary; None looks at the device alone.
        soc_model: of the SoC that it is for, by QNN's numbers.
        fp16: whether it is in FP16.
        soc: the SoC's name.

    """
    findings: list[Finding] = []

    def add(what: str, state: str, found: str, remedy: str = "") -> bool:
        findings.append({"check": what, "state": state, "found": found, "remedy": remedy})
        return state != "fail"

    wanted = ".".join(map(str, PYTHON))
    good = sys.version_info >= PYTHON
    add("python", "ok" if good else "fail", platform.python_version(), "" if good else f"install Python {wanted}")
    for package in PACKAGES:
        found = _installed(package)
        good &= add(package, "ok" if found else "fail", found or "not installed", f"pip install {package}")
    if chip := _read("/sys/devices/soc0/machine"):
        alike = soc.lower() in chip.lower()
        add("SoC", "ok" if alike else "note", chip, f"the model is for {soc}: is that this device's?")
    if platform.system() == "Linux" and platform.machine() == "aarch64":
        way = next((path for path in FASTRPC if os.access(path, os.R_OK)), None)
        add("DSP", "ok" if way else "fail", way or "none that this user may open", CODES[4000][1])
    if not good:
        return findings
    try:
        npu = is_npu(find_device())
    except Exception as error:  # ONNX Runtime's own kinds share no base but Exception
        add("NPU", "fail", f"{error}{explain_code(str(error))}", "install onnxruntime-qnn again, for this machine")
        return findings
    add("NPU", "ok" if npu else "note", "there" if npu else "none: the backend emulates one, and its time is the CPU's")
    if context is not None:
        size = sum(path.stat().st_size for path in context.parent.glob("*.bin"))
        free = facts()["memory_available"]
        enough = free is None or free > 2 * size
        add("memory", "ok" if enough else "fail", f"{free} bytes free, the binary has {size}", CODES[1002][1])
        try:
            open_session(context, soc_model, fp16)
        except Exception as error:
            said = " ".join(str(error).split())[:300]
            add("model", "fail", said, explain_code(said).strip(" ()") or CODES[5005][1])
        else:
            add("model", "ok", "loads, all of it on the NPU")
    return findings


def facts() -> dict[str, Any]:
    """Name what a measurement depends on: versions, chip, governor, temperature, free memory; None where not told."""
    zones = [int(_read(path) or 0) for path in Path("/sys/class/thermal").glob("thermal_zone*/temp")]
    free = re.search(r"MemAvailable: +(\d+) kB", _read("/proc/meminfo"))
    return {
        "python": platform.python_version(),
        "packages": {package: _installed(package) for package in PACKAGES},
        "machine": platform.machine(),
        "chip": _read("/sys/devices/soc0/machine") or None,
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
        "celsius": max(zones) / 1e3 if zones else None,
        "memory_available": int(free[1]) * 1024 if free else None,
    }


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _read(path: Any) -> str:
    try:
        return Path(path).read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def serve(context: Path, soc_model: int, fp16: bool) -> None:
    """Answer on standard output what comes on standard input, until that ends: inputs to run, or to time.

    A message is what `send` writes. The first answer says what the device is.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the backend prints must not come between
    try:
        session = open_session(context, soc_model, fp16)
        send(answers, facts() | {"npu": is_npu(find_device())})
        while (asked := receive(sys.stdin.buffer)) is not None:
            request, inputs = asked
            for _ in range(request.get("warmup", 0)):
                run(session, inputs)
            outputs, times = run(session, inputs)
            for _ in range(request.get("runs", 1) - 1):
                times += run(session, inputs)[1]
            send(answers, {"ms": times}, outputs)
    except Exception as error:
        send(answers, {"error": " ".join(str(error).split())[:500] + explain_code(str(error))})


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
    if len(head) < 12:
        return None
    sizes = struct.unpack(">IQ", head)
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
    parser.add_argument("--context", type=Path, help=argparse.SUPPRESS)  # over SSH there is no manifest
    parser.add_argument("--soc-model", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--fp16", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.serve:
        serve(words.context, words.soc_model, words.fp16)
        return 0
    if words.context or not (HERE / "manifest.json").is_file():
        return _tell(check(words.context, words.soc_model, words.fp16, words.soc or ""), words.json)
    manifest = json.loads((HERE / "manifest.json").read_text("utf-8"))
    name = words.soc or next(iter(manifest["socs"]), "")
    if name not in manifest["socs"] or manifest["socs"][name]["context"] is None:
        parser.error(f"this bundle holds no context binary for {name} that onnxruntime-qnn loads: {manifest['reason']}")
    chip, fp16 = manifest["socs"][name], manifest["precision"] == "FP16"
    if words.check:
        return _tell(check(HERE / chip["context"], chip["soc_model"], fp16, name), words.json)
    return _repeat(manifest, chip, open_session(HERE / chip["context"], chip["soc_model"], fp16), words)


def shown(finding: Finding) -> str:
    """Give the line that says what a check found, with the remedy where there is something to do."""
    remedy = f"; {finding['remedy']}" if finding["state"] != "ok" and finding["remedy"] else ""
    return f"{finding['state']:4} {finding['check']:16} {finding['found']}{remedy}"


def _tell(findings: list[Finding], as_json: bool) -> int:
    print(json.dumps(findings) if as_json else "\n".join(map(shown, findings)))  # noqa: T201
    return int(any(one["state"] == "fail" for one in findings))


def _repeat(manifest: dict[str, Any], chip: dict[str, Any], session: Any, words: argparse.Namespace) -> int:
    import numpy as np

    given = np.load(words.inputs or HERE / manifest["recorded"]["file"], allow_pickle=False)
    outputs, times = run(session, given)
    print(f"{len(times)} samples, median {np.median(times):.3f} ms an inference (on an emulator: not the device's)")  # noqa: T201
    if words.outputs:
        np.savez(words.outputs, allow_pickle=False, **outputs)
    if words.inputs:
        return 0
    recorded = np.load(HERE / chip["answers"], allow_pickle=False)
    apart = {name: float(np.abs(outputs[name] - recorded[name]).max()) for name in recorded.files}
    print("largest difference from the recorded outputs:", ", ".join(f"{k} {v:g}" for k, v in apart.items()))  # noqa: T201
    return int(any(apart.values()))


if __name__ == "__main__":
    sys.exit(main())
