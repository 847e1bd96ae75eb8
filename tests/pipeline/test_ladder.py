"""The ladder as DVC runs it: one small clone, its goals edited step by step, each step reusing what is done.

Verdicts that need no run of their own (estimates, ties, objectives) are in tests/test_decide.py.
"""

import json
from typing import Any

import pytest

from bitladder.decision.decide import Decision
from clones import SMALL, Clone, make_clone

pytestmark = pytest.mark.slow

JUDGED = {"judge-fp16", "judge@balanced", "judge@compact", "compare", "report"}

TWO_RUNGS = {
    **SMALL,
    "ladder": {
        "balanced": {"weights": 8, "activations": 16, "after": "fp16"},
        "compact": {"weights": 8, "activations": 8, "after": "balanced"},
    },
    "ptq.techniques": ["min-max"],
    "qat.when": "needed",
    "qat.epochs": 2,
    "goals.policy": "step-down",
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return make_clone(tmp_path_factory.mktemp("ladder"), TWO_RUNGS)


def repro(clone: Clone, *targets: str) -> set[str]:
    """Run the pipeline up to these stages (all but MLflow's if none is named); name the stages that ran."""
    done = clone.repro(*(targets or ("report", "judge@compact")))
    assert done.code == 0, done.text[-3000:]
    return done.ran


def record(clone: Clone, path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((clone.root / path).read_text())
    return found


def outcome(clone: Clone) -> dict[str, str]:
    return {entry["rung"]: entry["outcome"] for entry in record(clone, "metrics/decision.json")["trail"]}


def work_of(rung: str) -> set[str]:
    return {f"{stage}@{rung}" for stage in ("ptq", "qat", "export", "profile", "judge")}


def test_first_rung_good_so_the_rest_is_skipped_and_says_so(clone: Clone) -> None:
    ran = repro(clone)
    assert work_of("balanced") | work_of("compact") <= ran
    assert record(clone, "metrics/decision.json")["chosen"] == "fp16"
    assert record(clone, "gates/fp16.json") == record(clone, "gates/compact.json") == {"schema": 2, "descend": False}
    reason = "skipped: fp16 (FP16) meets every goal, and goals.policy is step-down"
    assert outcome(clone)["balanced"] == outcome(clone)["compact"] == reason
    for path in ("metrics/ptq/compact.json", "metrics/eval/compact.json", "metrics/export/compact.json"):
        assert "goals.policy is step-down" in record(clone, path)["skipped"]
    skipped = record(clone, "metrics/target/compact.json")
    assert skipped["value"] is None
    assert skipped["reason"].startswith("skipped: ")
    assert record(clone, "metrics/rungs/compact.json")["verdict"] == "skipped"
    assert "compact,W8A8,accuracy,," in (clone.root / "metrics/comparison.csv").read_text()
    assert reason in (clone.root / "metrics/comparison.csv").read_text()
    assert "skipped" in (clone.root / "reports/index.html").read_text()
    # No AIMET, no torch: the reason stands where the tensors of a skipped rung would be
    assert (clone.root / "build/qat/compact/sim.safetensors").read_text().startswith("skipped: ")
    assert repro(clone) == set()


def test_first_rung_too_big_so_the_second_is_tried(clone: Clone) -> None:
    size = record(clone, "metrics/target/fp16.json")["memory_bytes"]
    clone.edit({"goals.max_memory_bytes": size - 1})
    ran = repro(clone)
    decision = record(clone, "metrics/decision.json")
    assert decision["chosen"] == "balanced"
    assert "over goals.max_memory_bytes" in outcome(clone)["fp16"]
    assert outcome(clone)["compact"].startswith("skipped: balanced")
    assert {"ptq@balanced", "profile@balanced"} <= ran
    assert set(decision) == {"schema", *Decision.model_fields}
    # Goals are judged apart from profiling: an edit of one emulates nothing again
    assert "profile-fp16" not in ran


def test_an_upstream_edit_that_does_not_change_the_verdict_reruns_nothing_below(clone: Clone) -> None:
    before = record(clone, "metrics/ptq/balanced.json")
    clone.edit({"ladder.balanced.ptq": {"samples": 20}})
    ran = repro(clone)
    assert record(clone, "metrics/ptq/balanced.json") != before
    assert work_of("balanced") <= ran
    assert not ran & work_of("compact")


def test_nothing_good_exits_0_and_says_what_came_nearest(clone: Clone) -> None:
    clone.edit({"goals.max_memory_bytes": 1000, "goals.max_latency_ms": 5.0})
    repro(clone)
    decision = record(clone, "metrics/decision.json")
    assert (decision["chosen"], decision["nearest"]) == (None, "compact")
    # Each rung's latency is estimated, and under the limit; estimates count only where the user says so
    assert all("goals.accept_latency_estimates is false" in text for text in outcome(clone).values())
    assert any("8-bit" in step or "4-bit" in step for step in decision["next"])
    assert "No rung meets the goals" in (clone.root / "reports/index.html").read_text()


def test_estimates_count_only_where_the_user_says_so(clone: Clone) -> None:
    clone.edit({"goals.max_memory_bytes": None})
    assert repro(clone) <= JUDGED
    assert record(clone, "metrics/decision.json")["chosen"] is None
    assert "is an estimate, goals.max_latency_ms asks for 5 and" in outcome(clone)["fp16"]
    clone.edit({"goals.accept_latency_estimates": True})
    repro(clone)
    decision = record(clone, "metrics/decision.json")
    assert decision["chosen"] == "fp16"
    assert "ms (estimated)" in decision["reason"]
    clone.edit({"goals.accept_latency_estimates": False})
    repro(clone)


def test_ptq_bad_then_qat_good(clone: Clone) -> None:
    # Four epochs leave FP32 room to learn, so QAT raises every rung over what PTQ reached
    value = max(record(clone, f"metrics/{name}.json")["value"] for name in ("eval/fp16", "ptq/balanced"))
    others = dict.fromkeys(("goals.max_drop", "goals.max_memory_bytes", "goals.max_latency_ms"))
    clone.edit({"goals.min_value": value + 0.01} | others)
    repro(clone)
    decision = record(clone, "metrics/decision.json")
    assert decision["chosen"] == "balanced"
    entry = decision["trail"][1]
    assert (entry["technique"], entry["qat"].partition(":")[0]) == ("qat", "run")
    assert outcome(clone)["fp16"].startswith("not chosen: accuracy off target")
    assert outcome(clone)["compact"].startswith("skipped: balanced")


def test_a_second_soc_refuses_a_rung_for_itself_and_its_goals_are_held(clone: Clone) -> None:
    size = record(clone, "metrics/target/fp16.json")["memory_bytes"]
    clone.edit({"goals.min_value": None, "goals.max_drop": 1.0, "goals.max_memory_bytes": size - 1})
    clone.edit({"target.socs": ["rb3-gen-2"]})
    notes = clone.root / "build/notes/balanced"
    written = (notes / "SM8650/ops.csv").stat().st_mtime_ns
    ran = repro(clone)
    assert {"profile-fp16", "profile@balanced", "profile@compact"} <= ran
    assert (notes / "QCS6490/ops.csv").is_file()
    assert (notes / "SM8650/ops.csv").stat().st_mtime_ns == written  # nothing was measured again on the first
    assert record(clone, "metrics/decision.json")["chosen"] == "balanced"
    assert record(clone, "metrics/target/fp16.json")["socs"]["QCS6490"]["reason"] == "QCS6490 does not take FP16"
    first = record(clone, "metrics/target/balanced.json")
    second = first.pop("socs")["QCS6490"]
    del first["schema"]  # of the file
    kept = {path.name for path in (clone.root / "build/target/balanced").iterdir()}
    assert kept == {"SM8650", "SM8650.safetensors", "QCS6490", "QCS6490.safetensors"}
    assert (second["soc"], second["samples"]) == ("QCS6490", 20)
    assert second["memory_bytes"] > 0 and second["sqnr_db"] > 20
    assert set(second) == set(first)
    assert record(clone, "metrics/target/compact.json")["socs"]["QCS6490"]["reason"].startswith("skipped")
    rows = (clone.root / "metrics/comparison-socs.csv").read_text().splitlines()
    assert [row.split(",")[0:3:2] for row in rows[1:]] == [
        [rung, soc] for rung in ("fp16", "balanced", "compact") for soc in ("SM8650", "QCS6490")
    ]
    # Its goals are held too: the first rung that is good on both is the answer, or none
    clone.edit({"goals.per_soc": {"QCS6490": {"max_memory_bytes": 1000}}})
    ran = repro(clone)
    assert "profile@balanced" not in ran and "judge@balanced" in ran
    assert record(clone, "gates/balanced.json") == {"schema": 2, "descend": True}
    assert record(clone, "metrics/decision.json")["chosen"] is None
    assert "on QCS6490: context binary in bytes" in outcome(clone)["balanced"]
    assert "over goals.per_soc.QCS6490.max_memory_bytes 1,000" in outcome(clone)["compact"]
    assert "on QCS6490: not measured on target: QCS6490 does not take FP16" in outcome(clone)["fp16"]
    clone.edit({"goals.per_soc": {}})
    clone.edit({"target.socs": []})


def test_a_soc_that_refuses_fp16_opens_the_gate_below_it(clone: Clone) -> None:
    clone.edit({"target.soc": "QCS6490"})
    ran = repro(clone, "judge-fp16")
    assert {"profile-fp16", "judge-fp16"} <= ran <= {"sources", "fp16", "profile-fp16", "judge-fp16"}
    assert record(clone, "metrics/target/fp16.json")["reason"] == "QCS6490 does not take FP16"
    assert record(clone, "gates/fp16.json") == {"schema": 2, "descend": True}
    assert record(clone, "metrics/rungs/fp16.json")["verdict"].startswith("misses")


def test_a_rung_that_the_soc_does_not_take_stops_the_run_before_any_work(clone: Clone) -> None:
    clone.edit({"ladder.compact.weights": 16, "ladder.compact.activations": 16})
    done = clone.repro()
    assert done.code != 0
    assert "params.yaml: ladder.compact: QCS6490 does not take W16A16" in done.text
    assert "Traceback" not in done.text
    assert "stage 'ptq@" not in done.text
