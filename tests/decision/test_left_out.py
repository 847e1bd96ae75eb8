"""A rung that is left out passes through its stages without torch, leaves what DVC expects, and says why."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from records import write_project

ROOT = Path(__file__).parents[2]

STAGES = ("ptq", "qat", "export", "profile", "judge")


@pytest.fixture
def shut(tmp_path: Path) -> Path:
    """A project whose FP16 met every goal, where importing torch or AIMET fails."""
    write_project(tmp_path)
    params = tmp_path / "params.yaml"
    params.write_text(params.read_text().replace("policy: sweep ", "policy: step-down "))
    check = json.loads((tmp_path / "metrics/eval/fp32.json").read_text())
    (tmp_path / "metrics/eval/w16a16.json").write_text(json.dumps(check))
    (tmp_path / "gates").mkdir()
    (tmp_path / "gates/fp16.json").write_text('{"descend": false}')
    for name in ("torch", "aimet_torch", "onnxruntime"):
        (tmp_path / "fake").mkdir(exist_ok=True)
        (tmp_path / f"fake/{name}.py").write_text(f"raise RuntimeError('{name} was imported')")
    return tmp_path


def run(folder: Path, stage: str, rung: str) -> None:
    path = f"{folder / 'fake'}{os.pathsep}{ROOT / 'src'}"
    done = subprocess.run(
        [sys.executable, ROOT / f"stages/{stage}.py", rung],
        cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_every_stage_of_a_skipped_rung_leaves_what_dvc_expects(shut: Path) -> None:
    pipeline = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"]
    for stage in STAGES:
        run(shut, stage, "balanced")
        wanted = [*pipeline[stage]["do"]["outs"], *pipeline[stage]["do"].get("metrics", [])]
        for out in wanted:
            path = next(iter(out)) if isinstance(out, dict) else out
            assert (shut / path.replace("${key}", "balanced")).exists(), path


def test_a_skipped_rung_says_so_and_keeps_the_gate_below_it_shut(shut: Path) -> None:
    for stage in STAGES:
        run(shut, stage, "balanced")
    for kind in ("ptq", "eval", "export"):
        record = json.loads((shut / f"metrics/{kind}/balanced.json").read_text())
        assert record["skipped"] == "goals.policy is step-down, and a rung above meets every goal"
    target = json.loads((shut / "metrics/target/balanced.json").read_text())
    assert (target["value"], target["latency_source"], target["samples"]) == (None, "none", 0)
    assert json.loads((shut / "metrics/rungs/balanced.json").read_text())["verdict"] == "skipped"
    assert json.loads((shut / "gates/balanced.json").read_text()) == {"schema": 2, "descend": False}
    run(shut, "ptq", "compact")
    assert json.loads((shut / "metrics/ptq/compact.json").read_text())["value"] is None


def test_after_a_failed_w16a16_check_every_rung_is_refused_and_the_ladder_goes_on(shut: Path) -> None:
    (shut / "gates/fp16.json").write_text('{"descend": true}')
    check = json.loads((shut / "metrics/eval/w16a16.json").read_text())
    (shut / "metrics/eval/w16a16.json").write_text(json.dumps({**check, "refused": "W16A16 disagrees with FP32"}))
    for stage in STAGES:
        run(shut, stage, "balanced")
    for kind in ("ptq", "eval", "export"):
        record = json.loads((shut / f"metrics/{kind}/balanced.json").read_text())
        assert record["refused"] == "W16A16 disagrees with FP32" and "skipped" not in record
    assert json.loads((shut / "metrics/target/balanced.json").read_text())["reason"].startswith("refused: W16A16")
    assert json.loads((shut / "metrics/rungs/balanced.json").read_text())["verdict"] == "refused"
    assert json.loads((shut / "gates/balanced.json").read_text()) == {"schema": 2, "descend": True}
