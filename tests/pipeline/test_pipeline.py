"""What `dvc repro` does after an edit, as a user sees it. Each test takes the clone as the one before left it."""

import json

import onnx
import pytest

import other_cpu
from clones import SMALL, make_clone
from support import ROOT

pytestmark = pytest.mark.slow

RUNGS = ("compact", "tiny")

SUMMARY = {"compare", "bundle", "report", "track"}


def of_rungs(*stages: str) -> set[str]:
    return {f"{stage}@{rung}" for stage in stages for rung in RUNGS}


def test_every_rung_is_measured_and_one_is_decided_on(clone):
    for rung, bits in (("compact", (8, 8)), ("tiny", (4, 8))):
        record = json.loads((clone.root / f"metrics/eval/{rung}.json").read_text())
        assert (record["weights_bits"], record["activations_bits"]) == bits
        assert record["samples"] == 100 and record["qat"].startswith("run: qat.when is always")
        target = json.loads((clone.root / f"metrics/target/{rung}.json").read_text())
        assert target["samples"] == 20 and target["ops_cpu"] == 0 and target["sqnr_db"] > 15
        # Latencies are published at W8A8 and not at W4A8
        assert (target["latency_ms"] is None) == (rung == "tiny")
        assert target["latency_source"] == ("none" if rung == "tiny" else "estimated")
        graph = onnx.load(clone.root / f"build/export/{rung}/model.onnx")
        assert graph.opset_import[0].version == 21
        assert [value.name for value in (*graph.graph.input, *graph.graph.output)] == ["image", "output"]
    memory = {
        name: json.loads((clone.root / f"metrics/target/{name}.json").read_text())["memory_bytes"]
        for name in ("fp16", "compact", "tiny")
    }
    assert memory["fp16"] > memory["compact"] > memory["tiny"]
    decision = json.loads((clone.root / "metrics/decision.json").read_text())
    assert decision["chosen"] == "tiny"
    assert [entry["rung"] for entry in decision["trail"]] == ["fp16", "compact", "tiny"]
    shown = clone.run("bitladder", "show").stdout
    assert decision["reason"] in shown and "| balanced" not in shown


def test_qat_is_told_from_ptq_by_samples_that_ptq_was_not_fitted_to(clone):
    for rung in RUNGS:
        first = (clone.root / f"metrics/qat/{rung}.csv").read_text().splitlines()[1].split(",")
        held_out = json.loads((clone.root / f"metrics/ptq/{rung}.json").read_text())["held_out"]
        assert (held_out["samples"], held_out["fitted"]) == (40, False)
        assert (first[0], float(first[2])) == ("0", pytest.approx(held_out["value"], abs=1e-4))


def test_nothing_is_pickled_between_stages(clone):
    suffixes = {path.suffix for path in (clone.root / "build").rglob("*") if path.is_file()}
    assert suffixes <= {".safetensors", ".json", ".onnx", ".encodings", ".bin", ".csv", ".lock"}


def test_a_second_run_runs_nothing_and_logs_nothing(clone):
    assert clone.repro().ran == set()
    assert "nothing logged" in clone.run("bitladder", "track").stdout


def test_a_comment_and_what_changes_no_result_rerun_nothing(clone):
    path = clone.root / "params.yaml"
    path.write_text("# A remark\n" + path.read_text())
    clone.edit({"target.workers": 1, "target.sample_limit_s": 99, "compute.cluster": "local"})
    assert clone.repro().ran == set()


def test_a_bit_width_reruns_its_own_rung_and_nothing_else(clone):
    clone.edit({"ladder.tiny.activations": 16})
    done = clone.repro()
    own = {f"{stage}@tiny" for stage in ("ptq", "qat", "export", "profile", "judge")}
    assert done.ran == own | SUMMARY, done.text[-3000:]
    record = json.loads((clone.root / "metrics/eval/tiny.json").read_text())
    assert (record["weights_bits"], record["activations_bits"]) == (4, 16)
    clone.edit({"ladder.tiny.activations": 8})
    assert clone.repro().ran == {"judge@tiny"} | SUMMARY - {"bundle"}  # the rest comes from DVC's run cache


