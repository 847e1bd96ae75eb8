"""What the goals ask of one rung, and what was measured. Plain numbers from metrics files; no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from bitladder.errors import UserError
from bitladder.params import GoalsParams, Params
from bitladder.records import Evaluation, Figures, Goals, Measurement, RungSummary, SocFigures, Sources

__all__ = ["Miss", "Verdict", "judge", "qat_verdict", "summary"]

_SOC_FIGURES = set(SocFigures.model_fields)

TOLERANCE = 5e-7  # metrics files hold 6 decimals: a drop of exactly max_drop must pass


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
    misses: tuple[Miss, ...]
    skipped: str | None
    refused: str | None

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
) -> Verdict:
    """Hold a rung against the goals.

    Args:
        params: goals and target.max_gap.
        rung: its name, or fp16.
        off: what was measured off target.
        on: what was measured on target.soc.
        fp32: FP32's record.
        socs: what was measured on further SoCs; those in goals.per_soc must hold the goals as well.

    """
    goals, settings, socs = params.goals, params.target, socs or {}
    measured = Figures(
        value=off.value,
        drop=off.drop,
        target_value=on.value,
        target_drop=on.drop,
        target_gap=on.gap,
        memory_bytes=on.memory_bytes,
        latency_ms=on.latency_ms,
        latency_source=on.latency_source,
        socs={name: SocFigures(**record.model_dump(include=_SOC_FIGURES)) for name, record in socs.items()},
    )
    misses: tuple[Miss, ...] = ()
    if refused := off.refused or on.refused:
        misses = (Miss("target", f"refused: {refused}", math.inf),)
    elif not off.skipped:
        misses = (*_accuracy(goals, "off target", off, fp32), *_on_socs(params, {params.soc.name: on, **socs}, fp32))
    precision = "FP16" if rung == "fp16" else params.ladder[rung].label
    return Verdict(
        rung,
        precision,
        off.technique,
        off.qat,
        _asked(goals, settings.max_gap),
        measured,
        _sources(off, on),
        misses,
        off.skipped,
        refused,
    )


def qat_verdict(when: str, goals: GoalsParams, ptq: Evaluation, fp32: Evaluation) -> tuple[bool, str]:
    """Say whether a rung is trained, from `qat.when` and what PTQ left of the metric; and why."""
    if when == "never":
        return False, "not run: qat.when is never"
    if when == "always":
        return True, "run: qat.when is always"
    misses = _accuracy(goals, "of PTQ", ptq, fp32)
    if misses:
        return True, f"run: {misses[0].text}"
    return False, f"not needed: PTQ meets the accuracy goals (drop {ptq.drop:.4f})"


def summary(verdict: Verdict) -> RungSummary:
    """Give the figures of a rung in one row, as `dvc metrics show` and `dvc metrics diff` print them."""
    if verdict.skipped or verdict.refused:
        says = "skipped" if verdict.skipped else "refused"
    else:
        says = f"misses {len(verdict.misses)} goals" if verdict.misses else "meets every goal"
    measured = verdict.measured
    return RungSummary(
        precision=verdict.precision,
        technique=verdict.technique,
        **measured.model_dump(exclude={"latency_source", "socs"}),
        socs=measured.socs or None,
        verdict=says.replace("misses 1 goals", "misses 1 goal"),
    )


def _accuracy(goals: GoalsParams, where: str, record: Evaluation | Measurement, fp32: Evaluation) -> list[Miss]:
    higher, value, drop = fp32.higher_is_better, record.value, record.drop
    assert value is not None and drop is not None  # of one that was measured
    if goals.min_value is not None and not higher:
        raise UserError(f"params.yaml: goals.min_value: of {fp32.metric} lower is better; use goals.max_drop instead")
    reference = abs(value + (drop if higher else -drop))
    without_reference = math.inf if drop > 0 else 0.0  # an error of 0 against 0 is no drop
    relative = drop / reference if reference else without_reference
    return [
        *_over(f"drop {where}", drop, goals.max_drop, "goals.max_drop"),
        *_over(f"relative drop {where}", relative, goals.max_relative_drop, "goals.max_relative_drop"),
        *_under(f"{fp32.metric} {where}", value, goals.min_value, "goals.min_value"),
    ]


def _on_socs(params: Params, records: Mapping[str, Measurement], fp32: Evaluation) -> list[Miss]:
    """Judge target.soc, and the further SoCs that goals.per_soc names, each by what it says of that one."""
    goals, primary = params.goals, params.soc.name
    misses: list[Miss] = []
    for soc, record in records.items():
        own = goals.own(soc)
        if own is None and soc != primary:
            continue
        changes = own.model_dump(exclude_unset=True) if own else {}
        if soc != primary:
            changes["objective"] = "smallest"  # which rung is the fastest is asked of target.soc alone
        here = goals.model_copy(update=changes)
        for miss in _on_target(here, params.target.max_gap, record, fp32):
            key = miss.goal.removeprefix("goals.")
            text = miss.text.replace(miss.goal, f"goals.per_soc.{soc}.{key}") if key in changes else miss.text
            misses.append(
                replace(miss, text=text) if soc == primary else replace(miss, text=f"on {soc}: {text}", soc=soc)
            )
    return misses


def _asked(goals: GoalsParams, max_gap: float) -> Goals:
    latencies = [goals.max_latency_ms, *(own.max_latency_ms for own in goals.per_soc.values())]
    asks_latency = any(limit is not None for limit in latencies)
    per_soc = {name: own.model_dump(exclude_unset=True) for name, own in goals.per_soc.items()}
    return Goals(
        max_drop=goals.max_drop,
        max_relative_drop=goals.max_relative_drop,
        min_value=goals.min_value,
        max_memory_bytes=goals.max_memory_bytes,
        max_latency_ms=goals.max_latency_ms,
        accept_latency_estimates=goals.accept_latency_estimates if asks_latency else None,
        per_soc=per_soc or None,
        max_gap=max_gap,
    )


def _on_target(goals: GoalsParams, max_gap: float, on: Measurement, fp32: Evaluation) -> list[Miss]:
    if on.value is None:
        return [Miss("target", f"not measured on target: {on.reason}", math.inf)]
    return [
        *_accuracy(goals, "on target", on, fp32),
        *_over("gap between target and simulation", on.gap, max_gap, "target.max_gap"),
        *_over("context binary in bytes", on.memory_bytes, goals.max_memory_bytes, "goals.max_memory_bytes"),
        *_latency(goals, on),
    ]


def _latency(goals: GoalsParams, on: Measurement) -> list[Miss]:
    """Judge the latency where a limit or the objective asks for one."""
    key, limit = "goals.max_latency_ms", goals.max_latency_ms
    fastest = goals.policy == "sweep" and goals.objective == "fastest"
    if limit is None and not fastest:
        return []
    asks = f"{key} asks for {limit:g}" if limit is not None else "goals.objective is fastest"
    if on.latency_ms is None:
        return [Miss(key, f"latency in ms not measured, and {asks}", math.inf)]
    if on.latency_source == "estimated" and not goals.accept_latency_estimates:
        text = f"latency {on.latency_ms:.3g} ms is an estimate, {asks} and goals.accept_latency_estimates is false"
        return [Miss(key, text, math.inf)]
    return _over(f"latency in ms ({on.latency_source})", on.latency_ms, limit, key)


def _over(what: str, value: float | None, limit: float | None, key: str) -> list[Miss]:
    if limit is None:
        return []
    if value is None:
        return [Miss(key, f"{what} not measured, and {key} asks for {limit:g}", math.inf)]
    if value <= limit + TOLERANCE:
        return []
    excess = (value - limit) / limit if limit else math.inf
    return [Miss(key, f"{what} {value:,.6g} over {key} {limit:,.6g}", excess)]


def _under(what: str, value: float, limit: float | None, key: str) -> list[Miss]:
    if limit is None or value >= limit - TOLERANCE:
        return []
    excess = (limit - value) / abs(limit) if limit else math.inf
    return [Miss(key, f"{what} {value:,.6g} under {key} {limit:,.6g}", excess)]


def _sources(off: Evaluation, on: Measurement) -> Sources:
    if off.skipped or off.refused:
        none = f"none: {'skipped' if off.skipped else 'refused'}"
        return Sources(off_target=none, on_target=none, memory=none, latency=none)
    simulated = "FP16 module" if off.technique == "fp16" else "QuantSim"
    if on.value is None:
        target = memory = "none: refused" if on.refused else f"none: {on.reason}"
    else:
        target = f"{on.backend}, {on.soc}, {on.samples} samples"
        memory = f"context binary compiled for {on.soc}"
    why = "refused" if on.refused else on.reason.removeprefix("latency: ")
    return Sources(
        off_target=f"{simulated} on the CPU, {off.samples} samples",
        on_target=target,
        memory=memory,
        latency=on.latency_source if on.latency_ms is not None else f"none: {why}",
    )
