"""Runs a bundle on a device by onnxruntime-qnn; needs numpy, onnxruntime and onnxruntime-qnn, and nothing of bitladder.

    python runner.py                          # repeats the recorded samples, compares, and prints the latency
    python runner.py --inputs my.npz --outputs outputs.npz

my.npz holds one array per input of the model under the input's name, its first dimension the number of samples. The
README beside this file says which inputs there are, and how they were made. Exit code 1: outputs differ.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
import onnxruntime_qnn

__all__ = ["main", "open_session", "run"]

HERE = Path(__file__).resolve().parent
PROVIDER = "QNNExecutionProvider"


def open_session(context: Path, soc_model: int, fp16: bool) -> ort.InferenceSession:
    """Load a context binary by the ONNX file that wraps it, with nothing left for the CPU.

    On a Snapdragon the NPU runs it. Elsewhere Qualcomm's emulator does, which is told which SoC to be: its outputs are
    the NPU's, its time is not.
    """
    ort.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
    devices = [device for device in ort.get_ep_devices() if device.ep_name == PROVIDER]
    device = max(devices, key=lambda one: one.device.type == ort.OrtHardwareDeviceType.NPU)
    settings = {"backend_path": onnxruntime_qnn.get_qnn_htp_path()}
    if device.device.type == ort.OrtHardwareDeviceType.NPU:
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


def run(session: ort.InferenceSession, inputs: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[float]]:
    """Run samples one at a time, as the model was exported; give the outputs by name, and each inference's ms."""
    names = [output.name for output in session.get_outputs()]
    rows, times = [], []
    for index in range(len(next(iter(inputs.values())))):
        row = {name: values[index : index + 1] for name, values in inputs.items()}
        start = time.perf_counter()
        rows.append(session.run(names, row))
        times.append((time.perf_counter() - start) * 1e3)
    return {name: np.concatenate(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}, times


def main() -> int:
    """Run from the command line."""
    manifest = json.loads((HERE / "manifest.json").read_text("utf-8"))
    parser = argparse.ArgumentParser(description="Run this bundle's model by onnxruntime-qnn.")
    parser.add_argument("--soc", choices=list(manifest["socs"]), default=next(iter(manifest["socs"]), None))
    parser.add_argument("--inputs", type=Path, help="an .npz of inputs; the recorded samples if left out")
    parser.add_argument("--outputs", type=Path, help="an .npz to write the outputs to")
    words = parser.parse_args()
    if words.soc is None or manifest["socs"][words.soc]["context"] is None:
        parser.error(f"this bundle holds no context binary that onnxruntime-qnn loads: {manifest['reason']}")
    chip = manifest["socs"][words.soc]
    session = open_session(HERE / chip["context"], chip["soc_model"], manifest["precision"] == "FP16")
    given = np.load(words.inputs or HERE / manifest["recorded"]["file"], allow_pickle=False)
    outputs, times = run(session, {one.name: given[one.name] for one in session.get_inputs()})
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