def test_an_edit_of_qat_does_not_rerun_ptq(clone):
    clone.edit({"qat.learning_rate": 1e-3})
    ran = clone.repro().ran
    assert of_rungs("qat") <= ran <= of_rungs("qat", "export", "profile", "judge") | SUMMARY


def test_a_goal_is_judged_without_quantizing_again(clone):
    clone.edit({"goals.max_memory_bytes": 1})
    assert clone.repro().ran == of_rungs("judge") | {"judge-fp16"} | SUMMARY
    decision = json.loads((clone.root / "metrics/decision.json").read_text())
    assert decision["chosen"] is None
    assert "over goals.max_memory_bytes 1" in decision["reason"]
    assert [path.name for path in (clone.root / "deploy").iterdir()] == ["manifest.json"]
    assert f"ships nothing: {decision['reason']}" in clone.run("bitladder", "verify", "deploy").stdout
    clone.edit({"goals.max_memory_bytes": None})
    assert clone.repro().code == 0


def test_bad_params_stop_the_run_with_one_line_and_lose_nothing(clone):
    kept = (clone.root / "build/ptq/compact/sim.safetensors").read_bytes()
    clone.edit({"ladder.tiny.weights": 5})
    done = clone.repro()
    assert done.code != 0
    assert ": params.yaml: ladder.tiny: SM8650 does not take W5A8" in done.text
    assert "Traceback" not in done.text
    assert (clone.root / "build/ptq/compact/sim.safetensors").read_bytes() == kept
    clone.edit({"ladder.tiny.weights": 4})


def test_a_failed_w16a16_check_refuses_every_rung_and_leaves_fp16(clone):
    clone.edit({"verify.min_sqnr_db": 150})
    done = clone.repro()
    assert done.code == 0 and {"verify", "ptq@compact", "profile@compact"} <= done.ran
    assert "verify: W16A16 disagrees with FP32" in done.text and "Traceback" not in done.text
    decision = json.loads((clone.root / "metrics/decision.json").read_text())
    outcomes = {entry["rung"]: entry["outcome"] for entry in decision["trail"]}
    assert decision["chosen"] == "fp16"
    assert all(text.startswith("refused: W16A16") for rung, text in outcomes.items() if rung != "fp16")
    assert (clone.root / "build/w16a16-evidence/show.py").exists()
    assert "up to date" in clone.run("dvc", "status", "data", "train", "baseline").stdout
    clone.edit({"verify.min_sqnr_db": SMALL["verify"]["min_sqnr_db"]})
    assert clone.repro().code == 0


def test_another_environments_code_is_not_run_in_its_place(clone):
    done = clone.run("python", "stages/compare.py", PYTHONPATH=str(ROOT / "src"))
    assert done.returncode == 1
    assert "compare: bitladder is imported from" in done.stderr and "set PYTHONPATH=src" in done.stderr


def test_another_clone_gives_the_same_bytes_whatever_the_environment_and_the_processor_say(clone, tmp_path):
    """dvc.lock holds the hash of every output: data, weights, encodings, ONNX, context binaries, metrics."""
    other = make_clone(tmp_path)
    changed = {"qat.learning_rate": 1e-3}  # as the shared clone has it by now
    other.edit(changed)
    environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MKL_CBWR": "AUTO", "ATEN_CPU_CAPABILITY": "default"}
    processor = {} if other_cpu.why_not() else other_cpu.settings("amd")
    done = other.run("nice", "-n", "12", "dvc", "repro", **environment, **processor)
    assert done.returncode == 0, done.stderr[-3000:]

    def outputs(root):
        from ruamel.yaml import YAML

        stages = YAML(typ="safe").load((root / "dvc.lock").read_text())["stages"]
        return {
            out["path"]: out["md5"]
            for name, stage in stages.items()
            for out in stage.get("outs", [])
            if "balanced" not in name
        }

    assert outputs(other.root) == outputs(clone.root)
