"""The memory of outputs that are large: masks of 19 classes at 1024 x 512, 40 MB a sample, through all stages.

    python benchmarks/segmentation.py --images 500

Runs `dvc repro` over so many made-up street scenes (half of them to evaluate on) with a small fully convolutional
network, mean intersection over union by torchmetrics, a W8A8 rung with QAT, and a W4A8 rung whose layers are raised;
4 samples on target. Prints each stage's peak memory and seconds, as scale.py does, and what lies in build/ at most.
"""

import argparse
import tempfile
from pathlib import Path

from scale import megabytes, repro, seconds

from clones import make_clone

TASK = '''
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset
from torchmetrics.classification import MulticlassJaccardIndex

from bitladder.tasks.task import Metric, Task

WIDTH, HEIGHT, CLASSES = 1024, 512, 19
COLOURS = np.random.default_rng(0).integers(0, 256, (CLASSES, 3))


class Scenes(Dataset):
    """Rectangles of a class's colour, drawn by the scene's number."""

    def __init__(self, seed, count):
        self.seed, self.count = seed, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        drawn = np.random.default_rng((self.seed, index))
        mask = np.full((HEIGHT, WIDTH), drawn.integers(CLASSES))
        for _ in range(12):
            top, left = drawn.integers(HEIGHT - 64), drawn.integers(WIDTH - 64)
            height, width = drawn.integers(64, 256, 2)
            mask[top : top + height, left : left + width] = drawn.integers(CLASSES)
        image = COLOURS[mask] / 255 + 0.1 * drawn.standard_normal((HEIGHT, WIDTH, 1))
        return {"image": torch.from_numpy(image).float().permute(2, 0, 1).contiguous()}, torch.from_numpy(mask)


def network():
    torch.manual_seed(0)
    parts = []
    for before, after in ((3, 16), (16, 32), (32, 32)):
        parts += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*parts, nn.Conv2d(32, CLASSES, 1), nn.Upsample(scale_factor=8, mode="bilinear"))


def splits(seed, images):
    shares = {"train": 0.4, "calibration": 0.1, "evaluation": 0.5}
    return {name: Scenes(seed + i, round(share * images)) for i, (name, share) in enumerate(shares.items())}


def task(images):
    metric = Metric("mIoU", MulticlassJaccardIndex(CLASSES))
    return Task(network, lambda seed: splits(seed, images), functional.cross_entropy, metric)
'''

CHANGES = {
    "task.factory": "scenes.py:task",
    "task.files": {"code": "scenes.py"},
    "train": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-2, "weight_decay": 1e-4},
    "evaluate.batch_size": 4,
    "goals.max_drop": 1.0,
    "verify": {"max_drop": 0.1, "min_sqnr_db": 20},
    "ladder": {
        "compact": {"weights": 8, "activations": 8, "after": "fp16"},
        "raised": {
            "weights": 4,
            "activations": 8,
            "after": "compact",
            "mixed": {"raise_to": {"weights": 8, "activations": 8}, "max_drop": 0.0},
        },
    },
    "ptq.techniques": ["min-max"],
    "ptq.samples": 16,
    "ptq.batch_size": 4,
    "sensitivity.samples": 8,
    "qat.when": "always",
    "qat.epochs": 1,
    "qat.batch_size": 4,
    "export.samples": 4,
    "export.min_sqnr_db": 10,
    "target.samples": 4,
    "target.sample_limit_s": 600,
    "target.max_gap": 1.0,
}


def main() -> None:
    """Run it, and print the table."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--images", type=int, default=500)
    given = words.parse_args()
    with tempfile.TemporaryDirectory(prefix="bitladder-segmentation-") as name:
        clone = make_clone(Path(name), {})
        (clone.root / "scenes.py").write_text(TASK, "utf-8")
        clone.edit({**CHANGES, "task.args": {"images": given.images}})
        peaks, largest = repro(clone)
        took = seconds(clone)
        print("| stage | peak, MB | seconds |\n|---|---|---|")
        for stage in (stage for stage in peaks if stage in took):
            print(f"| {stage} | {peaks[stage]:,.0f} | {took[stage]:.1f} |")
        print(f"\nbuild/: {largest:,.0f} MB at most, {megabytes(clone.root / 'build'):,.0f} MB in the end")


if __name__ == "__main__":
    main()
