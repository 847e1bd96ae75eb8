"""A goal held against a figure: what came of it."""

import math
from dataclasses import dataclass

from bitladder.records import GoalState, GoalVerdict
from bitladder.statistics.limits import is_within

__all__ = ["Held", "Miss", "at_most", "unknown"]


@dataclass(frozen=True)
class Miss:
    """A goal that a rung misses. `excess` is by how much, as a share of the limit; infinite where nothing is known.

    `soc` names a further SoC on which it is missed; None: off target, or on target.soc.
    """

    goal: str
    text: str
    excess: float
    soc: str | None = None


@dataclass(frozen=True)
class Held:
    """One goal: its verdict; the miss, if it is one; a sentence, where the samples do not decide it."""

    verdict: GoalVerdict
    miss: Miss | None = None
    undecided: str | None = None


def at_most(goal: str, what: str, value: float | None, limit: float, soc: str) -> Held:
    """Judge a figure that has no chance in it, such as bytes."""
    if value is None:
        return unknown(goal, f"{what} not measured, and {goal} asks for {limit:g}", soc, limit)
    # whole numbers, such as bytes, are written as they are: nothing is rounded off
    if value <= limit or (isinstance(value, float) and is_within(value, limit)):
        return Held(_verdict(goal, what, soc, limit, value, "holds"))
    excess = (value - limit) / limit if limit else math.inf
    miss = Miss(goal, f"{what} {value:,.6g} over {goal} {limit:,.6g}", excess)
    return Held(_verdict(goal, what, soc, limit, value, "fails"), miss)


def unknown(goal: str, text: str, soc: str, limit: float | None = None) -> Held:
    """Miss a goal whose figure was not measured, or does not count."""
    return Held(_verdict(goal, text, soc, limit, None, "fails"), Miss(goal, text, math.inf))


def _verdict(
    goal: str, what: str, soc: str, limit: float | None, value: float | None, verdict: GoalState
) -> GoalVerdict:
    return GoalVerdict(
        goal=goal,
        what=what,
        soc=soc,
        limit=limit,
        value=value,
        low=None,
        high=None,
        verdict=verdict,
        samples_to_settle=None,
    )
