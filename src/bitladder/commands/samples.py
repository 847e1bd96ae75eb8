"""`bitladder samples`: how many samples it takes to tell a drop from a goal, before they are collected and run."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tabulate import tabulate

from bitladder.decision.figures import figure
from bitladder.errors import UserError
from bitladder.params import Params
from bitladder.paths import DECISION, evaluated
from bitladder.records import Decision, Evaluation, RungDecision, read_record
from bitladder.statistics.limits import allowed
from bitladder.statistics.paired import SCORE, Paired
from bitladder.statistics.verdict import POWER, samples_for, samples_to_settle

__all__ = ["plan", "samples_table"]

GUESSES = {"FP16": 0.001, "W16A16": 0.001, "W8A16": 0.005, "W8A8": 0.02}
"""Share of samples that disagree with FP32, where nothing was measured: of the order of this repository's tasks."""

COARSE = 0.05  # with fewer bits than any of these

MEASURED, GUESSED, GIVEN, UNKNOWN = "measured", "a guess", "as given", "not known before a run"


@dataclass(frozen=True)
class Need:
    """What one rung needs: `samples` None where no number is enough; `there` are those that it was judged on."""

    rung: str
    precision: str
    disagree: float | None
    source: str
    samples: int | None
    there: int | None


def plan(params: Params, drop: float = 0.0, disagree: float | None = None) -> tuple[float, list[Need]]:
    """Find for each rung how many samples tell a drop from the accuracy goal.

    Args:
        params: the goals and the rungs.
        drop: what the metric really loses.
        disagree: share of samples that disagree with FP32; by what was measured if None, and else by a guess.

    Returns: the limit in the metric's own unit; a row a rung. Raises UserError where the goal is not known yet.

    """
    fp32 = read_record(Evaluation, evaluated("fp32")) if evaluated("fp32").is_file() else None
    decision = read_record(Decision, DECISION) if DECISION.is_file() else None
    limit = _limit(params, fp32)
    rungs = {"fp16": "FP16", **{name: str(params.ladder[name].precision) for name in params.rungs()}}
    needs = [
        _need(name, precision, decision.of(name) if decision else None, limit, params.goals.confidence, drop, disagree)
        for name, precision in rungs.items()
    ]
    return limit, needs


def samples_table(params: Params, limit: float, needs: list[Need], drop: float) -> Iterator[str]:
    """Say it for people."""
    yield (
        f"Goal: {figure(limit)} of the metric may be lost, told at goals.confidence {params.goals.confidence:g}. If"
        f" {f'{figure(drop)} is lost in truth' if drop else 'nothing is lost in truth'}, so many samples tell in"
        f" {POWER:.0%} of cases:"
    )
    rows = [
        [
            need.rung,
            need.precision,
            "-" if need.disagree is None else f"{need.disagree:.2%}",
            need.source,
            "-" if need.source == UNKNOWN else "no number does" if need.samples is None else f"{need.samples:,}",
            "-" if need.there is None else f"{need.there:,}",
        ]
        for need in needs
    ]
    headers = ["rung", "precision", "disagree with FP32", "which is", "samples needed", "there are"]
    yield tabulate(rows, headers, tablefmt="github", disable_numparse=True)
    if any(need.source == GUESSED for need in needs):
        yield "A guess is of a metric that is right or wrong on each sample; after a run, it goes by what was measured."


def _limit(params: Params, fp32: Evaluation | None) -> float:
    goals, value = params.goals, fp32.value if fp32 else None
    if value is None and goals.max_drop is None:
        raise UserError(
            "goals.max_relative_drop and goals.min_value are of FP32's value, which is not known yet: run"
            " `dvc repro baseline`, or set goals.max_drop"
        )
    limits = [allowed(value or 0.0, goals.max_drop, goals.max_relative_drop if value is not None else None)]
    if value is not None and goals.min_value is not None:
        limits.append(value - goals.min_value)
    return min(limit for limit in limits if limit is not None)


def _need(
    rung: str,
    precision: str,
    entry: RungDecision | None,
    limit: float,
    confidence: float,
    drop: float,
    disagree: float | None,
) -> Need:
    measured = entry.measured if entry else None
    there = measured.samples if measured else None
    if disagree is not None:
        return Need(rung, precision, disagree, GIVEN, samples_for(limit, disagree, drop, confidence), there)
    if not measured or not measured.samples or measured.drop_low is None or measured.drop_high is None:
        if limit >= 1:  # no share: the metric has another scale
            return Need(rung, precision, None, UNKNOWN, None, there)
        guess = GUESSES.get(precision, COARSE)
        return Need(rung, precision, guess, GUESSED, samples_for(limit, guess, drop, confidence), there)
    if measured.method == SCORE and measured.disagree is not None:
        count = samples_for(limit, measured.disagree, drop, confidence)
        return Need(rung, precision, measured.disagree, MEASURED, count, there)
    assert measured.drop is not None
    found = Paired(measured.samples, None, None, measured.drop, measured.drop_low, measured.drop_high, "")
    shift = drop - measured.drop  # the same noise about another drop
    moved = replace(found, difference=drop, low=measured.drop_low + shift, high=measured.drop_high + shift)
    count = samples_to_settle(moved, limit, confidence)
    return Need(rung, precision, measured.disagree, MEASURED, count, there)
