import json

import pytest

from bitladder.running.version import RELEASE
from support import ROOT

HEAVY = {"torch", "aimet_torch", "onnx", "onnxruntime", "mlflow", "pandas"}


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["check"], ["show"], ["timings"]])
def test_light_commands_start_without_heavy_imports(python, words):
    code = f"""
import json, sys
from typer.testing import CliRunner
from bitladder.commands.cli import app
CliRunner().invoke(app, {words!r})
print(json.dumps(sorted({HEAVY!r} & set(sys.modules))))
"""
    done = python(code, cwd=ROOT)
    assert json.loads(done.stdout) == [], done.stderr


@pytest.mark.parametrize("stage", ["compare", "track"])
def test_light_stages_start_without_torch(python, stage, tmp_path):
    """Some imports are inside functions, so main is called; without metrics it fails, after it has imported."""
    code = f"""
import json, sys
from bitladder.stages import {stage}
from bitladder.errors import UserError
from bitladder.params import load_params
from pathlib import Path
try:
    {stage}.main(load_params(Path({str(ROOT / "params.yaml")!r})))
except UserError:
    pass
print(json.dumps("torch" in sys.modules))
"""
    done = python(code, cwd=tmp_path)
    assert done.stdout.strip().endswith("false"), done.stderr


def test_version_is_the_release_in_any_folder(python, tmp_path):
    done = python("from bitladder.commands.cli import app; app(['--version'])", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout == f"bitladder {RELEASE}\n"


def test_check_says_what_would_run(python):
    done = python("from bitladder.commands.cli import app; app(['check'])", cwd=ROOT)
    assert done.returncode == 0
    assert "SM8650 on hexagon-emulator" in done.stdout
    assert "balanced W8A16, compact W8A8, tiny W4A8" in done.stdout


def test_show_prints_the_table_and_the_decision_of_the_metrics_in_git(python):
    done = python("from bitladder.commands.cli import app; app(['show'])", cwd=ROOT)
    decision = json.loads((ROOT / "metrics/decision.json").read_text("utf-8"))
    assert decision["reason"] in done.stdout
    for rung in ("fp32", "fp16", "balanced", "compact", "tiny"):
        assert f"| {rung} " in done.stdout


def test_show_without_results_says_what_to_run(python, tmp_path):
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    done = python("from bitladder.commands.cli import app; app(['show'])", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == "bitladder: metrics/eval/fp32.json: no such file; run `dvc repro`"
