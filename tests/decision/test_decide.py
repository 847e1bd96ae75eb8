"""The decision, over records: each verdict of the ladder, and the sources that figures may have."""

from typing import Any

import pytest

from bitladder.decision.decide import decide
from bitladder.decision.goals import judge, qat_verdict, summary
from bitladder.errors import UserError
from bitladder.params import GoalsParams, Params
from bitladder.records import Decision, Evaluation, HeldOut, Measurement
from records import RUNGS, off, on, refused, rung_scores, skipped_off, with_goals


def decided(
    params: Params,
    drops: dict[str, float] | None = None,
    evals: dict[str, Evaluation] | None = None,
    targets: dict[str, Measurement] | None = None,
    socs: dict[str, dict[str, Measurement]] | None = None,
    fp32: str = "as it came",
) -> Decision:
    """Decide over good records, but for the drops and the records given."""
    drops = drops or {}
    all_evals = {rung: off(rung, drops.get(rung, 0.0)) for rung in RUNGS} | (evals or {})
    all_evals["fp32"] = off("fp16", technique=fp32)
    all_targets = {rung: on(rung, drops.get(rung, 0.0)) for rung in RUNGS} | (targets or {})
    places = (params.soc.name, *(soc.name for soc in params.other_socs))
    scores = {rung: rung_scores(drops.get(rung, 0.0), socs=places) for rung in RUNGS}
    return decide(params, all_evals, all_targets, socs, scores)


def outcome(decision: Decision, rung: str) -> str:
    return next(entry.outcome for entry in decision.trail if entry.rung == rung)


def measured(values: dict[str, float], source: str = "measured") -> dict[str, Measurement]:
    return {rung: on(rung, latency_ms=ms, latency_source=source) for rung, ms in values.items()}


def test_a_sweep_takes_the_smallest_rung_that_meets_the_goals() -> None:
    decision = decided(with_goals(), {"tiny": 0.02})
    assert decision.chosen == "compact"
    assert "drop off target 0.02 over goals.max_drop 0.01" in outcome(decision, "tiny")
    assert outcome(decision, "balanced") == (
        "not chosen: meets the goals, but compact is the smallest rung that meets every goal"
    )


def test_a_sweep_takes_the_most_accurate_rung_where_asked() -> None:
    drops = {"fp16": 0.001, "balanced": 0.0, "compact": -0.001, "tiny": 0.002}
    assert decided(with_goals(objective="most-accurate"), drops).chosen == "compact"


def test_a_sweep_takes_the_fastest_rung_where_asked() -> None:
    targets = measured({"fp16": 1.0, "balanced": 3.0, "compact": 0.8, "tiny": 0.9})
    assert decided(with_goals(objective="fastest"), targets=targets).chosen == "compact"


def test_the_fastest_rung_is_not_known_without_a_latency() -> None:
    decision = decided(with_goals(objective="fastest"))
    assert decision.chosen is None
    assert "latency in ms not measured, and goals.objective is fastest" in decision.reason


def test_step_down_ends_at_the_first_good_rung() -> None:
    below = RUNGS[1:]
    decision = decided(
        with_goals(policy="step-down"),
        evals={rung: skipped_off(rung) for rung in below},
        targets={rung: refused(rung, "skipped: stopped above") for rung in below},
    )
    assert decision.chosen == "fp16"
    assert "first rung from the top" in decision.reason
    assert outcome(decision, "tiny") == "skipped: fp16 (FP16) meets every goal, and goals.policy is step-down"
    assert {entry.sources.on_target for entry in decision.trail[1:]} == {"none: skipped"}


def test_step_down_goes_below_a_rung_that_is_too_big() -> None:
    decision = decided(
        with_goals(policy="step-down", max_memory_bytes=3500),
        evals={rung: skipped_off(rung) for rung in ("compact", "tiny")},
        targets={rung: refused(rung, "skipped") for rung in ("compact", "tiny")},
    )
    assert decision.chosen == "balanced"
    assert "context binary in bytes 4,000 over goals.max_memory_bytes 3,500" in outcome(decision, "fp16")


def test_a_rung_that_qat_saved_is_chosen_and_says_so() -> None:
    why = "run: drop of PTQ 0.05 over goals.max_drop 0.01"
    decision = decided(with_goals(), evals={"tiny": off("tiny", 0.002, technique="qat", qat=why)})
    assert decision.chosen == "tiny"
    assert "tiny (W4A8, qat)" in decision.reason
    assert decision.trail[-1].qat == why


