"""The ladder as DVC runs it: one small clone, its goals edited step by step, each step reusing what is done.

Verdicts that need no run of their own (estimates, ties, objectives) are in tests/test_decide.py.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bitladder.decide import Decision

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow

JUDGED = {"judge-fp16", "judge@balanced", "judge@compact", "compare", "report"}


class Clone:
    """A copy of the project with a small task and two rungs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        for name in listed.stdout.splitlines():
            if not name.startswith(("metrics/", "gates/")) and name != "dvc.lock" and (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)

    def edit(self, change: Callable[[dict[str, Any]], None]) -> None:
        yaml = YAML()
        path = self.folder / "params.yaml"
        data = yaml.load(path)
        change(data)
        yaml.dump(data, path)

    def repro(self, *targets: str) -> set[str]:
        """Run the pipeline up to these stages (all but MLflow's if none is named); name the stages that ran."""
        done = self.dvc("repro", *(targets or ("report", "judge@compact")))
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return set(re.findall(r"Running stage '([^']+)'", done.stdout))

    def dvc(self, *words: str) -> subprocess.CompletedProcess[str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(self.folder / "src")}
        return subprocess.run(
            ["dvc", *words], cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )

    def json(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / path).read_text())
        return found

    def then(self) -> dict[str, str]:
        return {entry["rung"]: entry["then"] for entry in self.json("metrics/decision.json")["trail"]}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    made = Clone(tmp_path_factory.mktemp("ladder"))

    def small(data: dict[str, Any]) -> None:
        data["task"]["args"] = {"train": 600, "calibration": 100, "evaluation": 100}
        data["train"] |= {"epochs": 4}
        data["ladder"] = {
            "balanced": {"weights": 8, "activations": 16, "after": "fp16"},
            "compact": {"weights": 8, "activations": 8, "after": "balanced"},
        }
        data["ptq"] |= {"samples": 60, "max_drop": 1.0}
        data["qat"] |= {"epochs": 2}
        data["verify"] = {"max_drop": 1.0, "min_sqnr_db": 20}
        data["export"]["samples"] = data["target"]["samples"] = 20
        data["target"]["max_gap"] = 1.0
        data["goals"] |= {"policy": "step-down", "max_drop": 1.0}

    made.edit(small)
    return made


def work_of(rung: str) -> set[str]:
    return {f"{stage}@{rung}" for stage in ("ptq", "qat", "export", "profile", "judge")}


def test_first_rung_good_so_the_rest_is_skipped_and_says_so(clone: Clone) -> None:
    ran = clone.repro()
    assert work_of("balanced") | work_of("compact") <= ran
    assert clone.json("metrics/decision.json")["chosen"] == "fp16"
    assert clone.json("gates/fp16.json") == clone.json("gates/compact.json") == {"descend": False}
    reason = "skipped: fp16 (FP16) meets every goal, and goals.policy is step-down"
    assert clone.then()["balanced"] == clone.then()["compact"] == reason
    for path in ("metrics/ptq/compact.json", "metrics/eval/compact.json", "metrics/export/compact.json"):
        assert "goals.policy is step-down" in clone.json(path)["skipped"]
    record = clone.json("metrics/target/compact.json")
    assert record["value"] is None
    assert record["reason"].startswith("skipped: ")
    assert clone.json("metrics/rungs/compact.json")["verdict"] == "skipped"
    assert "compact,W8A8,accuracy,," in (clone.folder / "metrics/comparison.csv").read_text()
    assert reason in (clone.folder / "metrics/comparison.csv").read_text()
    assert "skipped" in (clone.folder / "reports/index.html").read_text()
    # No AIMET, no torch: the tensors of a skipped rung are empty files
    assert not (clone.folder / "build/qat/compact/sim.safetensors").stat().st_size
    assert clone.repro() == set()


def test_first_rung_too_big_so_the_second_is_tried(clone: Clone) -> None:
    size = clone.json("metrics/target/fp16.json")["memory_bytes"]
    clone.edit(lambda data: data["goals"].update(max_memory_bytes=size - 1))
    ran = clone.repro()
    decision = clone.json("metrics/decision.json")
    assert decision["chosen"] == "balanced"
    assert "over goals.max_memory_bytes" in clone.then()["fp16"]
    assert clone.then()["compact"].startswith("skipped: balanced")
    assert {"ptq@balanced", "profile@balanced"} <= ran
    assert set(decision) == set(Decision.__annotations__)
    # Goals are judged apart from profiling: an edit of one emulates nothing again
    assert "profile-fp16" not in ran


def test_an_upstream_edit_that_does_not_change_the_verdict_reruns_nothing_below(clone: Clone) -> None:
    before = clone.json("metrics/ptq/balanced.json")
    clone.edit(lambda data: data["ladder"]["balanced"].update(ptq={"samples": 20}))
    ran = clone.repro()
    assert clone.json("metrics/ptq/balanced.json") != before
    assert work_of("balanced") <= ran
    assert not ran & work_of("compact")


