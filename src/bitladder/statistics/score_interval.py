"""The interval of a difference between two shares of the same samples: Tango's score interval.

T. Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample design",
Statistics in Medicine 17 (1998). It holds the truth as often as it says from about 5 samples that disagree on, and more
often with fewer (benchmarks/intervals.py), where the exact test's interval is too wide throughout.
"""

import math
from collections.abc import Callable

__all__ = ["score_interval"]

HALVINGS = 60  # of an interval no longer than 2: to the last bit of a double


def score_interval(lost: float, won: float, samples: float, z: float) -> tuple[float, float]:
    """Give the interval of the share lost less the share won, at `z` standard errors.

    Counts need not be whole: what more samples of the same kind would say is asked, too.
    """
    difference = (lost - won) / samples

    def score(delta: float) -> float:
        """Tell how many standard errors the counts are from a difference of `delta`."""
        linear = -lost - won + (2 * samples - lost + won) * delta
        root = math.sqrt(max(0.0, linear**2 + 8 * samples * won * delta * (1 - delta)))
        variance = samples * ((root - linear) / (2 * samples) + delta * (1 - delta))
        away = lost - won - samples * delta
        return away / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, away)

    low = _turn(lambda delta: score(delta) > z, -1.0, difference)
    high = _turn(lambda delta: score(delta) > -z, difference, 1.0)
    return low, high


def _turn(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Find where what holds at `low` ends to hold."""
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return (low + high) / 2
