"""Goals held against intervals: what the samples decide, what they do not, and what a user is told of it."""

from typing import Any

import numpy as np
import pytest

from bitladder.decision.comparisons import OFF_TARGET
from bitladder.decision.decide import decide
from bitladder.decision.goals import judge, summary
from bitladder.records import RungDecision
from bitladder.statistics.scores import FP32, NETWORK, SIMULATION, Scores
from records import RUNGS, off, on, refused, rung_scores, scores, skipped_off, with_goals

FLOAT = off("fp16")


def judged(drop: float, samples: int, **goals: Any):
    params = with_goals(**goals)
    return judge(params, "tiny", off("tiny", drop), on("tiny", drop), FLOAT, None, rung_scores(drop, samples))


def of(values: Any) -> Scores:
    array = np.array(values, dtype=float)
    return Scores(len(array), float(array.mean()), array)


@pytest.mark.parametrize(
    ("drop", "samples", "verdict"), [(0.0, 10_000, "holds"), (0.009, 1_000, "undecided"), (0.05, 1_000, "fails")]
)
def test_a_goal_holds_or_fails_where_the_samples_say_so(drop: float, samples: int, verdict: str) -> None:
    found = judged(drop, samples).measured
    assert (found.verdict, found.target_verdict) == (verdict, verdict)
    assert found.drop_low <= drop <= found.drop_high
    assert (found.lost, found.won, found.samples) == (round(drop * samples), 0, samples)
    assert (found.samples_to_settle is not None) == (verdict == "undecided")
    assert (found.gap_verdict, found.gap_lost) == ("holds" if samples > 1_000 else found.gap_verdict, 0)


def test_an_undecided_goal_is_accepted_with_a_sentence_and_refused_where_that_is_asked() -> None:
    accepted = judged(0.004, 1_000, max_drop=0.005)
    assert accepted.good and len(accepted.undecided) == 2
    assert accepted.undecided[0] == (
        "1,000 samples do not tell whether goals.max_drop 0.005 holds: drop off target was measured as 0.0040, and may"
        " be 0.0002 to 0.0102; about 37,000 samples would tell"
    )
    assert summary(accepted).verdict == "meets every goal, 2 undecided"
    strict = judged(0.004, 1_000, max_drop=0.005, undecided="refuse")
    assert not strict.good and strict.misses[0].text == f"goals.undecided is refuse: {accepted.undecided[0]}"
    assert judged(0.0, 10_000, max_drop=0.005, undecided="refuse").good
    assert strict.descends("step-down") and not accepted.descends("step-down")


def test_what_was_measured_over_the_limit_is_missed_even_if_it_may_be_chance() -> None:
    found = judged(0.006, 1_000, max_drop=0.005)
    assert not found.good and found.measured.verdict == "undecided"
    assert found.misses[0].text == "drop off target 0.006 over goals.max_drop 0.005"


def test_more_confidence_decides_less() -> None:
    assert judged(0.0, 1_000, max_drop=0.005).measured.verdict == "holds"
    assert judged(0.0, 1_000, max_drop=0.005, confidence=0.99).measured.verdict == "undecided"


def test_the_decision_says_of_the_chosen_rung_what_is_not_decided() -> None:
    places = {rung: rung_scores(0.004 if rung == "tiny" else 0.0, 1_000) for rung in RUNGS}
    evals = {rung: off(rung, 0.004 if rung == "tiny" else 0.0) for rung in RUNGS} | {"fp32": FLOAT}
    targets = {rung: on(rung, 0.004 if rung == "tiny" else 0.0) for rung in RUNGS}
    found = decide(with_goals(max_drop=0.005), evals, targets, None, places)
    assert found.chosen == "tiny" and "; undecided: 1,000 samples do not tell whether goals.max_drop" in found.reason
    assert found.reason.endswith("; 1 more goal is undecided")
    strict = decide(with_goals(max_drop=0.005, undecided="refuse"), evals, targets, None, places)
    assert strict.chosen == "compact" and "undecided" not in strict.reason
    entry = found.of("tiny")
    assert entry and [(one.goal, one.soc, one.verdict) for one in entry.verdicts] == [
        ("goals.max_drop", None, "undecided"),
        ("goals.max_drop", "SM8650", "undecided"),
        ("target.max_gap", "SM8650", "holds"),
    ]


