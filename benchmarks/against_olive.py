"""Olive's ONNX static quantization beside ours: same net, samples and precisions; what comes out, and how fast.

    python benchmarks/against_olive.py [--environment DIR] [--repeat 3]
    python benchmarks/against_olive.py --folder DIR --no-speed --npu-samples 20

Olive lives in an environment of its own (made in --environment by uv where there is none: 5 GB), since it asks for
other versions; its telemetry is off, and not waited for. Both start from the trained FP32 network, Olive from its
ONNX; both see the same calibration samples. Olive's settings are its defaults for W8A8; W8A16 changes
`activation_type` alone. Ours are those of params.yaml.

What comes out: the metric, and the SQNR to FP32's answers, of both quantized ONNX files through ONNX Runtime without
optimisations; and of the same files on the emulated NPU. How long: from the FP32 network to both quantized files,
`olive run` a file against `dvc repro` of the export stages; then the same again with nothing to do; then with one
file's bits changed to W16A16. --folder takes a pipeline that has run, such as benchmarks/efficientnet.py makes.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
HERE = Path(__file__).parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from clones import Clone, make_clone  # noqa: E402

OLIVE = ("olive-ai==0.13.0", "pydantic==2.11.10")  # with 2.14 of this its evaluation fails
BITS = {"balanced": ("int8", "uint16"), "compact": ("int8", "int8")}  # int8: Olive's own default for both
EDITED = ("int16", "uint16")

ACCURACY = {
    "name": "accuracy",
    "type": "accuracy",
    "data_config": "evaluation",
    "sub_types": [
        {"name": "accuracy_score", "priority": 1, "metric_config": {"task": "multiclass", "num_classes": 10}},
    ],
}

# Of the default task; no rung waits for another, as Olive's files do not
TWO_RUNGS = {
    "ladder": {
        "balanced": {"weights": 8, "activations": 16, "after": "fp16"},
        "compact": {"weights": 8, "activations": 8, "after": "fp16"},
    },
}
STAGES = [f"export@{rung}" for rung in BITS]


def main() -> None:
    """Measure, and print the tables."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--environment", type=Path, default=ROOT / "build/olive")
    words.add_argument("--repeat", type=int, default=3)
    words.add_argument("--folder", type=Path)
    words.add_argument("--no-speed", action="store_true")
    words.add_argument("--npu-samples", type=int, default=100)
    given = words.parse_args()
    olive = make_environment(given.environment)
    with tempfile.TemporaryDirectory(prefix="bitladder-olive-") as name:
        work = Path(name)
        clone = Clone(given.folder.resolve()) if given.folder else make_clone(work / "clone", TWO_RUNGS)
        if not given.folder:
            ran(clone, "verify", "judge-fp16")
        in_pipeline(clone, "inputs.py", str(work))
        if not given.no_speed:
            print_speed([speed(clone, olive, work) for _ in range(given.repeat)])
        for rung, bits in BITS.items():
            run_olive(olive, work, rung, bits)
        if not given.folder:
            clone.edit(TWO_RUNGS)
            ran(clone, *STAGES)
        print_quality(clone, work, given.npu_samples)


def make_environment(folder: Path) -> Path:
    """Give the Python of an environment with Olive in it, made where there is none."""
    if not (folder / "bin/olive").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        uv = [str(Path(sys.executable).parent / "uv"), "pip", "install", "--quiet", "--compile-bytecode"]
        subprocess.run([*uv, "--python", str(folder / "bin/python"), *OLIVE, "onnxruntime", "requests"], check=True)
    return (folder / "bin/python").absolute()


def ran(clone: Clone, *stages: str) -> float:
    """Run `dvc repro` of these stages; give its seconds."""
    start = time.perf_counter()
    done = clone.repro(*stages)
    assert done.code == 0, done.text[-2000:]
    return time.perf_counter() - start