def test_where_nothing_is_good_the_nearest_rung_and_the_next_step_are_named() -> None:
    drops = {"fp16": 0.05, "balanced": 0.04, "compact": 0.02, "tiny": 0.3}
    decision = decided(with_goals(), drops)
    assert (decision.chosen, decision.nearest) == (None, "compact")
    assert "nearest is compact (W8A8)" in decision.reason
    assert any("ladder.compact.mixed" in step for step in decision.next)


def test_a_rung_that_was_not_measured_is_never_the_nearest() -> None:
    """It misses one goal, that of being measured; a rung that misses two by a hair is nearer all the same."""
    drops = {"balanced": 0.0101, "compact": 0.02, "tiny": 0.3}
    fp16 = {"fp16": refused("fp16", "QCS6490 does not take FP16")}
    assert decided(with_goals("QCS6490"), drops, targets=fp16).nearest == "balanced"
    second = {rung: {"QCS6490": on(rung, drops.get(rung, 0.0), soc="QCS6490")} for rung in RUNGS}
    second["fp16"] = {"QCS6490": fp16["fp16"]}
    goals = with_goals(socs=["QCS6490"], per_soc={"QCS6490": {}})
    assert decided(goals, drops, socs=second).nearest == "balanced"


NOT_NEEDED = "not needed: PTQ meets the accuracy goals on calibration samples (drop 0.009)"
OF_ONNX = "ONNX, prepared for aimet-onnx"


@pytest.mark.parametrize(
    ("when", "technique", "qat", "says"),
    [
        ("needed", "qat", "run: drop of PTQ 0.05 over goals.max_drop 0.01", "train compact longer"),
        ("needed", "ptq:min-max", "run: drop of PTQ 0.05 over goals.max_drop 0.01; no epoch beat PTQ", "did not beat"),
        (
            "needed",
            "ptq:min-max",
            NOT_NEEDED,
            "not needed, as PTQ meets the accuracy goals on calibration samples; to train",
        ),
        ("needed", "ptq:min-max", "not run: the model came as ONNX", "QAT cannot run: the model came as ONNX"),
        ("never", "ptq:min-max", "not run: qat.when is never", "let QAT run: set qat.when to always"),
    ],
)
def test_the_advice_says_what_qat_did(when: str, technique: str, qat: str, says: str) -> None:
    params = with_goals()
    params = params.model_copy(update={"qat": params.qat.model_copy(update={"when": when})})
    drops = {"fp16": 0.05, "balanced": 0.04, "compact": 0.02, "tiny": 0.3}
    compact = off("compact", 0.009 if qat == NOT_NEEDED else 0.02, technique=technique, qat=qat)
    decision = decided(params, drops, {"compact": compact})
    assert decision.nearest == "compact"
    assert [step for step in decision.next if says in step]
    assert sum("QAT" in step or "train" in step for step in decision.next) == 1


@pytest.mark.parametrize("when", ["needed", "never"])
@pytest.mark.parametrize("goals", [{}, {"max_memory_bytes": 1500}])
@pytest.mark.parametrize("qat", [NOT_NEEDED, "not run: the model came as ONNX, and aimet-onnx trains nothing"])
def test_nothing_is_proposed_that_a_network_of_onnx_cannot_do(when: str, goals: dict[str, Any], qat: str) -> None:
    params = with_goals(**goals)
    params = params.model_copy(update={"qat": params.qat.model_copy(update={"when": when})})
    drops = {"fp16": 0.05, "balanced": 0.04, "compact": 0.02, "tiny": 0.3}
    evals = {rung: off(rung, drops[rung], qat=qat) for rung in RUNGS[1:]}
    decision = decided(params, drops, evals, {"tiny": refused("tiny", "it does not compile")}, fp32=OF_ONNX)
    assert decision.nearest == "compact"
    steps = decision.next
    assert steps and not [step for step in steps if "qat." in step]


def test_a_memory_goal_that_no_rung_meets_asks_for_a_lower_rung() -> None:
    decision = decided(with_goals(max_memory_bytes=500))
    assert decision.nearest == "tiny"
    assert decision.next == ("the ladder ends at 4-bit weights: a smaller network, or a higher limit, is what is left",)


def test_estimates_count_only_where_they_are_accepted() -> None:
    targets = measured(dict.fromkeys(RUNGS, 1.0), "estimated")
    refused_here = decided(with_goals(max_latency_ms=2.0), targets=targets)
    assert refused_here.chosen is None
    assert "is an estimate" in refused_here.reason
    assert any("accept_latency_estimates: true" in step for step in refused_here.next)
    accepted = decided(with_goals(max_latency_ms=2.0, accept_latency_estimates=True), targets=targets)
    assert accepted.chosen == "tiny"
    assert "1.000 ms (estimated)" in accepted.reason


