"""What peak memory on a device is made of."""

from collections.abc import Mapping

import numpy as np

from bitladder.latency.work import FEATURES, Work, features

__all__ = ["MEMORY_FEATURES", "memory_features"]

MEMORY_FEATURES = {
    "runtime": "the runtime itself",
    "ops": "what is kept of each operation",
    "weight_mb": "weights, and the context binary that holds them",
    "border_mb": "buffers of inputs and outputs",
}


def memory_features(work: Mapping[str, Work], precision: str) -> np.ndarray:
    """Give the value of each of MEMORY_FEATURES for a graph at a precision; sizes in MB."""
    values = dict(zip(FEATURES, features(work, precision), strict=True))
    ops = sum(of.ops for of in work.values())
    return np.array([values["graph"], ops, values["weight_bytes"] * 100, values["border_bytes"] * 100])