def test_nothing_good_exits_0_and_says_what_came_nearest(clone: Clone) -> None:
    clone.edit(lambda data: data["goals"].update(max_memory_bytes=1000, max_latency_ms=5.0))
    clone.repro()
    decision = clone.json("metrics/decision.json")
    assert (decision["chosen"], decision["nearest"]) == (None, "compact")
    # Each rung's latency is estimated, and under the limit; estimates count only where the user says so
    assert all("goals.accept_latency_estimates is false" in text for text in clone.then().values())
    assert any("8-bit" in step or "4-bit" in step for step in decision["next"])
    assert "No rung meets the goals" in (clone.folder / "reports/index.html").read_text()


def test_estimates_count_only_where_the_user_says_so(clone: Clone) -> None:
    clone.edit(lambda data: data["goals"].update(max_memory_bytes=None))
    assert clone.repro() <= JUDGED
    assert clone.json("metrics/decision.json")["chosen"] is None
    assert "is an estimate, goals.max_latency_ms asks for 5 and" in clone.then()["fp16"]
    clone.edit(lambda data: data["goals"].update(accept_latency_estimates=True))
    clone.repro()
    decision = clone.json("metrics/decision.json")
    assert decision["chosen"] == "fp16"
    assert "ms (estimated)" in decision["reason"]
    clone.edit(lambda data: data["goals"].update(accept_latency_estimates=False))
    clone.repro()


def test_ptq_bad_then_qat_good(clone: Clone) -> None:
    # Four epochs leave FP32 room to learn, so QAT raises every rung over what PTQ reached
    value = clone.json("metrics/ptq/balanced.json")["value"]
    accuracy_only = {"max_drop": None, "min_value": value + 0.01, "max_memory_bytes": None, "max_latency_ms": None}
    clone.edit(lambda data: data["goals"].update(accuracy_only))
    clone.repro()
    decision = clone.json("metrics/decision.json")
    assert decision["chosen"] == "balanced"
    entry = decision["trail"][1]
    assert (entry["technique"], entry["qat"].partition(":")[0]) == ("qat", "run")
    assert clone.then()["fp16"].startswith("not chosen: accuracy off target")
    assert clone.then()["compact"].startswith("skipped: balanced")


def test_a_second_soc_refuses_a_rung_for_itself_and_its_goals_are_held(clone: Clone) -> None:
    size = clone.json("metrics/target/fp16.json")["memory_bytes"]
    clone.edit(lambda data: data["goals"].update(min_value=None, max_drop=1.0, max_memory_bytes=size - 1))
    clone.edit(lambda data: data["target"].update(socs=["rb3-gen-2"]))
    ran = clone.repro()
    assert {"socs-fp16", "socs@balanced", "socs@compact"} <= ran
    assert not ran & {"profile-fp16", "profile@balanced"}  # what is measured on the first stays
    assert clone.json("metrics/decision.json")["chosen"] == "balanced"
    assert clone.json("metrics/socs/fp16.json")["QCS6490"]["reason"] == "QCS6490 does not take FP16"
    second = clone.json("metrics/socs/balanced.json")["QCS6490"]
    first = clone.json("metrics/target/balanced.json")
    assert (second["soc"], second["samples"]) == ("QCS6490", 20)
    assert second["memory_bytes"] > 0 and second["sqnr_db"] > 20
    assert set(second) == set(first)
    assert clone.json("metrics/socs/compact.json")["QCS6490"]["reason"].startswith("skipped")
    rows = (clone.folder / "metrics/comparison-socs.csv").read_text().splitlines()
    assert [row.split(",")[0:3:2] for row in rows[1:]] == [
        [rung, soc] for rung in ("fp16", "balanced", "compact") for soc in ("SM8650", "QCS6490")
    ]
    # Its goals are held too: the first rung that is good on both is the answer, or none
    clone.edit(lambda data: data["goals"].update(per_soc={"QCS6490": {"max_memory_bytes": 1000}}))
    ran = clone.repro()
    assert "socs@balanced" not in ran and "judge@balanced" in ran
    assert clone.json("gates/balanced.json") == {"descend": True}
    assert clone.json("metrics/decision.json")["chosen"] is None
    assert "on QCS6490: context binary in bytes" in clone.then()["balanced"]
    assert "over goals.per_soc.QCS6490.max_memory_bytes 1,000" in clone.then()["compact"]
    assert "on QCS6490: not measured on target: QCS6490 does not take FP16" in clone.then()["fp16"]
    clone.edit(lambda data: data["goals"].update(per_soc={}))
    clone.edit(lambda data: data["target"].update(socs=[]))


def test_a_soc_that_refuses_fp16_opens_the_gate_below_it(clone: Clone) -> None:
    clone.edit(lambda data: data["target"].update(soc="QCS6490"))
    ran = clone.repro("judge-fp16")
    assert {"profile-fp16", "judge-fp16"} <= ran <= {"profile-fp16", "socs-fp16", "judge-fp16"}
    assert clone.json("metrics/target/fp16.json")["reason"] == "QCS6490 does not take FP16"
    assert clone.json("gates/fp16.json") == {"descend": True}
    assert clone.json("metrics/rungs/fp16.json")["verdict"].startswith("misses")


def test_a_rung_that_the_soc_does_not_take_stops_the_run_before_any_work(clone: Clone) -> None:
    clone.edit(lambda data: data["ladder"]["compact"].update(weights=16, activations=16))
    done = clone.dvc("repro")
    assert done.returncode != 0
    assert "params.yaml: ladder.compact: QCS6490 does not take W16A16" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert "stage 'ptq@" not in done.stdout
