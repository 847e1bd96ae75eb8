"""The ladder and its decision: which rung to ship, and why not the others. Plain numbers; no torch."""

import math
from collections.abc import Mapping, Sequence

from bitladder.decision.advice import advise
from bitladder.decision.figures import figure
from bitladder.decision.goals import RungScores, Verdict, judge
from bitladder.params import Params
from bitladder.records import Decision, Evaluation, Measurement, RungDecision
from bitladder.statistics.paired import gain
from bitladder.statistics.scores import NETWORK

__all__ = ["decide"]

BEST = {"smallest": "the smallest", "fastest": "the fastest", "most-accurate": "the most accurate"}


def decide(
    params: Params,
    evals: Mapping[str, Evaluation],
    targets: Mapping[str, Measurement],
    socs: Mapping[str, Mapping[str, Measurement]] | None = None,
    scores: Mapping[str, RungScores] | None = None,
) -> Decision:
    """Choose a rung by goals.policy and goals.objective among those that meet every goal, off and on target.

    Args:
        params: goals and ladder.
        evals: of fp32, fp16 and every rung.
        targets: of fp16 and every rung, on target.soc.
        socs: the same on further SoCs, each by SoC.
        scores: of fp16 and every rung, which intervals are of.

    """
    goals = params.goals
    names = ("fp16", *params.rungs())
    verdicts = [
        judge(params, name, evals[name], targets[name], evals["fp32"], (socs or {}).get(name), (scores or {}).get(name))
        for name in names
    ]
    good = [verdict for verdict in verdicts if verdict.good]
    front = _pareto_front(targets)
    if not good:
        nearest = min((verdict for verdict in verdicts if not verdict.skipped), key=_distance)
        reason = f"no rung meets the goals; nearest is {nearest.label}: {_texts(nearest)}"
        if goals.undecided == "accept":  # else the misses say it
            reason += _doubt(nearest)
        trail = tuple(_entry(verdict, _missed(verdict), front) for verdict in verdicts)
        return Decision(
            chosen=None,
            reason=reason,
            policy=goals.policy,
            objective=goals.objective,
            nearest=nearest.rung,
            next=advise(params, nearest, (evals["fp32"].technique or "").startswith("ONNX")),  # as `prepare` calls it
            trail=trail,
        )
    if goals.policy == "step-down":
        chosen, claim = good[0], "the first rung from the top that meets every goal"
    else:
        chosen = min(good, key=lambda verdict: _rank(verdict, goals.objective, verdicts))
        claim = f"{BEST[goals.objective]} rung that meets every goal"
    by_size = goals.policy == "sweep" and goals.objective == "smallest"
    outcomes = {verdict.rung: _outcome(verdict, chosen, claim, by_size) for verdict in verdicts}
    trail = tuple(_entry(verdict, outcomes[verdict.rung], front) for verdict in verdicts)
    reason = f"{chosen.rung} ({chosen.precision}, {evals[chosen.rung].technique}) is {claim}: " + _figures(
        evals[chosen.rung], targets[chosen.rung]
    )
    if judged := [name for name in chosen.measured.socs if goals.own(name) is not None]:
        reason += f"; the goals hold on {', '.join(judged)} too"
    if goals.objective == "most-accurate" and goals.policy == "sweep":
        reason += _ties(chosen, good, scores or {}, params.soc.name, evals["fp32"].higher_is_better)
    reason += _doubt(chosen)
    return Decision(
        chosen=chosen.rung,
        reason=reason,
        policy=goals.policy,
        objective=goals.objective,
        nearest=None,
        next=(),
        trail=trail,
    )


def _pareto_front(targets: Mapping[str, Measurement]) -> set[str]:
    """Name the rungs that no other beats: none is both smaller and as accurate on target, or as small and better."""
    points = {
        name: (record.memory_bytes, record.drop)
        for name, record in targets.items()
        if record.memory_bytes is not None and record.drop is not None
    }
    return {
        name
        for name, (size, drop) in points.items()
        if not any(other != (size, drop) and other[0] <= size and other[1] <= drop for other in points.values())
    }


def _rank(verdict: Verdict, objective: str, verdicts: Sequence[Verdict]) -> tuple[float, ...]:
    """Order by the objective, then by accuracy or size, then the lower rung first.

    Of rungs of one size, which small networks have, those come first whose goals hold beyond chance: bits that bring
    nothing are not paid for in doubt.
    """
    measured, depth = verdict.measured, -verdicts.index(verdict)
    size = math.inf if measured.memory_bytes is None else measured.memory_bytes
    drop = measured.target_drop
    assert drop is not None
    if objective == "fastest":
        assert measured.latency_ms is not None
        return measured.latency_ms, size, depth
    return (drop, size, depth) if objective == "most-accurate" else (size, bool(verdict.undecided), drop, depth)