def test_of_rungs_of_one_size_one_whose_goals_hold_beyond_chance_is_chosen() -> None:
    places = {rung: rung_scores(0.0, 1_000) for rung in RUNGS}
    lucky = scores(0.0, 1_000)[FP32].values
    lucky[:30], lucky[900:931] = 0.0, 1.0  # 30 lost, 31 won
    found = of(lucky)
    for place in places["tiny"].values():
        place.update({SIMULATION: found, NETWORK: found})
    evals = {rung: off(rung, -0.001 if rung == "tiny" else 0.0) for rung in RUNGS} | {"fp32": FLOAT}
    targets = {rung: on(rung, -0.001 if rung == "tiny" else 0.0, memory_bytes=81_920) for rung in RUNGS}
    decision = decide(with_goals(max_drop=0.005), evals, targets, None, places)
    assert decision.chosen == "compact" and "undecided" not in decision.reason
    outcomes = {entry.rung: entry.outcome for entry in decision.trail}
    assert outcomes["tiny"] == "not chosen: meets the goals and is as small, but compact meets them beyond chance"
    assert outcomes["balanced"] == "not chosen: meets the goals and is as small, but compact has fewer bits"


def test_of_the_most_accurate_rung_it_is_said_which_others_are_as_good() -> None:
    drops = {"fp16": 0.0, "balanced": 0.001, "compact": 0.0, "tiny": 0.03}
    evals = {rung: off(rung, drop) for rung, drop in drops.items()} | {"fp32": FLOAT}
    targets = {rung: on(rung, drop) for rung, drop in drops.items()}
    places = {rung: rung_scores(drop, 1_000) for rung, drop in drops.items()}
    found = decide(with_goals(objective="most-accurate", max_drop=0.02), evals, targets, None, places)
    assert found.chosen == "compact" and "as far as the samples tell, fp16, balanced are as accurate" in found.reason


@pytest.mark.parametrize(("right", "verdict"), [(9_500, "holds"), (9_010, "undecided"), (8_000, "fails")])
def test_a_least_value_is_held_against_the_values_own_interval(right: int, verdict: str) -> None:
    places = {OFF_TARGET: {FP32: of([1] * 10_000), NETWORK: of([1] * right + [0] * (10_000 - right))}}
    record = off("tiny", 1 - right / 10_000).model_copy(update={"value": right / 10_000})
    params = with_goals(max_drop=None, min_value=0.9)
    found = judge(params, "tiny", record, on("tiny"), FLOAT, None, places)
    assert found.measured.verdict == verdict
    one = next(held.verdict for held in found.held if held.verdict.soc is None)
    assert one.low <= one.value <= one.high and one.high - one.low < 0.02


def test_a_relative_drop_and_a_relative_gap_are_shares_of_the_reference() -> None:
    params = with_goals(max_drop=None, max_relative_drop=0.01)
    params = params.model_copy(
        update={"target": params.target.model_copy(update={"max_gap": None, "max_relative_gap": 0.01})}
    )
    found = judge(params, "tiny", off("tiny", 0.0045), on("tiny", 0.0045), FLOAT, None, rung_scores(0.0045))
    drop, _, gap = (one.verdict for one in found.held)
    assert (drop.goal, drop.value, drop.verdict) == ("goals.max_relative_drop", pytest.approx(0.005), "holds")
    assert drop.low == pytest.approx(found.measured.drop_low / 0.9)
    assert (gap.goal, gap.verdict) == ("target.max_relative_gap", "holds") and found.good


