"""The goals of a rung on a SoC: its metric, the gap to the simulation, memory and latency."""

from collections.abc import Mapping
from dataclasses import replace

from bitladder.decision.comparisons import Compared
from bitladder.decision.held import Held, at_most, unknown
from bitladder.decision.metric_goals import accuracy_goals, gap_goals
from bitladder.params import GoalsParams, Params, TargetParams
from bitladder.records import Measurement

__all__ = ["target_goals"]


def target_goals(
    params: Params, soc: str, record: Measurement, fp32: tuple[str, bool], compared: Compared
) -> list[Held]:
    """Judge a rung on target.soc, or on a further SoC if goals.per_soc names it, by what it says of that one.

    Args:
        params: the goals, those of one SoC, and those of target.
        soc: its name.
        record: what was measured on it.
        fp32: the metric's name, and whether higher is better.
        compared: the comparisons there.

    """
    goals, is_first = params.goals, soc == params.soc.name
    own = goals.own(soc)
    if own is None and not is_first:
        return []
    changes = own.model_dump(exclude_unset=True) if own else {}
    if not is_first:
        changes["objective"] = "smallest"  # which rung is the fastest is asked of target.soc alone
    return [
        _named(one, soc, is_first, changes)
        for one in _on_target(goals.model_copy(update=changes), params.target, record, fp32, compared, soc)
    ]


def _named(held: Held, soc: str, is_first: bool, own: Mapping[str, object]) -> Held:
    """Name the SoC, and the key under goals.per_soc where the limit is from there."""
    goal = held.verdict.goal
    key = goal.removeprefix("goals.")
    full = f"goals.per_soc.{soc}.{key}" if key in own else goal

    def put(text: str) -> str:
        text = text.replace(goal, full)
        return text if is_first else f"on {soc}: {text}"

    miss = held.miss and replace(held.miss, text=put(held.miss.text), soc=None if is_first else soc)
    verdict = held.verdict.model_copy(update={"goal": full})
    return Held(verdict, miss, held.undecided and put(held.undecided))


def _on_target(
    goals: GoalsParams,
    settings: TargetParams,
    on: Measurement,
    fp32: tuple[str, bool],
    compared: Compared,
    soc: str,
) -> list[Held]:
    if on.value is None:
        return [unknown("target", f"not measured on target: {on.reason}", soc)]
    assert on.drop is not None and on.gap is not None
    reference = on.value if on.reference_value is None else on.reference_value
    held = accuracy_goals(goals, "on target", on.value, on.drop, fp32, compared, soc)
    held += gap_goals(goals, settings, on.gap, reference, compared, soc)
    if goals.max_memory_bytes is not None:
        limit = goals.max_memory_bytes
        held.append(at_most("goals.max_memory_bytes", "context binary in bytes", on.memory_bytes, limit, soc))
    return [*held, *_latency(goals, on, soc)]


def _latency(goals: GoalsParams, on: Measurement, soc: str) -> list[Held]:
    """Judge the latency where a limit or the objective asks for one."""
    key, limit = "goals.max_latency_ms", goals.max_latency_ms
    fastest = goals.policy == "sweep" and goals.objective == "fastest"
    if limit is None and not fastest:
        return []
    asks = f"{key} asks for {limit:g}" if limit is not None else "goals.objective is fastest"
    if on.latency_ms is None:
        return [unknown(key, f"latency in ms not measured, and {asks}", soc)]
    if on.latency_source == "estimated" and not goals.accept_latency_estimates:
        text = f"latency {on.latency_ms:.3g} ms is an estimate, {asks} and goals.accept_latency_estimates is false"
        return [unknown(key, text, soc)]
    if limit is None:
        return []
    return [at_most(key, f"latency in ms ({on.latency_source})", on.latency_ms, limit, soc)]
