"""What Olive calls for samples: an .npz file of arrays, samples x ..., by the names of the inputs, and `labels`."""

from typing import Any

import numpy as np
import torch
from olive.data.registry import Registry


class Samples(torch.utils.data.Dataset):
    """One sample at a time, with its label."""

    def __init__(self, path: str) -> None:
        self.arrays = dict(np.load(path))
        self.labels = torch.from_numpy(self.arrays.pop("labels"))

    def __len__(self) -> int:  # noqa: D105
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:  # noqa: D105
        return {name: torch.from_numpy(values[index]) for name, values in self.arrays.items()}, self.labels[index]


@Registry.register_dataset("bitladder_samples")
def bitladder_samples(data_dir: str, **_: Any) -> Samples:
    """Give the samples of a file."""
    return Samples(data_dir)
