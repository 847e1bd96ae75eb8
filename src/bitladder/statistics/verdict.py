"""Whether a goal holds, fails, or cannot be told from the samples that there are; and how many would tell."""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Literal

from bitladder.statistics.paired import SCORE, Paired, distance, z_of
from bitladder.statistics.score_interval import score_interval

__all__ = ["POWER", "Judged", "judged", "samples_for", "samples_to_settle"]

Judged = Literal["holds", "fails", "undecided"]

POWER = 0.8
"""How often so many samples settle it, if the truth is as was measured: the field's usual 80 %."""

BETA = NormalDist().inv_cdf(POWER)

MOST = 10**12  # samples; of more, nothing is said


def judged(low: float | None, high: float | None, limit: float) -> Judged:
    """Judge by an interval a figure that may be `limit` at most."""
    if low is None or high is None:
        return "undecided"
    return "holds" if high <= limit else "fails" if low > limit else "undecided"


def samples_to_settle(paired: Paired, limit: float, confidence: float, of_distance: bool = False) -> int | None:
    """Give how many samples would tell on which side of `limit` the difference is, were it as was measured.

    `of_distance`: the limit is of the distance between the two. None where no number of samples would, or nothing is
    known of the noise.
    """
    if paired.low is None or paired.high is None:
        return None
    drop = abs(paired.difference) if of_distance else paired.difference
    if paired.disagree is not None and paired.method == SCORE:
        return samples_for(limit, paired.disagree, drop, confidence, of_distance)
    up, down = paired.high - paired.difference, paired.difference - paired.low
    reach = max(up, down) if of_distance else up if drop <= limit else down
    if drop == limit:
        return None
    samples = paired.samples * ((1 + BETA / z_of(confidence)) * reach / (limit - drop)) ** 2
    return math.ceil(samples) if samples <= MOST else None


def samples_for(limit: float, disagree: float, drop: float, confidence: float, of_distance: bool = False) -> int | None:
    """Give how many samples tell a drop from a limit, by the share of samples that disagree with FP32 on them."""

    def settles(samples: float) -> bool:
        # Of POWER of all draws the least favourable one: its drop is nearer to the limit
        chance = BETA * (max(0.0, disagree - drop**2) / samples) ** 0.5
        seen = min(1.0, drop + chance) if drop <= limit else max(-1.0, drop - chance)
        share = max(disagree, abs(seen))
        lost, won = (share + seen) / 2 * samples, (share - seen) / 2 * samples
        ends = score_interval(lost, won, samples, z_of(confidence))
        return judged(*(distance(*ends) if of_distance else ends), limit) != "undecided"

    return _least(settles)


def _least(settles: Callable[[float], bool]) -> int | None:
    """Find the least number of samples that settles; None where that would be more than MOST."""
    high = 2
    while not settles(high):
        high *= 2
        if high > MOST:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if settles(middle) else (middle, high)
    return high