def test_a_measured_latency_over_the_limit_refuses_the_rung() -> None:
    targets = measured({"fp16": 5.0, "balanced": 1.0, "compact": 5.0, "tiny": 5.0})
    decision = decided(with_goals(max_latency_ms=2.0), targets=targets)
    assert decision.chosen == "balanced"
    assert "latency in ms (measured) 5 over goals.max_latency_ms 2" in outcome(decision, "tiny")


def test_a_soc_that_refuses_a_rung_is_named_as_the_reason() -> None:
    params = with_goals("QCS6490", policy="step-down")
    decision = decided(params, targets={"fp16": refused("fp16", "QCS6490 does not take FP16")})
    assert decision.chosen == "balanced"
    assert outcome(decision, "fp16") == "not chosen: not measured on target: QCS6490 does not take FP16"


def on_second(**latencies: float | None) -> dict[str, dict[str, Measurement]]:
    """Give records of QCS6490 that are as good as the first SoC's; None: it does not take the rung."""
    return {
        rung: {
            "QCS6490": refused(rung, f"QCS6490 does not take {rung}")
            if ms is None
            else on(rung, soc="QCS6490", latency_ms=ms, latency_source="measured")
        }
        for rung, ms in latencies.items()
    }


SECOND = on_second(fp16=None, balanced=9.0, compact=4.0, tiny=6.0)


def test_a_soc_that_has_no_goals_is_measured_and_not_judged() -> None:
    decision = decided(with_goals(socs=["QCS6490"]), socs=SECOND)
    assert decision.chosen == "tiny"
    assert decision.trail[-1].measured.socs["QCS6490"].latency_ms == 6.0
    assert "QCS6490" not in decision.reason


def test_a_decision_holds_on_every_soc_that_goals_name_and_the_trail_says_which_fails() -> None:
    params = with_goals(socs=["qcs6490"], per_soc={"qcs6490": {"max_latency_ms": 5.0}})
    decision = decided(params, socs=SECOND)
    assert decision.chosen == "compact"
    assert decision.reason.endswith("; the goals hold on QCS6490 too")
    late = "on QCS6490: latency in ms (measured) 6 over goals.per_soc.QCS6490.max_latency_ms 5"
    assert outcome(decision, "tiny") == f"not chosen: {late}"
    assert "on QCS6490: not measured on target: QCS6490 does not take fp16" in outcome(decision, "fp16")
    assert decision.trail[0].goals.per_soc == {"qcs6490": {"max_latency_ms": 5.0}}


def test_goals_hold_on_a_named_soc_as_they_stand_where_it_asks_nothing_else() -> None:
    bad = {rung: {"QCS6490": on(rung, 0.02 if rung == "tiny" else 0.0, soc="QCS6490")} for rung in RUNGS}
    decision = decided(with_goals(socs=["QCS6490"], per_soc={"QCS6490": {}}), socs=bad)
    assert decision.chosen == "compact"
    assert "on QCS6490: drop on target 0.02 over goals.max_drop 0.01" in outcome(decision, "tiny")
    waived = with_goals(socs=["QCS6490"], per_soc={"QCS6490": {"max_drop": None, "min_value": 0.5}})
    assert decided(waived, socs=bad).chosen == "tiny"


def test_the_first_soc_may_have_goals_of_its_own_on_target() -> None:
    params = with_goals(per_soc={"SM8650": {"max_memory_bytes": 3500}})
    decision = decided(params)
    over = "context binary in bytes 4,000 over goals.per_soc.SM8650.max_memory_bytes 3,500"
    assert outcome(decision, "fp16") == f"not chosen: {over}"


def test_where_a_named_soc_takes_nothing_the_next_step_names_it() -> None:
    params = with_goals(socs=["QCS6490"], per_soc={"QCS6490": {}})
    decision = decided(params, socs=on_second(fp16=None, balanced=None, compact=None, tiny=None))
    assert decision.chosen is None
    assert any("leave QCS6490 out of goals.per_soc" in step for step in decision.next)


def test_a_gap_between_target_and_simulation_refuses_a_rung() -> None:
    decision = decided(with_goals(), targets={"tiny": on("tiny", gap=0.2)})
    assert decision.chosen == "compact"
    assert "over target.max_gap" in outcome(decision, "tiny")


