"""The ladder and its decision: which rung to ship, and why not the others. Plain numbers; no torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bitladder.decision.advice import advise
from bitladder.decision.goals import Verdict, judge
from bitladder.params import Params

__all__ = ["Decision", "decide"]

Records = Mapping[str, Mapping[str, Any]]

BEST = {"smallest": "the smallest", "fastest": "the fastest", "most-accurate": "the most accurate"}


@dataclass(frozen=True)
class Decision:
    """What to ship. `chosen` is None where nothing meets the goals; `trail` has one entry a rung, from the top.

    `nearest` and `next` say, where nothing is chosen, which rung came nearest and what to try.
    """

    chosen: str | None
    reason: str
    policy: str
    objective: str
    nearest: str | None
    next: tuple[str, ...]
    trail: tuple[dict[str, Any], ...]


def decide(
    params: Params,
    evals: Records,
    targets: Records,
    socs: Mapping[str, Records] | None = None,
) -> Decision:
    """Choose a rung by goals.policy and goals.objective among those that meet every goal, off and on target.

    Args:
        params: goals and ladder.
        evals: metrics/eval records of fp32, fp16 and every rung.
        targets: metrics/target records of fp16 and every rung.
        socs: metrics/socs records of the same, each by SoC.

    """
    goals = params.goals
    names = ("fp16", *params.rungs())
    verdicts = [
        judge(params, name, evals[name], targets[name], evals["fp32"], (socs or {}).get(name)) for name in names
    ]
    good = [verdict for verdict in verdicts if verdict.good]
    front = _pareto_front(targets)
    if not good:
        nearest = min((verdict for verdict in verdicts if not verdict.skipped), key=_distance)
        reason = f"no rung meets the goals; nearest is {nearest.label}: {_texts(nearest)}"
        trail = tuple(_entry(verdict, _missed(verdict), front) for verdict in verdicts)
        advice = advise(params, nearest, evals["fp32"]["technique"].startswith("ONNX"))  # as `prepare` calls it
        return Decision(None, reason, goals.policy, goals.objective, nearest.rung, advice, trail)
    if goals.policy == "step-down":
        chosen, claim = good[0], "the first rung from the top that meets every goal"
    else:
        chosen = min(good, key=lambda verdict: _rank(verdict, goals.objective, verdicts))
        claim = f"{BEST[goals.objective]} rung that meets every goal"
    followed = {verdict.rung: _followed(verdict, chosen, claim) for verdict in verdicts}
    trail = tuple(_entry(verdict, followed[verdict.rung], front) for verdict in verdicts)
    reason = f"{chosen.rung} ({chosen.precision}, {evals[chosen.rung]['technique']}) is {claim}: " + _figures(
        evals[chosen.rung], targets[chosen.rung]
    )
    if judged := [name for name in chosen.found["socs"] if goals.own(name) is not None]:
        reason += f"; the goals hold on {', '.join(judged)} too"
    return Decision(chosen.rung, reason, goals.policy, goals.objective, None, (), trail)


def _pareto_front(targets: Records) -> set[str]:
    """Name the rungs that no other beats: none is both smaller and as accurate on target, or as small and better."""
    points = {
        name: (record["memory_bytes"], record["drop"])
        for name, record in targets.items()
        if record["memory_bytes"] is not None and record["drop"] is not None
    }
    return {
        name
        for name, (size, drop) in points.items()
        if not any(other != (size, drop) and other[0] <= size and other[1] <= drop for other in points.values())
    }


def _rank(verdict: Verdict, objective: str, verdicts: Sequence[Verdict]) -> tuple[float, float, int]:
    """Order by the objective, then by accuracy or size, then the lower rung first."""
    found, depth = verdict.found, -verdicts.index(verdict)
    size, drop = found["memory_bytes"], found["target_drop"]
    size = math.inf if size is None else size
    if objective == "fastest":
        return found["latency_ms"], size, depth
    return (drop, size, depth) if objective == "most-accurate" else (size, drop, depth)


def _followed(verdict: Verdict, chosen: Verdict, claim: str) -> str:
    if verdict is chosen:
        return f"chosen: {claim}"
    if verdict.skipped:
        return f"skipped: {chosen.label} meets every goal, and goals.policy is step-down"
    if verdict.misses:
        return _missed(verdict)
    return f"not chosen: meets the goals, but {chosen.rung} is {claim}"


def _missed(verdict: Verdict) -> str:
    return f"skipped: {verdict.skipped}" if verdict.skipped else f"not chosen: {_texts(verdict)}"


def _texts(verdict: Verdict) -> str:
    return "; ".join(miss.text for miss in verdict.misses)


def _distance(verdict: Verdict) -> tuple[bool, int, float]:
    """Order measured rungs first, then by how many goals are missed, then by the widest miss that can be told."""
    unmeasured = any(miss.goal == "target" for miss in verdict.misses)
    known = [miss.excess for miss in verdict.misses if math.isfinite(miss.excess)]
    return unmeasured, len(verdict.misses), max(known, default=math.inf)


def _entry(verdict: Verdict, followed: str, front: set[str]) -> dict[str, Any]:
    return {
        "rung": verdict.rung,
        "precision": verdict.precision,
        "technique": verdict.technique,
        "asked": verdict.asked,
        "found": verdict.found,
        "sources": verdict.sources,
        "misses": [miss.text for miss in verdict.misses],
        "qat": verdict.qat,
        "pareto": verdict.rung in front,
        "then": followed,
    }


def _figures(off: Mapping[str, Any], on: Mapping[str, Any]) -> str:
    memory = "" if on["memory_bytes"] is None else f", {on['memory_bytes']:,} bytes"
    latency = "" if on["latency_ms"] is None else f", {on['latency_ms']:.3f} ms ({on['latency_source']})"
    return (
        f"{off['metric']} {off['value']:.4f} off target (drop {off['drop']:+.4f}),"
        f" {on['value']:.4f} on {on['soc']} by {on['backend']} (drop {on['drop']:+.4f}, {on['samples']} samples)"
        f"{memory}{latency}"
    )
