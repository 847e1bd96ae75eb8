"""How cost grows: with the rungs of the ladder, the samples of the evaluation split, the parameters of the network.

    python benchmarks/growth.py [--only rungs samples parameters]

- rungs: `dvc repro` of ladders of 3, 6, 12 and 24 rungs, calibration only, 20 emulated samples each, from where FP16 is
  measured: seconds in the stages, and in DVC.
- samples: one rung's PTQ stage over evaluation splits of 1,000, 10,000 and 60,000 (random images, no labels).
- parameters: the same for networks of 31 thousand, 4.7 and 25.6 million parameters, 200 samples.

The last two run the stage in a process of its own (BITLADDER_FORK=0), and print its peak memory beside that of plain
AIMET doing the same in one script: a QuantSim, its calibration, and its answers to the evaluation split.

"grows as n^k": k of the line from the first to the last row on logarithmic scales; 1 is linear.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from clones import SMALL, Clone, make_clone  # noqa: E402

PARTS = ("rungs", "samples", "parameters")
RUNGS = (3, 6, 12, 24)
SAMPLES = (1_000, 10_000, 60_000)
FEW = 200  # where networks grow: ResNet-50 answers thousands only in minutes
NETS = {"mnist": (30_826, 1, 28), "efficientnet_lite0": (4_652_008, 3, 64), "resnet50": (25_557_032, 3, 64)}

TASK = """
import torch
from bitladder.tasks.label_free import label_free


def network(net):
    torch.manual_seed(0)
    if net == "resnet50":
        from torchvision.models import resnet50
        return resnet50(weights=None)
    if net == "efficientnet_lite0":
        from bitladder.tasks.builtin.efficientnet_lite0 import network
        return network()
    from bitladder.tasks.builtin.mnist import network
    return network()


def task(net, channels, side, evaluation):
    def samples(seed):
        drawn = torch.Generator().manual_seed(seed)
        counts = {"train": 8, "calibration": 200, "evaluation": evaluation}
        return {
            name: {"image": torch.rand(count, channels, side, side, generator=drawn)} for name, count in counts.items()
        }

    return label_free(lambda: network(net), samples)
"""

ONE_RUNG = {
    "task.factory": "grown.py:task",
    "task.files": {"code": "grown.py"},
    "train.epochs": 0,
    "goals.max_drop": 1.0,
    "verify": {"max_drop": 1.0, "min_sqnr_db": 10},
    "ladder": {"compact": {"weights": 8, "activations": 8, "after": "fp16", "ptq": {"techniques": ["min-max"]}}},
    "ptq.samples": 200,
    "target.samples": 2,
    "target.max_gap": 1.0,
    "export.samples": 2,
}

# What a script by hand does, with plain AIMET, from the same files
PLAIN = """
import sys
import torch
from safetensors.torch import load_file
from aimet_torch.batch_norm_fold import fold_all_batch_norms
from aimet_torch.model_preparer import prepare_model
from aimet_torch.quantsim import QuantizationSimModel

torch.set_num_threads(2)
sys.path.insert(0, ".")
from grown import network

model = network(sys.argv[1]).eval()
calibration, evaluation = (
    next(values for values in load_file(f"build/data/{name}.safetensors").values() if values.ndim == 4)
    for name in ("calibration", "evaluation")
)
model = prepare_model(model)
fold_all_batch_norms(model, None, dummy_input=calibration[:1])
sim = QuantizationSimModel(model, calibration[:1], default_param_bw=8, default_output_bw=8)
with torch.no_grad():
    sim.compute_encodings(lambda net: [net(batch) for batch in calibration.split(200)])
    for net in (model, sim.model):
        torch.cat([net(batch) for batch in evaluation.split(200)])
"""


def main() -> None:
    """Measure the parts that are asked for."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    given = words.parse_args()
    with tempfile.TemporaryDirectory(prefix="bitladder-growth-") as name:
        if "rungs" in given.only:
            print_rungs([(count, *ladder(Path(name) / f"rungs-{count}", count)) for count in RUNGS])
        if "samples" in given.only:
            rows = [(count, *one_rung(Path(name) / f"samples-{count}", "mnist", count)) for count in SAMPLES]
            print_stage("samples", rows)
        if "parameters" in given.only:
            rows = [(NETS[net][0], *one_rung(Path(name) / net, net, FEW)) for net in NETS]
            print_stage("parameters", rows)


