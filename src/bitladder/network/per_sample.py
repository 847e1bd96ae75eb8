"""A metric sample by sample, or without each group of samples where it has no value for a sample."""

import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np

from bitladder.errors import UserError
from bitladder.statistics.scores import Scores, leave_out
from bitladder.tasks.metric import MetricState

__all__ = ["scores_of"]

EQUAL = 1e-6  # relative: sums of floats in another order


def scores_of(state: MetricState) -> Scores:
    """Give what a metric's state says of its samples.

    A function that gives one number may still be the mean of what it gives for each sample alone; if not, it is called
    without each group of samples. One that refuses some of these, for lack of a class in them, says nothing of its
    noise.
    """
    total = state.value()
    if state.values is not None:
        return Scores(len(state.values), total, state.values.numpy())
    if state.groups is not None:
        return _in_groups(state.samples, total, state.of_groups, state.groups)
    if not state.holds:
        return Scores(state.samples, total)
    values = _each(state)
    if values is not None and math.isclose(values.mean(), total, rel_tol=EQUAL, abs_tol=EQUAL * np.abs(values).mean()):
        return Scores(len(values), total, values)
    return _in_groups(state.samples, total, state.of_rows, state.samples)


def _each(state: MetricState) -> np.ndarray | None:
    """Give the metric of each sample alone; None where it has none for one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a single sample lacks
            return np.array([state.of_rows([row]) for row in range(state.samples)])
    except UserError:
        return None


def _in_groups(samples: int, total: float, metric: Callable[[Sequence[int]], float], parts: int) -> Scores:
    try:
        return Scores(samples, total, left_out=leave_out(metric, parts))
    except UserError:
        return Scores(samples, total)
