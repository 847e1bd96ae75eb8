"""Any torchvision classifier over images: FOLDER/SPLIT/CLASS/IMAGE, or FOLDER/CLASS/IMAGE, which is split by seed."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from bitladder.errors import UserError
from bitladder.tasks.task import SPLITS, Metric, Task

__all__ = ["task"]

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's channels

SHARES = (0.7, 0.1, 0.2)  # of the splits, where the folder has none


def task(folder: str, model: str, weights: str | None = None, side: int = 224) -> Task:
    """Make the task.

    Args:
        folder: of the images; name it under task.files too.
        model: of torchvision, such as `resnet18`.
        weights: a file of the state_dict, `.safetensors` or as torch.save writes it; without one the network is trained
            from scratch, by `train`.
        side: of the images in pixels; they are resized and cropped in the middle.

    """
    import torchvision

    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"task.args.folder: {folder}: no such folder")
    if model not in torchvision.models.list_models(torchvision.models):
        raise UserError(f"task.args.model: torchvision has no classifier {model!r}")
    if weights and not Path(weights).is_file():
        raise UserError(f"task.args.weights: {weights}: no such file")
    own_splits = all((root / name).is_dir() for name in SPLITS)
    classes = sorted(path.name for path in (root / SPLITS[0] if own_splits else root).iterdir() if path.is_dir())
    if len(classes) < 2:
        raise UserError(f"task.args.folder: {folder}: holds {len(classes)} folders of classes; two are the least")

    def network() -> nn.Module:
        built = torchvision.models.get_model(model, weights=None, num_classes=len(classes))
        if weights:
            built.load_state_dict(_read(Path(weights)))
        return built

    @cache
    def opened(folder: Path) -> _Images:  # to list many files takes seconds
        return _open(folder, classes, side)

    def splits(seed: int) -> dict[str, Dataset]:
        if own_splits:
            return {name: opened(root / name) for name in SPLITS}
        everything = opened(root)
        order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(seed)).tolist()
        first, second = round(SHARES[0] * len(order)), round((SHARES[0] + SHARES[1]) * len(order))
        parts = (order[:first], order[first:second], order[second:])
        return {name: everything.part(rows) for name, rows in zip(SPLITS, parts, strict=True)}

    return Task(network, splits, functional.cross_entropy, Metric("accuracy", _accuracy))


class _Images(Dataset):
    """Images in FOLDER/CLASS/, read as they are asked for; `samples` lists their paths and classes."""

    def __init__(self, samples: Sequence[tuple[str, int]], side: int) -> None:
        from torchvision.transforms import v2

        steps = [v2.ToImage(), v2.Resize(side, antialias=True), v2.CenterCrop(side)]
        self.samples, self.side = samples, side
        self._steps = v2.Compose(
            [*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, DEVIATION), v2.ToPureTensor()]
        )

    def part(self, rows: Sequence[int]) -> "_Images":
        """Give the images with these indices."""
        return _Images([self.samples[row] for row in rows], self.side)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], int]:
        from PIL import Image

        path, label = self.samples[index]
        with Image.open(path) as image:
            return {"image": self._steps(image.convert("RGB"))}, label


def _open(folder: Path, classes: list[str], side: int) -> _Images:
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise UserError(f"task.args.folder: {' '.join(str(error).split())}") from None
    if found.classes != classes:
        raise UserError(f"task.args.folder: {folder} has the classes {found.classes}, and not {classes}")
    return _Images(found.samples, side)


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from bitladder.running.files import load_tensors

        return load_tensors(path)
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    return (logits.argmax(1) == targets).double()
