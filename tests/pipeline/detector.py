"""A task of the tests: a small detector of white squares, whose targets are lists of boxes and whose metric is mAP.

`KILLED_AT=loss 5` in the environment kills the process at the fifth call of the loss; `metric` and `read` likewise.
"""

import os
import signal
from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, get_worker_info
from torchmetrics.detection import MeanAveragePrecision

from bitladder.tasks.task import Metric, Task

SIDE, CELL = 32, 8
CELLS = SIDE // CELL

calls: Counter[str] = Counter()


def task() -> Task:
    return Task(network, splits, loss, Metric("map", BoxMetric()), collate=list)


def network() -> nn.Module:
    """Take N x 3 x 32 x 32, give N x 5 x 4 x 4: whether an object's middle is in the cell, and its box."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 2, 1),
        nn.ReLU(), nn.Conv2d(32, 5, 1),
    )  # fmt: skip


def splits(seed: int) -> dict[str, Dataset]:
    return {"train": Squares(seed, 400), "calibration": Squares(seed + 1, 60), "evaluation": Squares(seed + 2, 60)}


class Squares(Dataset):
    """Images with one or two squares, drawn by their number."""

    def __init__(self, seed: int, count: int) -> None:
        self.seed, self.count = seed, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        if get_worker_info() is None:
            count("read")
        drawn = torch.Generator().manual_seed(self.seed * 10_000 + index)
        image, boxes = 0.1 * torch.rand(3, SIDE, SIDE, generator=drawn), []
        for half in range(1 + index % 2):  # one above the other
            side = int(torch.randint(6, 12, (), generator=drawn))
            left = int(torch.randint(0, SIDE - side, (), generator=drawn))
            top = half * SIDE // 2 + int(torch.randint(0, SIDE // 2 - side, (), generator=drawn))
            image[:, top : top + side, left : left + side] += 0.9
            boxes.append([left, top, left + side, top + side])
        return {"image": image}, {"boxes": torch.tensor(boxes).float(), "labels": torch.zeros(len(boxes)).long()}


def loss(grid: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
    count("loss")
    wanted, found = torch.zeros(len(grid), CELLS, CELLS), torch.zeros(())
    for row, target in enumerate(targets):
        for box in target["boxes"]:
            x, y = ((box[:2] + box[2:]) / 2 / CELL).long().tolist()
            wanted[row, y, x] = 1
            found = found + functional.smooth_l1_loss(grid[row, 1:, y, x], box / SIDE, reduction="sum", beta=0.05)
    objects = functional.binary_cross_entropy_with_logits(grid[:, 0], wanted, pos_weight=torch.tensor(4.0))
    return objects + found / wanted.sum().clamp_min(1)


class BoxMetric(MeanAveragePrecision):
    """Mean average precision of what the grid says."""

    def update(self, grid: Tensor, targets: list[dict[str, Tensor]]) -> None:
        count("metric")
        found = []
        for cells in grid.flatten(2):
            scores, boxes = cells[0].sigmoid(), cells[1:].t() * SIDE
            sure = scores > 0.3
            labels = torch.zeros(int(sure.sum()), dtype=torch.long)
            found.append({"boxes": boxes[sure], "scores": scores[sure], "labels": labels})
        super().update(found, targets)


def count(what: str) -> None:
    calls[what] += 1
    if os.environ.get("KILLED_AT") == f"{what} {calls[what]}":
        os.kill(os.getpid(), signal.SIGKILL)
