"""How the emulator scales over processes: images a second with 1 and 2 workers, one after the other, on the same model.

Run: python benchmarks/emulator_workers.py [MODEL.onnx] [--precision W8A8] [--samples 200] [--workers 1 2] [--repeat 3].
Without a model: build/export/compact/model.onnx, on the evaluation split that the pipeline left. Prints a Markdown
table. Compiling does not count; starting the processes does, as a run pays it.
"""

import argparse
import os
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from bitladder.params import load_params
from bitladder.targets.context import compile_model, run
from bitladder.tasks.splits import load_split


def main() -> None:
    """Measure, interleaved, so that other load on the machine meets every number of workers alike."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=Path("build/export/compact/model.onnx"))
    parser.add_argument("--precision", default="W8A8")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    params = load_params()
    split = load_split(Path("build/data/evaluation.safetensors")).first(given.samples)
    fp16 = given.precision == "FP16"
    seconds: dict[int, list[float]] = {workers: [] for workers in given.workers}
    answers = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        limit_s = params.target.compile_limit_s
        compiled = compile_model(given.model, folder / "target", params.soc, fp16, limit_s, folder)
        for _ in range(given.repeat):
            for workers, spent in seconds.items():
                settings = params.target.model_copy(update={"workers": workers})
                shutil.rmtree(folder / "outputs", ignore_errors=True)  # which a run that was killed would go on from
                start = time.perf_counter()
                answers.append(run(compiled, params.soc, fp16, split, settings, folder))
                spent.append(time.perf_counter() - start)
    same = all(torch.equal(value, answers[0][key]) for one in answers for key, value in one.items())
    load = os.getloadavg()[0]
    print(
        f"{given.model}, {len(split)} samples, {params.soc.name}, {os.cpu_count()} cores (load {load:.1f} at the end),"
        f" best of {given.repeat}; answers {'equal' if same else 'DIFFER'}\n"
    )
    print("| workers | images/s | against the first |")
    print("|---|---|---|")
    first = min(seconds[given.workers[0]])
    for workers, spent in seconds.items():
        print(f"| {workers} | {len(split) / min(spent):.1f} | {first / min(spent):.2f} |")


if __name__ == "__main__":
    main()