def test_where_lower_is_better_and_fp32_is_without_error() -> None:
    """No share of nothing can be lost: any error is endless, and none is none."""
    record = {"higher_is_better": False, "metric": "errors"}
    params = with_goals(max_drop=None, max_relative_drop=0.1)
    for wrong, verdict in ((0, "undecided"), (30, "fails")):
        found = {FP32: of([0] * 1_000), SIMULATION: of([0] * 1_000), NETWORK: of([1] * wrong + [0] * (1_000 - wrong))}
        value = wrong / 1_000
        off_target = off("tiny", **record).model_copy(update={"value": value, "drop": value})
        on_target = on("tiny").model_copy(update={"value": value, "drop": value})
        held = judge(
            params, "tiny", off_target, on_target, off("fp16", **record), None, {OFF_TARGET: found, "SM8650": found}
        )
        assert held.measured.verdict == verdict and held.good is (wrong == 0)


def test_a_metric_of_any_scale_has_goals_in_its_own_unit() -> None:
    """Perplexity, and an error of 1e-9."""
    generator = np.random.default_rng(0)
    for scale, limit in ((20.0, 1.5), (1e-9, 1e-10)):
        before = scale * generator.uniform(0.5, 1.5, 500)
        places = {OFF_TARGET: {FP32: of(before), NETWORK: of(before * 1.02)}}
        value, drop = float(before.mean() * 1.02), float(before.mean() * 0.02)
        record = off("tiny", higher_is_better=False).model_copy(update={"value": value, "drop": drop})
        params = with_goals(max_drop=limit)
        found = judge(params, "tiny", record, on("tiny"), off("fp16", higher_is_better=False), None, places)
        assert found.measured.verdict == "holds" and found.measured.method.startswith("BCa")
        low, high = found.measured.drop_low, found.measured.drop_high
        assert 0 < low < drop < high < 1.2 * drop
        strict = with_goals(max_drop=limit / 10)
        missed = judge(strict, "tiny", record, on("tiny"), off("fp16", higher_is_better=False), None, places)
        assert missed.measured.verdict == "fails" and not missed.good


@pytest.mark.parametrize("places", [{}, {OFF_TARGET: {FP32: of([1]), NETWORK: of([1])}}])
def test_without_an_interval_nothing_is_decided(places: Any) -> None:
    found = judge(with_goals(), "tiny", off("tiny"), on("tiny"), FLOAT, None, places)
    assert found.good and found.measured.verdict == "undecided" and found.measured.samples_to_settle is None
    assert "is not certain" in found.undecided[0]


def test_a_rung_that_was_left_out_has_no_verdict() -> None:
    found = judge(
        with_goals(policy="step-down"), "tiny", skipped_off("tiny"), refused("tiny", "skipped"), FLOAT, None, {}
    )
    assert (found.measured.verdict, found.measured.drop_low, found.held) == (None, None, ())


def test_further_socs_have_verdicts_where_goals_name_them() -> None:
    socs = {"QCS6490": on("tiny", 0.004, soc="QCS6490"), "SM8750": on("tiny", 0.004, soc="SM8750")}
    places = {**rung_scores(0.0), **{soc: scores(0.004, 1_000) for soc in socs}}
    params = with_goals(socs=list(socs), max_drop=0.01, per_soc={"QCS6490": {"max_drop": 0.005}})
    found = judge(params, "tiny", off("tiny"), on("tiny"), FLOAT, socs, places)
    assert {soc: one.verdict for soc, one in found.measured.socs.items()} == {"QCS6490": "undecided", "SM8750": None}
    assert found.measured.socs["SM8750"].drop_high > 0.005 and found.measured.verdict == "holds"
    assert found.undecided == (
        "on QCS6490: 1,000 samples do not tell whether goals.per_soc.QCS6490.max_drop 0.005 holds: drop on target was"
        " measured as 0.0040, and may be 0.0002 to 0.0102; about 37,000 samples would tell",
    )


def test_a_rung_in_the_decision_has_the_keys_that_scripts_read() -> None:
    keys = {"drop", "drop_low", "drop_high", "lost", "won", "verdict", "samples", "samples_to_settle"}
    keys |= {f"target_{key}" for key in keys} | {"gap_low", "gap_high", "gap_lost", "gap_won", "gap_verdict"}
    fields = RungDecision.model_fields["measured"].annotation.model_fields
    assert keys | {"gap_samples", "gap_samples_to_settle"} <= fields.keys()
