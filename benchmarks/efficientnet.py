"""EfficientNet-Lite0 with its ImageNet weights through the whole pipeline, down to the emulated NPU.

    python benchmarks/efficientnet.py DIR [STAGE ...]

Makes a clone of this code in DIR (or goes on in the one that is there), runs `dvc repro` on these stages (by default
all that the comparison needs), and prints what `bitladder show` and `bitladder timings` do. An hour and more.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from clones import Clone, make_clone  # noqa: E402

GPTQ = {"techniques": ["min-max", "gptq"]}
W8A8 = {"weights": 8, "activations": 8}

CHANGES = {
    "task.factory": "bitladder.tasks.builtin.efficientnet_lite0:task",
    "task.files": {
        "code": "src/bitladder/tasks/builtin/efficientnet_lite0.py",
        "photographs": "src/bitladder/tasks/builtin/photographs.py",
    },
    "task.args": {"train": 64, "calibration": 500, "evaluation": 200},
    "train.epochs": 0,
    "evaluate.batch_size": 20,
    "verify": {"max_drop": 0.02, "min_sqnr_db": 30},
    "ladder": {
        "balanced": {"weights": 8, "activations": 16, "after": "fp16", "ptq": GPTQ},
        "compact": {**W8A8, "after": "balanced", "ptq": GPTQ},
        "tiny": {"weights": 4, "activations": 8, "after": "compact", "ptq": GPTQ},
        "mixed": {
            "weights": 4,
            "activations": 8,
            "after": "tiny",
            "ptq": GPTQ,
            "mixed": {"raise_to": W8A8, "max_drop": 0.05, "max_growth": 0.15},
        },
    },
    "ptq.samples": 300,  # the other 200 crops judge what is tried
    "ptq.gptq.samples": 300,
    "ptq.batch_size": 16,
    "ptq.max_drop": 0.1,
    "ptq.adaround.iterations": 100,  # for techniques.py: 300 of 32 would take an hour
    "ptq.adaround.batch_size": 8,
    "sensitivity.samples": 8,
    "qat.when": "never",
    "goals.max_drop": 0.1,
    "goals.policy": "sweep",
    "export.samples": 20,
    "target.samples": 200,
    "target.max_gap": 0.05,
    "bundle.samples": 5,
}


def main() -> int:
    """Run it; exit with DVC's code."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("folder", type=Path)
    words.add_argument("stages", nargs="*", default=["compare"])
    given = words.parse_args()
    there = (given.folder / "dvc.yaml").exists()
    clone = Clone(given.folder) if there else make_clone(given.folder, CHANGES)
    done = clone.repro(*given.stages)
    print(done.text[-2000:] if done.code else "", clone.run("bitladder", "show").stdout, sep="\n")
    print(clone.run("bitladder", "timings").stdout)
    return done.code


if __name__ == "__main__":
    sys.exit(main())