@pytest.mark.parametrize(
    ("goals", "good"),
    [
        ({"max_drop": 0.009}, True),
        ({"max_drop": 0.0089}, False),
        ({"max_drop": None, "max_relative_drop": 0.01}, True),
        ({"max_drop": None, "max_relative_drop": 0.0099}, False),
        ({"max_drop": None, "min_value": 0.891}, True),
        ({"max_drop": None, "min_value": 0.892}, False),
    ],
)
def test_accuracy_goals_hold_up_to_their_limit(goals: dict[str, Any], good: bool) -> None:
    fp32 = off("fp16")
    verdict = judge(with_goals(**goals), "tiny", off("tiny", 0.009), on("tiny", 0.009), fp32)
    assert verdict.good is good
    held_out = HeldOut(samples=100, fitted=False, value=0.9 - 0.009, drop=0.009)
    needed, _ = qat_verdict("needed", with_goals(**goals).goals, off("tiny", 0.5, held_out=held_out))
    assert needed is not good


def test_a_relative_drop_is_of_fp32_where_lower_is_better() -> None:
    lower, fp32 = {"value": 2.2, "drop": 0.2}, off("fp16", higher_is_better=False, value=2.2, drop=0.2)
    params = with_goals(max_drop=None, max_relative_drop=0.1)
    assert judge(params, "tiny", off("tiny", **lower), on("tiny", **lower), fp32).good
    strict = with_goals(max_drop=None, max_relative_drop=0.099)
    assert not judge(strict, "tiny", off("tiny", **lower), on("tiny", **lower), fp32).good


@pytest.mark.parametrize(("value", "good"), [(0.0, True), (0.001, False)])
def test_an_error_of_zero_against_zero_is_no_relative_drop(value: float, good: bool) -> None:
    params = with_goals(max_drop=None, max_relative_drop=0.1)
    found = {"value": value, "drop": value}
    fp32 = off("fp16", higher_is_better=False, value=0.0)
    assert judge(params, "tiny", off("tiny", **found), on("tiny", **found), fp32).good is good


def test_min_value_is_refused_where_lower_is_better() -> None:
    lower = {"higher_is_better": False}
    with pytest.raises(UserError, match=r"goals\.min_value.*use goals\.max_drop"):
        judge(with_goals(min_value=0.5), "tiny", off("tiny"), on("tiny"), off("fp16", **lower))


def test_a_ladder_without_an_accuracy_goal_is_refused() -> None:
    with pytest.raises(ValueError, match="one of max_drop, max_relative_drop and min_value must be set"):
        GoalsParams(max_drop=None, max_relative_drop=None, min_value=None)


@pytest.mark.parametrize(
    ("policy", "drop", "descends"),
    [("sweep", 0.0, True), ("sweep", 0.5, True), ("step-down", 0.0, False), ("step-down", 0.5, True)],
)
def test_the_gate_opens_below_a_miss_and_in_a_sweep(policy: str, drop: float, descends: bool) -> None:
    params = with_goals(policy=policy)
    verdict = judge(params, "compact", off("compact", drop), on("compact", drop), off("fp16"))
    assert verdict.descends(policy) is descends


def test_the_gate_below_a_skipped_rung_stays_shut() -> None:
    verdict = judge(
        with_goals(policy="step-down"), "tiny", skipped_off("tiny"), refused("tiny", "skipped"), off("fp16")
    )
    assert not verdict.good
    assert verdict.descends("step-down") is False


def test_the_pareto_front_has_no_rung_that_another_beats() -> None:
    decision = decided(with_goals(), {"fp16": 0.001, "balanced": 0.0, "compact": 0.003, "tiny": 0.003})
    assert [entry.rung for entry in decision.trail if entry.pareto] == ["balanced", "tiny"]


def test_a_refused_rung_is_never_chosen_nor_nearest_and_opens_the_gate_below() -> None:
    reason = "the NPU of SM8650 does not take 1 of its ops: /head/Conv (Conv) in head (net.py:17)"
    decision = decided(with_goals(), targets={"tiny": refused("tiny", f"refused: {reason}")})
    assert decision.chosen == "compact"
    assert outcome(decision, "tiny") == f"refused: {reason}"
    assert decision.trail[-1].sources.on_target == "none: refused"
    drops = dict.fromkeys(RUNGS, 0.05)
    overflow = {"fp16": refused("fp16", "refused: FP16 overflows")}
    assert decided(with_goals(), drops, targets=overflow).nearest != "fp16"
    step_down = with_goals(policy="step-down")
    verdict = judge(step_down, "fp16", off("fp16"), overflow["fp16"], off("fp16"))
    assert verdict.descends("step-down") and summary(verdict).verdict == "refused"


def test_where_every_rung_is_refused_the_way_to_learn_why_is_named() -> None:
    targets = {rung: refused(rung, "refused: it does not compile") for rung in RUNGS}
    decision = decided(with_goals(), targets=targets)
    assert decision.chosen is None and "refused: it does not compile" in decision.reason
    assert decision.next == ("mend what the rungs are refused for; `bitladder check --task` tries it in seconds",)
