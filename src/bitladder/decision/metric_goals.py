"""The goals of a metric held against what was measured, and against how far that may be chance."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from bitladder.decision.comparisons import Compared
from bitladder.decision.figures import figure, interval
from bitladder.decision.held import Held, Miss
from bitladder.errors import UserError
from bitladder.params import GoalsParams, TargetParams
from bitladder.records import GoalVerdict
from bitladder.statistics.limits import is_within
from bitladder.statistics.paired import Paired, distance
from bitladder.statistics.verdict import judged, samples_to_settle

__all__ = ["accuracy_goals", "gap_goals"]


@dataclass(frozen=True)
class _Figure:
    """What a goal is of. `paired` is the comparison that it rests on, whose difference may be `bound` at most.

    `shown` gives the figure that such a difference means; `at_least`: the goal is the least value, not the largest.
    """

    goal: str
    what: str
    value: float
    limit: float
    paired: Paired | None
    bound: float
    shown: Callable[[float], float]
    of_distance: bool = False
    at_least: bool = False


def accuracy_goals(
    goals: GoalsParams,
    where: str,
    value: float,
    drop: float,
    fp32: tuple[str, bool],
    compared: Compared,
    soc: str | None = None,
) -> list[Held]:
    """Judge a metric's drop and value.

    Args:
        goals: the limits.
        where: off target or on it, in words.
        value: the metric.
        drop: how much worse it is than FP32's on the same samples.
        fp32: the metric's name, and whether higher is better.
        compared: the comparisons on these samples.
        soc: the SoC; None: off target.

    Raises UserError where `min_value` is asked of a metric of which lower is better.

    """
    metric, higher = fp32
    figures = []
    if (limit := goals.max_drop) is not None:
        figures.append(_Figure("goals.max_drop", f"drop {where}", drop, limit, compared.drop, limit, float))
    if (limit := goals.max_relative_drop) is not None:
        reference = value + (drop if higher else -drop)
        figures.append(_relative("goals.max_relative_drop", f"drop {where}", drop, limit, reference, compared.drop))
    if (limit := goals.min_value) is not None:
        if not higher:
            raise UserError(f"params.yaml: goals.min_value: of {metric} lower is better; use goals.max_drop instead")
        what, bound = f"{metric} {where}", 1 - limit
        shown: Callable[[float], float] = lambda shortfall: 1 - shortfall  # noqa: E731
        figures.append(_Figure("goals.min_value", what, value, limit, compared.shortfall, bound, shown, at_least=True))
    return [_held(goals, figure, soc) for figure in figures]


def gap_goals(
    goals: GoalsParams, settings: TargetParams, gap: float, reference: float, compared: Compared, soc: str | None
) -> list[Held]:
    """Judge the gap between the target and the simulation, whose metric is `reference`."""
    what, figures = "gap between target and simulation", []
    if (limit := settings.max_gap) is not None:
        figures.append(_Figure("target.max_gap", what, gap, limit, compared.gap, limit, float, of_distance=True))
    if (limit := settings.max_relative_gap) is not None:
        figures.append(
            _relative("target.max_relative_gap", what, gap, limit, reference, compared.gap, of_distance=True)
        )
    return [_held(goals, figure, soc) for figure in figures]


def _relative(
    goal: str, what: str, value: float, limit: float, reference: float, paired: Paired | None, of_distance: bool = False
) -> _Figure:
    """Give a figure as a share of a reference. An error of 0 against 0 is no loss, and any other is endless."""
    size = abs(reference)

    def shown(difference: float) -> float:
        return difference / size if size else math.inf if difference > 0 else 0.0

    return _Figure(goal, f"relative {what}", shown(value), limit, paired, limit * size, shown, of_distance)


def _held(goals: GoalsParams, figure: _Figure, soc: str | None) -> Held:
    """Judge by the interval; miss it by what was measured, or where that is refused, by not knowing."""
    paired, low, high = figure.paired, None, None
    if paired and paired.low is not None and paired.high is not None:
        low, high = distance(paired.low, paired.high) if figure.of_distance else (paired.low, paired.high)
    state = judged(low, high, figure.bound)
    settle = None
    if paired and state == "undecided":
        settle = samples_to_settle(paired, figure.bound, goals.confidence, figure.of_distance)
    ends = sorted(figure.shown(end) for end in (low, high) if end is not None)
    verdict = GoalVerdict(
        goal=figure.goal,
        what=figure.what,
        soc=soc,
        limit=figure.limit,
        value=_finite(figure.value),
        low=_finite(ends[0]) if ends else None,
        high=_finite(ends[1]) if ends else None,
        verdict=state,
        samples_to_settle=settle,
    )
    sentence = _sentence(verdict, paired) if state == "undecided" else None
    sides = (figure.limit, figure.value) if figure.at_least else (figure.value, figure.limit)
    if not is_within(*sides):
        side = "under" if figure.at_least else "over"
        text = f"{figure.what} {figure.value:,.6g} {side} {figure.goal} {figure.limit:,.6g}"
        return Held(verdict, Miss(figure.goal, text, _excess(*sides, figure.limit)), sentence)
    if sentence and goals.undecided == "refuse":
        return Held(verdict, Miss(figure.goal, f"goals.undecided is refuse: {sentence}", 0.0), sentence)
    return Held(verdict, None, sentence)


def _sentence(verdict: GoalVerdict, paired: Paired | None) -> str:
    """Say what is not known, and what would tell."""
    if paired is None or verdict.low is None or verdict.high is None:
        why = "there are no scores of its samples" if paired is None else paired.method
        held = f"{verdict.what} {figure(verdict.value or 0.0)} against {verdict.goal} {verdict.limit:g}"
        return f"{held} is not certain: {why}"
    settle = verdict.samples_to_settle
    would = f"about {_rounded(settle)} samples would tell" if settle else "no number of samples would tell"
    return (
        f"{paired.samples:,} samples do not tell whether {verdict.goal} {verdict.limit:g} holds: {verdict.what} was"
        f" measured as {figure(verdict.value or 0.0)}, and may be {interval(verdict.low, verdict.high, '')}; {would}"
    )


def _rounded(count: int) -> str:
    """Give a number of samples as people say it, to two digits, and not less."""
    step = 10 ** max(0, len(str(count)) - 2)
    return f"{-(-count // step) * step:,}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _excess(large: float, small: float, limit: float) -> float:
    return (large - small) / abs(limit) if limit else math.inf