def _outcome(verdict: Verdict, chosen: Verdict, claim: str, by_size: bool) -> str:
    if verdict is chosen:
        return f"chosen: {claim}"
    if verdict.skipped:
        return f"skipped: {chosen.label} meets every goal, and goals.policy is step-down"
    if verdict.misses:
        return _missed(verdict)
    if by_size and verdict.measured.memory_bytes == chosen.measured.memory_bytes:
        return f"not chosen: meets the goals and is as small, but {chosen.rung} {_advantage(verdict, chosen)}"
    return f"not chosen: meets the goals, but {chosen.rung} is {claim}"


def _advantage(verdict: Verdict, chosen: Verdict) -> str:
    """Say what the chosen rung has over another of the same size: by the order that `_rank` goes by."""
    if verdict.undecided and not chosen.undecided:
        return "meets them beyond chance"
    if verdict.measured.target_drop != chosen.measured.target_drop:
        return "loses less"
    return "has fewer bits"


def _missed(verdict: Verdict) -> str:
    if verdict.skipped:
        return f"skipped: {verdict.skipped}"
    return f"refused: {verdict.refused}" if verdict.refused else f"not chosen: {_texts(verdict)}"


def _doubt(verdict: Verdict) -> str:
    """Say what the samples do not decide: the goal that would take the most of them, and how many others."""
    open_goals = [one for one in verdict.held if one.undecided]
    if not open_goals:
        return ""
    most = max(open_goals, key=lambda one: one.verdict.samples_to_settle or math.inf)
    others = len(open_goals) - 1
    more = f"; {others} more goal{'s are' if others > 1 else ' is'} undecided" if others else ""
    return f"; undecided: {most.undecided}{more}"


def _ties(
    chosen: Verdict, good: Sequence[Verdict], scores: Mapping[str, RungScores], soc: str, higher_is_better: bool
) -> str:
    """Name the rungs that are as accurate on target as the chosen one, as far as the samples tell."""
    found = {rung: places[soc][NETWORK] for rung, places in scores.items() if NETWORK in places.get(soc, {})}
    if chosen.rung not in found:
        return ""
    tied = []
    for other in good:
        if other is not chosen and other.rung in found:
            gained, error = gain(found[other.rung], found[chosen.rung], higher_is_better)
            tied += [other.rung] if gained <= error else []
    return f"; as far as the samples tell, {', '.join(tied)} {'are' if tied[1:] else 'is'} as accurate" if tied else ""


def _texts(verdict: Verdict) -> str:
    return "; ".join(miss.text for miss in verdict.misses)


def _distance(verdict: Verdict) -> tuple[bool, int, float]:
    """Order measured rungs first, then by how many goals are missed, then by the widest miss that can be told."""
    unmeasured = any(miss.goal == "target" for miss in verdict.misses)
    known = [miss.excess for miss in verdict.misses if math.isfinite(miss.excess)]
    return unmeasured, len(verdict.misses), max(known, default=math.inf)


def _entry(verdict: Verdict, outcome: str, front: set[str]) -> RungDecision:
    return RungDecision(
        rung=verdict.rung,
        precision=verdict.precision,
        technique=verdict.technique,
        goals=verdict.goals,
        measured=verdict.measured,
        sources=verdict.sources,
        verdicts=tuple(one.verdict for one in verdict.held),
        misses=tuple(miss.text for miss in verdict.misses),
        undecided=verdict.undecided,
        qat=verdict.qat,
        pareto=verdict.rung in front,
        outcome=outcome,
    )


def _figures(off: Evaluation, on: Measurement) -> str:
    assert off.value is not None and off.drop is not None and on.value is not None and on.drop is not None
    memory = "" if on.memory_bytes is None else f", {on.memory_bytes:,} bytes"
    latency = "" if on.latency_ms is None else f", {on.latency_ms:.3f} ms ({on.latency_source})"
    return (
        f"{off.metric} {figure(off.value)} off target (drop {figure(off.drop, '+')}),"
        f" {figure(on.value)} on {on.soc} by {on.ran_by} (drop {figure(on.drop, '+')}, {on.samples} samples)"
        f"{memory}{latency}"
    )
