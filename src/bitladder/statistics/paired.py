"""Two networks compared on the same samples: what the second loses, and how far that may be chance."""

import math
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from bitladder.statistics.bootstrap import bca_of_values
from bitladder.statistics.jackknife import jackknife, standard_error
from bitladder.statistics.score_interval import score_interval
from bitladder.statistics.scores import Scores

__all__ = ["BOOTSTRAP", "JACKKNIFE", "SCORE", "Paired", "compare_paired", "distance", "gain", "z_of"]

SCORE = "Tango's score interval"
BOOTSTRAP = "BCa bootstrap over samples"
JACKKNIFE = "jackknife over groups of samples"


LAST_BIT = 1e-9  # relative


@dataclass(frozen=True)
class Paired:
    """What a metric loses between two networks, on the same samples.

    `lost` and `won` count samples that the second network does worse and better on; None where the metric has no value
    for a sample. `low` and `high` are the interval's ends; None where there can be none, and `method` says why.
    """

    samples: int
    lost: int | None
    won: int | None
    difference: float
    low: float | None
    high: float | None
    method: str

    @property
    def disagree(self) -> float | None:
        """Share of samples on which the two do not do equally well."""
        return None if self.lost is None or self.won is None else (self.lost + self.won) / self.samples

    def distance(self) -> "Paired":
        """Give the same of the distance between the two, whichever is better."""
        if self.low is None or self.high is None:
            return replace(self, difference=abs(self.difference))
        low, high = distance(self.low, self.high)
        return replace(self, difference=abs(self.difference), low=low, high=high)


def distance(low: float, high: float) -> tuple[float, float]:
    """Give the interval of a number's absolute value from the number's."""
    return (0.0 if low <= 0 <= high else min(abs(low), abs(high))), max(abs(low), abs(high))


def z_of(confidence: float) -> float:
    """Give how many standard errors an interval reaches to each side."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def compare_paired(reference: Scores, scores: Scores, higher_is_better: bool, confidence: float) -> Paired:
    """Compare two networks' scores on the same samples. `difference` is positive where the second is worse.

    The interval always holds the difference that was measured.
    """
    sign, samples = (1 if higher_is_better else -1), scores.samples
    difference, lost, won = sign * (reference.total - scores.total), None, None
    if reference.values is not None and scores.values is not None:
        loss = sign * (reference.values - scores.values)
        lost, won = int((loss > 0).sum()), int((loss < 0).sum())
    ends, method = _interval(reference, scores, sign, confidence)
    low, high = (min(ends[0], difference), max(ends[1], difference)) if ends else (None, None)
    return Paired(samples, lost, won, difference, low, high, method)


def gain(cheaper: Scores, costlier: Scores, higher_is_better: bool) -> tuple[float, float]:
    """Give by how much the second does better than the first on the same samples, and the standard error of that.

    By the one-standard-error rule (Breiman et al., "Classification and Regression Trees", 1984) the costlier of two is
    taken only where it gains more than that.
    """
    better = costlier.total - cheaper.total
    error = 0.0
    if cheaper.values is not None and costlier.values is not None:
        # about no gain: one sample that differs gains its standard error, and no more
        error = math.hypot(*(costlier.values - cheaper.values)) / costlier.samples * (1 + LAST_BIT)
    elif cheaper.left_out is not None and costlier.left_out is not None:
        error = standard_error(costlier.left_out - cheaper.left_out)
    return (better if higher_is_better else -better), error


Ends = tuple[float, float]


def _interval(reference: Scores, scores: Scores, sign: int, confidence: float) -> tuple[Ends | None, str]:
    """Give the ends of the interval, and the method; None where there can be none, and why."""
    if scores.samples < 2:
        return None, "no interval: one sample tells nothing of others"
    if reference.values is not None and scores.values is not None:
        before, after = sign * reference.values, sign * scores.values
        if _are_outcomes(reference.values) and _are_outcomes(scores.values):
            lost, won = int((before > after).sum()), int((before < after).sum())
            return score_interval(lost, won, scores.samples, z_of(confidence)), SCORE
        return bca_of_values(before, after, confidence), BOOTSTRAP
    if reference.left_out is None or scores.left_out is None:
        return None, "no interval: the metric's noise is not known"
    if len(reference.left_out) != len(scores.left_out):
        return None, "no interval: the samples of the two were not grouped alike"
    loss = sign * (reference.total - scores.total)
    left_out = sign * (reference.left_out - scores.left_out)
    size = max(abs(reference.total), abs(scores.total))
    if not size and not np.ptp(left_out):
        return None, "no interval: the metric is 0 whatever is left out, which tells not how large it can be"
    return jackknife(loss, left_out, scores.samples, size, confidence), JACKKNIFE


def _are_outcomes(values: np.ndarray) -> bool:
    """Whether a sample is either right or wrong."""
    return bool(np.isin(values, (0.0, 1.0)).all())
