"""A metric sample by sample, from outputs that are there as a whole; what two networks are compared by."""

import math
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bitladder.errors import UserError
from bitladder.network.evaluate import Outputs
from bitladder.paths import FP32_SCORES
from bitladder.statistics.scores import NETWORK, Scores, read_scores, resample, save_scores
from bitladder.tasks.task import Metric

__all__ = ["save_beside_fp32", "scores_of"]

EQUAL = 1e-6  # relative: sums of floats in another order


def scores_of(metric: Metric, outputs: Outputs, targets: Tensor) -> Scores:
    """Score outputs sample by sample where the metric is the mean over samples, else on resamples as a whole.

    A metric that refuses some of the resamples, for lack of a class in them, has neither.
    """
    total, samples = metric(outputs, targets), len(targets)

    def of_rows(rows: np.ndarray) -> float:
        index = torch.from_numpy(rows)
        return metric({name: values[index] for name, values in outputs.items()}, targets[index])

    values = _each(metric, outputs, targets)
    if values is not None and math.isclose(
        values.mean(), total, rel_tol=EQUAL, abs_tol=EQUAL * float(np.abs(values).mean())
    ):
        return Scores(samples, total, values)
    try:
        return Scores(samples, total, None, *resample(of_rows, samples))
    except UserError:
        return Scores(samples, total)


def save_beside_fp32(path: Path, metric: Metric, outputs: Outputs, targets: Tensor) -> None:
    """Write a network's scores on the evaluation split, beside FP32's."""
    save_scores(path, {**read_scores(FP32_SCORES), NETWORK: scores_of(metric, outputs, targets)})


def _each(metric: Metric, outputs: Outputs, targets: Tensor) -> np.ndarray | None:
    """Give the metric of each sample alone; None where it has none for one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a single sample lacks
            found = [
                metric({name: values[i : i + 1] for name, values in outputs.items()}, targets[i : i + 1])
                for i in range(len(targets))
            ]
    except UserError:
        return None
    return np.array(found)