def ladder(folder: Path, count: int) -> tuple[float, float]:
    """Run a ladder of this many rungs; give the seconds in its stages, and in all."""
    bits = ((8, 16), (8, 8), (4, 8), (4, 16))
    rungs = {
        f"rung{i:02}": {"weights": bits[i % 4][0], "activations": bits[i % 4][1], "after": "fp16"} for i in range(count)
    }
    clone = start(folder, SMALL | {"ladder": rungs, "qat.when": "never", "goals.policy": "sweep"})
    done(clone, "verify", "judge-fp16")
    timings = clone.root / "build/timings"
    for path in timings.glob("*.json"):
        path.unlink()
    began = time.perf_counter()
    done(clone, "compare")
    passed = time.perf_counter() - began
    return sum(json.loads(path.read_text())["seconds"] for path in timings.glob("*.json")), passed


def one_rung(folder: Path, net: str, samples: int) -> tuple[float, float, float]:
    """Give the seconds and the peak memory in MB of the PTQ stage, and the memory of plain AIMET."""
    _, channels, side = NETS[net]
    given = {"net": net, "channels": channels, "side": side, "evaluation": samples}
    clone = start(folder, ONE_RUNG | {"task.args": given, "evaluate.batch_size": 200})
    done(clone, "judge-fp16")
    seconds, memory = peak(clone, sys.executable, "stages/ptq.py", "compact")
    (clone.root / "plain.py").write_text(PLAIN, "utf-8")
    return seconds, memory, peak(clone, sys.executable, "plain.py", net)[1]


def start(folder: Path, changes: dict) -> Clone:
    """Make a clone with a task that grows."""
    folder.mkdir()
    clone = make_clone(folder, {})
    (folder / "grown.py").write_text(TASK, "utf-8")
    clone.edit(changes)
    return clone


def done(clone: Clone, *stages: str) -> None:
    """Run `dvc repro` of these stages."""
    repro = clone.repro(*stages)
    assert repro.code == 0, repro.text[-2000:]


def peak(clone: Clone, *words: str) -> tuple[float, float]:
    """Run a command in the clone; give its seconds and the peak of its memory in MB."""
    environment = {**os.environ, "PYTHONPATH": str(clone.root / "src"), "BITLADDER_FORK": "0"}
    began = time.perf_counter()
    process = subprocess.Popen(
        words, cwd=clone.root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, said[-2000:]
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def print_rungs(rows: list[tuple[int, float, float]]) -> None:
    """Print the seconds by rungs."""
    print("\n| rungs | in stages, s | in all, s | the rest (DVC, starts) a rung, s |\n|---|---|---|---|")
    for count, stages, total in rows:
        print(f"| {count} | {stages:.1f} | {total:.1f} | {(total - stages) / count:.2f} |")
    print(f"\nin stages grows as n^{power(rows, 1):.2f}, in all as n^{power(rows, 2):.2f}")


def print_stage(what: str, rows: list[tuple[int, float, float, float]]) -> None:
    """Print one stage's seconds and memory."""
    print(f"\n| {what} | ptq, s | peak, MB | plain AIMET's peak, MB | ratio |\n|---|---|---|---|---|")
    for count, seconds, memory, plain in rows:
        print(f"| {count:,} | {seconds:.1f} | {memory:,.0f} | {plain:,.0f} | {memory / plain:.2f} |")
    print(f"\nseconds grow as n^{power(rows, 1):.2f}, memory as n^{power(rows, 2):.2f}")


def power(rows: list[tuple], column: int) -> float:
    """Give the exponent between the first and the last row."""
    return math.log(rows[-1][column] / rows[0][column]) / math.log(rows[-1][0] / rows[0][0])


if __name__ == "__main__":
    main()
