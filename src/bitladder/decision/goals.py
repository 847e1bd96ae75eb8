"""What the goals ask of one rung, and what was measured. Plain numbers from metrics files; no torch."""

from collections.abc import Mapping
from dataclasses import dataclass

from bitladder.decision.comparisons import OFF_TARGET, Compared, compare_scores, figures_of, gap_figures
from bitladder.decision.held import Held, Miss, unknown
from bitladder.decision.metric_goals import accuracy_goals
from bitladder.decision.sources import asked, sources_of
from bitladder.decision.target_goals import target_goals
from bitladder.params import GoalsParams, Params
from bitladder.records import Evaluation, Figures, Goals, GoalVerdict, Measurement, RungSummary, SocFigures, Sources
from bitladder.statistics.scores import Scores

__all__ = ["RungScores", "Verdict", "judge", "qat_verdict", "summary"]

RungScores = Mapping[str, Mapping[str, Scores]]
"""A rung's scores by place: OFF_TARGET, or a SoC's name."""

_OF_SOC = ("value", "drop", "gap", "memory_bytes", "latency_ms", "latency_source")


@dataclass(frozen=True)
class Verdict:
    """What was asked of a rung and what was measured.

    `skipped` is the reason where nothing was measured on purpose, `refused` where the network does not allow the rung.
    """

    rung: str
    precision: str
    technique: str | None
    qat: str | None
    goals: Goals
    measured: Figures
    sources: Sources
    held: tuple[Held, ...]
    skipped: str | None
    refused: str | None

    @property
    def misses(self) -> tuple[Miss, ...]:
        """The goals that the rung misses."""
        return tuple(one.miss for one in self.held if one.miss)

    @property
    def undecided(self) -> tuple[str, ...]:
        """The goals that the samples do not decide, each in a sentence."""
        return tuple(one.undecided for one in self.held if one.undecided)

    @property
    def good(self) -> bool:
        """Whether the rung was measured and meets every goal."""
        return not self.misses and not self.skipped

    def descends(self, policy: str) -> bool:
        """Whether the rungs after it are to be tried: in a sweep always, else where it was tried and misses a goal."""
        return policy == "sweep" or bool(self.misses)

    @property
    def label(self) -> str:
        """Name and precision, as `tiny (W4A8)`."""
        return f"{self.rung} ({self.precision})"


def judge(
    params: Params,
    rung: str,
    off: Evaluation,
    on: Measurement,
    fp32: Evaluation,
    socs: Mapping[str, Measurement] | None = None,
    scores: RungScores | None = None,
) -> Verdict:
    """Hold a rung against the goals.

    Args:
        params: goals, and those of target.
        rung: its name, or fp16.
        off: what was measured off target.
        on: what was measured on target.soc.
        fp32: FP32's record.
        socs: what was measured on further SoCs; those in goals.per_soc must hold the goals as well.
        scores: what the intervals are of.

    """
    goals, places = params.goals, {params.soc.name: on, **(socs or {})}
    compared = {
        place: compare_scores(found, fp32.higher_is_better, goals.confidence) for place, found in (scores or {}).items()
    }
    held: list[Held] = []
    if refused := off.refused or on.refused:
        held = [unknown("target", f"refused: {refused}", params.soc.name)]
    elif not off.skipped:
        assert off.value is not None and off.drop is not None  # of one that was measured
        of = (fp32.metric, fp32.higher_is_better)
        there = compared.get(OFF_TARGET, Compared())
        held += accuracy_goals(goals, "off target", off.value, off.drop, of, there)
        for soc, record in places.items():
            held += target_goals(params, soc, record, of, compared.get(soc, Compared()))
    first, *others = places
    measured = Figures(
        value=off.value,
        drop=off.drop,
        **figures_of(compared.get(OFF_TARGET, Compared()).drop, _verdicts(held, None)),
        target_value=on.value,
        target_drop=on.drop,
        **figures_of(compared.get(first, Compared()).drop, _verdicts(held, first), "target_"),
        target_gap=on.gap,
        **gap_figures(compared.get(first, Compared()).gap, _verdicts(held, first, "target.")),
        memory_bytes=on.memory_bytes,
        latency_ms=on.latency_ms,
        latency_source=on.latency_source,
        socs={
            soc: SocFigures(
                **places[soc].model_dump(include=set(_OF_SOC)),
                **figures_of(compared.get(soc, Compared()).drop, _verdicts(held, soc)),
                **gap_figures(compared.get(soc, Compared()).gap, _verdicts(held, soc, "target.")),
            )
            for soc in others
        },
    )
    precision = "FP16" if rung == "fp16" else params.ladder[rung].label
    return Verdict(
        rung,
        precision,
        off.technique,
        off.qat,
        asked(goals, params.target),
        measured,
        sources_of(off, on),
        tuple(held),
        off.skipped,
        refused,
    )


def qat_verdict(when: str, goals: GoalsParams, ptq: Evaluation) -> tuple[bool, str]:
    """Say whether a rung is trained, and why: by `qat.when`, and what PTQ left of the metric on calibration samples."""
    if when == "never":
        return False, "not run: qat.when is never"
    if when == "always":
        return True, "run: qat.when is always"
    found = ptq.held_out
    assert found is not None  # PTQ leaves it wherever it ran
    judged = goals.model_copy(update={"undecided": "accept"})
    of = (ptq.metric, ptq.higher_is_better)
    where = "calibration samples that it was fitted to" if found.fitted else "calibration samples"
    held = accuracy_goals(judged, f"of PTQ on {where}", found.value, found.drop, of, Compared())
    if misses := [one.miss.text for one in held if one.miss]:
        return True, f"run: {misses[0]}"
    return False, f"not needed: PTQ meets the accuracy goals on {where} (drop {found.drop:.4g})"


def summary(verdict: Verdict) -> RungSummary:
    """Give the figures of a rung in one row, as `dvc metrics show` and `dvc metrics diff` print them."""
    misses, undecided, measured = len(verdict.misses), len(verdict.undecided), verdict.measured
    if verdict.skipped or verdict.refused:
        says = "skipped" if verdict.skipped else "refused"
    elif misses:
        says = f"misses {misses} goal{'s' if misses > 1 else ''}"
    else:
        says = f"meets every goal{f', {undecided} undecided' if undecided else ''}"
    named = {name: value for name, value in dict(measured).items() if name in RungSummary.model_fields}
    return RungSummary(
        precision=verdict.precision,
        technique=verdict.technique,
        **{**named, "socs": measured.socs or None, "verdict": says},
    )


def _verdicts(held: list[Held], soc: str | None, of: str = "") -> list[GoalVerdict]:
    """Give the verdicts of the metric's goals in a place: of accuracy, or of the gap."""
    keys = ("target.max_gap", "target.max_relative_gap") if of else ("max_drop", "max_relative_drop", "min_value")
    return [one.verdict for one in held if one.verdict.soc == soc and one.verdict.goal.endswith(keys)]
