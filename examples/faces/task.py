"""Is this a face? The last network of MTCNN, on the faces and other crops that scikit-image has of LFW."""

import shutil
from importlib.metadata import files

import torch
from skimage.data import lfw_subset
from torch import Tensor, nn
from torch.nn import functional

from bitladder.tasks.task import SPLITS, Metric, Split, Task

SIDE = 48


def task(samples: int) -> Task:
    return Task(model, lambda seed: splits(seed, samples), loss, Metric("accuracy", accuracy))


def model() -> nn.Module:
    """Take N x 3 x 48 x 48 in [-1, 1]; give the box's correction, five points, and the odds of no face and a face."""
    from facenet_pytorch import ONet

    network = ONet(pretrained=False)
    network.load_state_dict(torch.load("net.pth", weights_only=True))
    return network


def splits(seed: int, samples: int) -> dict[str, Split]:
    """Give each split a third of the 100 faces and 100 others: shifted, mirrored, lighter and darker."""
    draw = torch.Generator().manual_seed(seed)
    images, targets = torch.from_numpy(lfw_subset()).float()[:, None], torch.arange(200).lt(100).long()
    order, found = torch.randperm(200, generator=draw), {}
    for index, name in enumerate(SPLITS):
        chosen = order[index::3]
        chosen = chosen[torch.randint(len(chosen), (samples,), generator=draw)]
        large = functional.interpolate(images[chosen], (SIDE + 8, SIDE + 8), mode="bilinear")
        left, top, mirrored = (torch.randint(high, (samples,), generator=draw).tolist() for high in (9, 9, 2))
        light = 0.7 + 0.6 * torch.rand(samples, 1, 1, 1, generator=draw)
        crops = torch.stack([
            one[:, y : y + SIDE, x : x + SIDE].flip(-1) if turn else one[:, y : y + SIDE, x : x + SIDE]
            for one, x, y, turn in zip(large, left, top, mirrored, strict=True)
        ])  # fmt: skip
        pixels = (light * crops).clamp(0, 1).expand(-1, 3, -1, -1)
        found[name] = Split({"image": (255 * pixels - 127.5) / 128}, targets[chosen])
    return found


def accuracy(outputs: dict[str, Tensor], faces: Tensor) -> Tensor:
    return (outputs["output_2"].argmax(1) == faces).double()


def loss(outputs: dict[str, Tensor], faces: Tensor) -> Tensor:
    return functional.nll_loss(outputs["output_2"].clamp(min=1e-6).log(), faces)


if __name__ == "__main__":  # takes the weights out of their package
    shutil.copy(next(file for file in files("facenet-pytorch") or () if file.name == "onet.pt").locate(), "net.pth")
