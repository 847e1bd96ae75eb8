"""Photographs that come in packages (scikit-image, scikit-learn, PyVision), cut into crops: nothing to download."""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from bitladder.errors import UserError
from bitladder.tasks.builtin.extras import needs

__all__ = ["SIDE", "crops"]

SIDE = 224  # pixels, the side of ImageNet networks

# What the EfficientNet-Lite networks were trained on: bytes less 127, over 128 (their authors' own preprocessing)
MEAN, DEVIATION = 127 / 255, 128 / 255

# PyVision's. Neighbours are often of one place, so it is the last of them that are held out, not every third
_PYVISION = tuple(f"NONFACE_{number}.jpg" for number in range(1, 52))

_SEEN = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png",
    "grass.png", "horse.png", "moon.png", "motorcycle_left.png", "page.png", "retina.jpg", "rocket.jpg",
    *_PYVISION[:36],
)  # fmt: skip

# A network is never judged on crops of photographs that it was trained or calibrated on
PHOTOGRAPHS = {
    "train": _SEEN,
    "calibration": _SEEN,
    "evaluation": (
        "china.jpg", "flower.jpg", "hubble_deep_field.jpg", "ihc.png", "gravel.png",
        *_PYVISION[36:],
    ),
}  # fmt: skip

SCALE = (0.05, 0.6)  # area of a crop, as a share of its photograph's


def crops(split: str, count: int, seed: int) -> Tensor:
    """Cut `count` random resized crops, as evenly over the split's photographs as can be.

    Returns: count x 3 x 224 x 224, in about [-1, 1], as EfficientNet-Lite takes them.
    """
    from torchvision.transforms.v2 import RandomResizedCrop

    if type(count) is not int or count < 1:
        raise UserError(f"task.args.{split}: must be a whole number of crops, at least 1, not {count!r}")
    photographs = [_load(name) for name in PHOTOGRAPHS[split]]
    cut = RandomResizedCrop(SIDE, scale=SCALE, antialias=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.stack([(cut(photographs[i % len(photographs)]) - MEAN) / DEVIATION for i in range(count)])


def _load(name: str) -> Tensor:
    """Give a photograph as 3 x height x width in [0, 1]; grey ones three times."""
    import numpy as np

    with needs("efficientnet", "scikit-image, scikit-learn and pyvision-toolkit"):
        from skimage.data import data_dir
        from skimage.io import imread
        from sklearn.datasets import load_sample_image

        if name in _PYVISION:
            pixels = imread(_pyvision() / name)
        elif name in ("china.jpg", "flower.jpg"):
            pixels = load_sample_image(name)
        else:
            pixels = imread(f"{data_dir}/{name}")
    image = torch.from_numpy(np.array(pixels)).float().div(255)
    return image[..., :3].permute(2, 0, 1) if image.ndim == 3 else image.expand(3, *image.shape)


def _pyvision() -> Path:
    """Find PyVision's photographs, without its code, which imports OpenCV."""
    found = find_spec("pyvision")
    for place in (found and found.submodule_search_locations) or ():
        if (folder := Path(place) / "data" / "nonface").is_dir():
            return folder
    raise ImportError("pyvision/data/nonface is not there")
