"""What a metric gives a network on samples, in the form that two networks are compared in. Starts without torch.

Where a metric is the mean of a value for each sample, these values are kept. Where it is not (an F1, a correlation),
the metric without each group of samples is kept: the same groups for every network, so that two networks still pair.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitladder.errors import UserError
from bitladder.running.files import replacing

__all__ = [
    "FP32",
    "GROUPS",
    "NETWORK",
    "SIMULATION",
    "Scores",
    "leave_out",
    "read_scores",
    "save_scores",
]

FP32, SIMULATION, NETWORK = "fp32", "simulation", "network"
"""Whose scores a file holds: NETWORK's are those of the network that was scored, the other its reference's."""

GROUPS = 20
"""Groups of samples that are left out one after the other, at most: each costs the metric once."""


PARTS = ("values", "left_out")


@dataclass(frozen=True)
class Scores:
    """A metric on samples, in the seeded order.

    Either `values` has one number for each sample, whose mean the metric is, or `left_out` has the metric without each
    group of samples. With neither, nothing can be said of the metric's noise.
    """

    samples: int
    total: float
    values: np.ndarray | None = None
    left_out: np.ndarray | None = None


def leave_out(metric: Callable[[Sequence[int]], float], samples: int) -> np.ndarray | None:
    """Compute a metric, called with the rows to take, without each group of rows; None where there is one group."""
    rows = np.arange(samples)
    groups = np.array_split(rows, min(GROUPS, samples))
    if len(groups) < 2:
        return None
    return np.array([metric(np.delete(rows, group).tolist()) for group in groups], dtype=np.float64)


def save_scores(path: Path, scores: Mapping[str, Scores]) -> None:
    """Write the scores of networks on the same samples, by their names."""
    from safetensors.numpy import save_file

    arrays: dict[str, np.ndarray] = {}
    for name, one in scores.items():
        arrays[f"{name}.total"] = np.array([one.total, one.samples], dtype=np.float64)
        for part in PARTS:
            if (array := getattr(one, part)) is not None:
                arrays[f"{name}.{part}"] = np.ascontiguousarray(array, dtype=np.float64)
    with replacing(path) as temporary:
        save_file(dict(sorted(arrays.items())), temporary)


def read_scores(path: Path) -> dict[str, Scores]:
    """Read what save_scores wrote; nothing of a rung that was skipped. Raise UserError if it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        if not path.stat().st_size:
            return {}
        arrays = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `dvc repro`") from None
    except SafetensorError as error:
        raise UserError(f"{path}: damaged ({error}); delete it and run `dvc repro`") from None
    parts: dict[str, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        name, _, part = key.rpartition(".")
        parts.setdefault(name, {})[part] = array
    return {
        name: Scores(int(found["total"][1]), float(found["total"][0]), *(found.get(part) for part in PARTS))
        for name, found in parts.items()
    }
