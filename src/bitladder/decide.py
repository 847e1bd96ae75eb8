"""Goals, the ladder, the decision and its reasons. Plain numbers from metrics files; no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bitladder.params import GoalsParams, Params

__all__ = ["Decision", "decide", "qat_verdict"]

Records = Mapping[str, Mapping[str, Any]]

TOLERANCE = 5e-7  # metrics files hold 6 decimals: a drop of exactly max_drop must pass


def qat_verdict(when: str, drop: float, max_drop: float) -> tuple[bool, str]:
    """Say whether a rung is trained, from `qat.when` and the drop that PTQ left; and why."""
    if when == "never":
        return False, "not run: qat.when is never"
    if when == "always":
        return True, "run: qat.when is always"
    if drop > max_drop + TOLERANCE:
        return True, f"run: PTQ dropped {drop:.4f}, more than goals.max_drop {max_drop:g}"
    return False, f"not needed: PTQ dropped {drop:.4f}, within goals.max_drop {max_drop:g}"


@dataclass(frozen=True)
class Decision:
    """What to ship. `chosen` is None where nothing meets the goals; `trail` has one entry a rung, from the top."""

    chosen: str | None
    reason: str
    trail: tuple[dict[str, Any], ...]


def decide(params: Params, evals: Records, targets: Records) -> Decision:
    """Choose the lowest rung that meets every goal, off and on target.

    Args:
        params: goals and ladder.
        evals: metrics/eval records of fp32, fp16 and every rung.
        targets: metrics/target records of fp16 and every rung.

    """
    trail = [_judge(params, name, evals[name], targets[name]) for name in ("fp16", *params.rungs())]
    good = [entry for entry in trail if not entry["misses"]]
    if not good:
        nearest = min(trail, key=lambda entry: (len(entry["misses"]), _worst_drop(evals, targets, entry["rung"])))
        for entry in trail:
            entry["then"] = "not chosen: " + "; ".join(entry["misses"])
        reason = (
            f"no rung meets the goals; nearest is {nearest['rung']} ({nearest['precision']}):"
            f" {'; '.join(nearest['misses'])}"
        )
        return Decision(None, reason, tuple(trail))
    chosen = good[-1]
    for entry in trail:
        if entry is chosen:
            entry["then"] = "chosen: the lowest rung that meets every goal"
        elif entry["misses"]:
            entry["then"] = "not chosen: " + "; ".join(entry["misses"])
        else:
            entry["then"] = f"not chosen: meets the goals, and {chosen['rung']}, which is lower, does too"
    target, record = targets[chosen["rung"]], evals[chosen["rung"]]
    reason = (
        f"{chosen['rung']} ({chosen['precision']}, {record['technique']}) is the lowest rung that meets the goals:"
        f" {record['metric']} {record['value']:.4f} off target (drop {record['drop']:+.4f}),"
        f" {target['value']:.4f} on {target['soc']} by {target['backend']} (drop {target['drop']:+.4f},"
        f" {target['samples']} samples), {target['memory_bytes']:,} bytes"
    )
    return Decision(chosen["rung"], reason, tuple(trail))


def _judge(params: Params, name: str, off: Mapping[str, Any], on: Mapping[str, Any]) -> dict[str, Any]:
    """Give the trail's entry of a rung: what was asked, what was found, and which goals it misses."""
    goals = params.goals
    precision = "FP16" if name == "fp16" else str(params.ladder[name].precision)
    found = {
        "drop": off["drop"],
        "target_drop": on["drop"],
        "target_gap": on["gap"],
        "memory_bytes": on["memory_bytes"],
        "latency_ms": on["latency_ms"],
        "latency_source": on["latency_source"],
    }
    asked = {**goals.model_dump(exclude_none=True), "max_gap": params.target.max_gap}
    misses = _misses(goals, params.target.max_gap, found, on["reason"])
    return {"rung": name, "precision": precision, "asked": asked, "found": found, "misses": misses}


def _misses(goals: GoalsParams, max_gap: float, found: Mapping[str, Any], reason: str) -> list[str]:
    if found["target_drop"] is None:
        return [f"not measured on target: {reason}"]
    limits = [
        ("drop off target", found["drop"], goals.max_drop, "goals.max_drop"),
        ("drop on target", found["target_drop"], goals.max_drop, "goals.max_drop"),
        ("gap between target and simulation", found["target_gap"], max_gap, "target.max_gap"),
        ("context binary in bytes", found["memory_bytes"], goals.max_memory_bytes, "goals.max_memory_bytes"),
        ("latency in ms", found["latency_ms"], goals.max_latency_ms, "goals.max_latency_ms"),
    ]
    misses = []
    for what, value, limit, key in limits:
        if limit is None:
            continue
        if value is None:
            misses.append(f"{what} not measured, and {key} asks for {limit:g}")
        elif value > limit + TOLERANCE:
            misses.append(f"{what} {value:,.6g} over {key} {limit:,.6g}")
    return misses


def _worst_drop(evals: Records, targets: Records, name: str) -> float:
    on = targets[name]["drop"]
    return max(evals[name]["drop"], float("inf") if on is None else on)