def run_olive(olive: Path, work: Path, name: str, bits: tuple[str, str], scored: bool = False) -> float:
    """Run Olive with its cache in `work`, and its own evaluation of what comes out if asked; give its seconds."""
    weights, activations = bits
    config = {
        "input_model": {"type": "ONNXModel", "model_path": str(work / "fp32.onnx")},
        "data_configs": [
            {
                "name": split,
                "user_script": str(HERE / "olive/samples.py"),
                "load_dataset_config": {"type": "bitladder_samples", "data_dir": str(work / f"{split}.npz")},
                "post_process_data_config": {"type": "text_classification_post_process"},  # argmax of any classes
                "dataloader_config": {"batch_size": batch_size},
            }
            for split, batch_size in (("samples", 1), ("evaluation", 100))
        ],
        "passes": {
            "quantize": {
                "type": "OnnxStaticQuantization",
                "data_config": "samples",
                "precision": weights,
                "activation_type": activations,
            }
        },
        "cache_dir": str(work / "cache"),
        "output_dir": str(work / "olive" / name),
        "log_severity_level": 3,
    }
    if scored:
        config |= {"evaluators": {"accuracy": {"metrics": [ACCURACY]}}, "evaluator": "accuracy"}
        config |= {"evaluate_input_model": False}
    path = work / f"{name}.json"
    path.write_text(json.dumps(config), "utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OLIVE_DISABLE_TELEMETRY": "1", "CI": "1"}
    environment.pop("PYTHONPATH", None)
    start = time.perf_counter()
    done = subprocess.run(
        [str(olive), str(HERE / "olive/run.py"), "run", "--config", str(path)],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    return time.perf_counter() - start


def speed(clone: Clone, olive: Path, work: Path) -> dict[str, tuple[float, float, float]]:
    """Give the seconds of Olive, of Olive with its evaluation, and of us, by what was done."""
    clone.edit(TWO_RUNGS)
    for rung in BITS:  # forget what was quantized before
        for folder in ("ptq", "qat", "export"):
            shutil.rmtree(clone.root / "build" / folder / rung, ignore_errors=True)
    clone.run("dvc", "gc", "--workspace", "--force")
    shutil.rmtree(clone.root / ".dvc/cache/runs", ignore_errors=True)
    edited = BITS | {"compact": EDITED}
    seconds: list[list[float]] = [[], [], []]
    for scored, column in zip((False, True), seconds[:2], strict=True):
        shutil.rmtree(work / "cache", ignore_errors=True)
        shutil.rmtree(work / "olive", ignore_errors=True)
        for files in (BITS, BITS, edited):
            column.append(sum(run_olive(olive, work, rung, bits, scored) for rung, bits in files.items()))
    for changes in ({}, {}, {"ladder.compact.weights": 16, "ladder.compact.activations": 16}):
        clone.edit(changes)
        seconds[2].append(ran(clone, *STAGES))
    return dict(zip(("cold", "nothing to do", "bits of one changed"), zip(*seconds, strict=True), strict=True))


def print_speed(runs: list[dict[str, tuple[float, float, float]]]) -> None:
    """Print medians."""
    print(f"\n| {len(runs)} repeats, medians | Olive s | ratio | Olive with its evaluation s | ratio | bitladder s |")
    print("|---|---|---|---|---|---|")
    for what in runs[0]:
        bare, scored, ours = (median(run[what][side] for run in runs) for side in range(3))
        to_bare, to_scored = (median(run[what][2] / run[what][side] for run in runs) for side in range(2))
        print(f"| {what} | {bare:.1f} | {to_bare:.2f} | {scored:.1f} | {to_scored:.2f} | {ours:.1f} |")


def print_quality(clone: Clone, work: Path, npu_samples: int) -> None:
    """Print metric and SQNR of both tools' files, from a process with the pipeline's own settings."""
    files = {
        f"{rung}|{tool}": str(path)
        for rung in BITS
        for tool, path in (
            ("Olive", next((work / "olive" / rung).rglob("*.onnx"))),
            ("bitladder", (clone.root / f"build/export/{rung}/model.onnx").resolve()),
        )
    }
    in_pipeline(clone, "compare.py", json.dumps(files), str(npu_samples), str(work))


def in_pipeline(clone: Clone, script: str, *words: str) -> None:
    """Run a script of olive/ in the pipeline's folder, on this repository's code."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, str(HERE / "olive" / script), *words], cwd=clone.root, env=environment, check=True)


if __name__ == "__main__":
    main()
