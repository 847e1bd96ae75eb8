"""A rung's scores beside FP32's and the simulation's on the same samples, with intervals. Starts without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitladder.records import GoalVerdict
from bitladder.statistics.paired import Paired, compare_paired
from bitladder.statistics.scores import FP32, NETWORK, SIMULATION, Scores

__all__ = ["OFF_TARGET", "Compared", "compare_scores", "figures_of", "gap_figures"]

OFF_TARGET = "off"
"""The place of scores off target; on target it is the SoC's name."""

RANK = ("fails", "undecided", "holds")


@dataclass(frozen=True)
class Compared:
    """The comparisons of a rung in one place; each is None where there are no scores for it.

    `drop` is with FP32, `gap` with the simulation, `shortfall` with a metric of 1 on each sample.
    """

    drop: Paired | None = None
    gap: Paired | None = None
    shortfall: Paired | None = None


def compare_scores(scores: Mapping[str, Scores], higher_is_better: bool, confidence: float) -> Compared:
    """Compare what a file of scores holds."""
    network = scores.get(NETWORK)
    if network is None:
        return Compared()

    def against(reference: Scores | None) -> Paired | None:
        return None if reference is None else compare_paired(reference, network, higher_is_better, confidence)

    return Compared(against(scores.get(FP32)), against(scores.get(SIMULATION)), against(_ones(network)))


def figures_of(paired: Paired | None, verdicts: list[GoalVerdict], prefix: str = "") -> dict[str, Any]:
    """Give a drop's interval and what goes with it by the names that records have for them."""
    if paired is None:
        return {f"{prefix}verdict": _worst(verdicts), f"{prefix}samples_to_settle": _most(verdicts)}
    found = {
        "drop_low": paired.low,
        "drop_high": paired.high,
        "lost": paired.lost,
        "won": paired.won,
        "disagree": paired.disagree,
        "verdict": _worst(verdicts),
        "samples": paired.samples,
        "samples_to_settle": _most(verdicts),
        "method": paired.method,
    }
    return {prefix + name: value for name, value in found.items()}


def gap_figures(paired: Paired | None, verdicts: list[GoalVerdict]) -> dict[str, Any]:
    """Give a gap's interval likewise."""
    found = figures_of(paired and paired.distance(), verdicts)
    return {f"gap_{name.removeprefix('drop_')}": value for name, value in found.items()}


def _ones(scores: Scores) -> Scores:
    """Give a network that scores 1 on every sample, and without any."""
    values, left_out = (None if part is None else np.ones_like(part) for part in (scores.values, scores.left_out))
    return Scores(scores.samples, 1.0, values, left_out)


def _worst(verdicts: list[GoalVerdict]) -> Any:
    return min((one.verdict for one in verdicts), key=RANK.index, default=None)


def _most(verdicts: list[GoalVerdict]) -> int | None:
    return max((one.samples_to_settle for one in verdicts if one.samples_to_settle), default=None)
