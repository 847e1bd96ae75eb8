"""Bootstrapped intervals (BCa) of what a metric loses, where its results are no zeros and ones.

B. Efron, "Better bootstrap confidence intervals", JASA 82 (1987). The seed is fixed: the same results give the same
interval.
"""

from statistics import NormalDist

import numpy as np

__all__ = ["bca_of_values"]

DRAWN = 9_999  # resamples of values
BATCH = 100  # of them at a time: memory stays small
MOST = 5_000  # values; of more, neighbours are averaged: the work grows with the square
SEED = 20


def bca_of_values(reference: np.ndarray, values: np.ndarray, confidence: float) -> tuple[float, float]:
    """Give the interval of the mean of `reference` less that of `values`, samples drawn in pairs."""
    loss = reference - values
    if np.ptp(loss) == 0:
        return _of_no_difference(reference, values, confidence)
    from scipy.stats import bootstrap  # a second, which zeros and ones never need

    pairs = [_averaged(reference), _averaged(values)]
    found = bootstrap(
        pairs,
        lambda first, second, axis: first.mean(axis) - second.mean(axis),
        n_resamples=DRAWN,
        batch=BATCH,
        paired=True,
        confidence_level=confidence,
        method="BCa",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    shift = loss.mean() - (pairs[0].mean() - pairs[1].mean())  # groups may differ by a sample
    return float(found.low + shift), float(found.high + shift)


def _of_no_difference(reference: np.ndarray, values: np.ndarray, confidence: float) -> tuple[float, float]:
    """Give the interval where every sample loses the same, so that nothing is left to draw.

    Of n samples without an exception, a share of z^2 / (n + z^2) may be exceptions (the score interval's end), by no
    more than results were seen to differ among each other.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    reach = float(np.ptp(np.concatenate([reference, values]))) * z**2 / (len(values) + z**2)
    loss = float((reference - values).mean())
    return loss - reach, loss + reach


def _averaged(values: np.ndarray) -> np.ndarray:
    if len(values) <= MOST:
        return values
    return np.array([group.mean() for group in np.array_split(values, MOST)])
