"""What GPTQ takes on EfficientNet-Lite0 at W4A8, by the samples it is fitted to: peak memory, CPU seconds, agreement.

    python benchmarks/gptq_memory.py [--samples 75 150 300] [--batch-size 16] [--techniques gptq] [--source DIR ...]

Each row is a process of its own, and its peak that of the technique alone, on top of min-max ranges. It runs on one
thread: CPU seconds are then the same beside other work. The agreement with FP32 is QuantSim's, on 200 crops of held-out
photographs. `--source` names other checkouts of this project, such as `git worktree add DIR REVISION` makes, to run
their code instead of this one's.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

HELD_OUT = 200


def main() -> None:
    """Print a row for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[75, 150, 300])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--techniques", nargs="+", default=["gptq"])
    parser.add_argument("--source", type=Path, nargs="+", default=[ROOT])
    parser.add_argument("--row", action="store_true", help=argparse.SUPPRESS)  # one run, in this process
    given = parser.parse_args()
    if given.row:
        print(row(given.techniques[0], given.samples[0], given.batch_size))
        return
    print("| code | technique | samples | peak, MB | above what it began with, MB | CPU s | agreement, % | SQNR, dB |")
    print("|---" * 8 + "|")
    for technique in given.techniques:
        for samples in given.samples:
            for source in given.source:
                words = ["--row", "--techniques", technique, "--samples", str(samples)]
                command = [sys.executable, __file__, *words, "--batch-size", str(given.batch_size)]
                environment = {**os.environ, "PYTHONPATH": str(source.resolve() / "src")}
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
                assert done.returncode == 0, done.stderr[-2000:]
                print(f"| {source.resolve().name} {done.stdout.splitlines()[-1]}", flush=True)


def row(technique: str, samples: int, batch_size: int) -> str:
    """Put a technique on top of min-max ranges, in this process."""
    import time
    import warnings
    from tempfile import TemporaryDirectory

    from bitladder.running import determinism

    determinism.pin(1)
    warnings.filterwarnings("ignore")

    import torch

    from bitladder.network.evaluate import compare, predict
    from bitladder.network.model import sample_inputs
    from bitladder.params import GptqParams, PtqParams
    from bitladder.precision import Precision
    from bitladder.quantize.prepare.prepare import prepare
    from bitladder.quantize.techniques.technique import Setting, apply
    from bitladder.tasks.builtin.efficientnet_lite0 import task as lite0
    from bitladder.tasks.builtin.photographs import crops
    from bitladder.tasks.task import Split

    task = lite0()
    fit, held_out = (
        Split({"image": crops(name, count, seed)}, torch.zeros(count))
        for seed, (name, count) in enumerate({"calibration": samples, "evaluation": HELD_OUT}.items(), 1)
    )
    sample = sample_inputs(fit)
    model, _ = prepare(task.model().eval(), sample)
    reference = predict(model, held_out, batch_size, "fp32")
    with TemporaryDirectory() as work:
        setting = Setting(
            model=model,
            unfolded=lambda: prepare(task.model().eval(), sample, fold=False)[0],
            sample=sample,
            fit=fit,
            precision=Precision(4, 8),
            config="htp_v75",
            params=PtqParams(
                techniques=[technique], samples=samples, batch_size=batch_size, gptq=GptqParams(samples=samples)
            ),
            seed=0,
            work=Path(work),
        )
        plain = apply("min-max", setting, None)
        Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
        before, start = memory("VmRSS"), time.process_time()
        quantized = apply(technique, setting, plain)
        seconds, peak = time.process_time() - start, memory("VmHWM")
    outputs, targets = predict(quantized.sim.model, held_out, batch_size, technique), next(iter(reference.values()))
    found = compare(task.metric, outputs, reference, targets)
    return (
        f"| {technique} | {samples} | {peak:,.0f} | {peak - before:,.0f} | {seconds:.0f} | {100 * found.value:.1f} |"
        f" {found.sqnr_db:.2f} |"
    )


def memory(what: str) -> float:
    """Give this process's memory in MB, as Linux has it: VmRSS what it holds now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) / 1024


if __name__ == "__main__":
    main()
