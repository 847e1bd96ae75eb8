"""Any torchvision classifier over images: FOLDER/SPLIT/CLASS/IMAGE, or FOLDER/CLASS/IMAGE, which is split by seed."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitladder.errors import UserError
from bitladder.tasks.task import SPLITS, Metric, Split, Task

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

    def splits(seed: int) -> dict[str, Split]:
        if own_splits:
            return {name: _load(root / name, classes, side) for name in SPLITS}
        everything = _load(root, classes, side)
        order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(seed))
        first, second = round(SHARES[0] * len(order)), round((SHARES[0] + SHARES[1]) * len(order))
        parts = (order[:first], order[first:second], order[second:])
        images, targets = everything.inputs["image"], everything.targets
        return {name: Split({"image": images[part]}, targets[part]) for name, part in zip(SPLITS, parts, strict=True)}

    return Task(network, splits, functional.cross_entropy, Metric("accuracy", _accuracy))


def _load(folder: Path, classes: list[str], side: int) -> Split:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    steps = [v2.ToImage(), v2.Resize(side, antialias=True), v2.CenterCrop(side), v2.ToDtype(torch.float32, scale=True)]
    images = ImageFolder(str(folder), v2.Compose([*steps, v2.Normalize(MEAN, DEVIATION)]))
    if images.classes != classes:
        raise UserError(f"task.args.folder: {folder} has the classes {images.classes}, and not {classes}")
    pixels, labels = zip(*images, strict=True)
    return Split({"image": torch.stack([torch.Tensor(one) for one in pixels])}, torch.tensor(labels))


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from bitladder.running.files import load_tensors

        return load_tensors(path)
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _accuracy(logits: Tensor, targets: Tensor) -> float:
    return (logits.argmax(1) == targets).double().mean().item()
