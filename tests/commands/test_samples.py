"""How many samples a goal needs: by a guess, by what is said, by what was measured."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bitladder.commands.cli import app
from bitladder.params import load_params
from bitladder.statistics.verdict import samples_for
from records import SAMPLES, write_project
from support import ROOT


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Give a folder that has params.yaml and nothing else."""
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(*words):
    done = CliRunner().invoke(app, ["samples", *words])
    assert done.exit_code == 0, done.output
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.output.splitlines() if "|" in line]
    return {row[0]: dict(zip(table[0], row, strict=True)) for row in table[2:]}, done.output


def test_before_any_run_the_share_is_guessed_by_precision(folder):
    found, said = rows()
    assert list(found) == ["fp16", "balanced", "compact", "tiny"]
    needed = [int(row["samples needed"].replace(",", "")) for row in found.values()]
    assert needed == sorted(needed) and needed[0] < 2_000 < needed[-1]
    assert {row["which is"] for row in found.values()} == {"a guess"} and "right or wrong" in said
    assert not (folder / "metrics").exists()


def test_a_share_that_is_given_goes_for_all(folder):
    found, _ = rows("--disagree", "0.01", "--drop", "0.002")
    wanted = f"{samples_for(0.005, 0.01, 0.002, 0.95):,}"
    assert {row["samples needed"] for row in found.values()} == {wanted}


def test_after_a_run_it_goes_by_what_was_measured(folder):
    write_project(folder)
    found, said = rows()
    assert found["tiny"]["which is"] == "measured" and found["tiny"]["disagree with FP32"] == "0.40%"
    assert found["tiny"]["there are"] == f"{SAMPLES:,}" and "right or wrong" not in said


def test_a_metric_of_another_scale_is_planned_from_its_interval(folder):
    write_project(folder)
    path = folder / "metrics/decision.json"
    decision = json.loads(path.read_text())
    for entry in decision["trail"]:
        entry["measured"] |= {"method": "BCa bootstrap over samples", "drop": 1.0, "drop_low": -1.0, "drop_high": 3.0}
    path.write_text(json.dumps(decision))
    params = folder / "params.yaml"
    params.write_text(params.read_text().replace("  max_drop: 0.005         # of the metric ag", "  max_drop: 4  # ag"))
    assert load_params().goals.max_drop == 4
    found, _ = rows()
    assert found["tiny"]["samples needed"] == "511"  # 1,000 (2 / 4 * (1 + 0.842 / 1.960))^2
    Path("metrics/decision.json").unlink()
    assert rows()[0]["tiny"]["samples needed"] == "-"


def test_a_goal_of_fp32s_value_is_not_known_before_there_is_one(folder):
    params = folder / "params.yaml"
    relative = params.read_text().replace("max_drop: 0.005         # of the metric ag", "max_drop: null  # ag")
    params.write_text(
        relative.replace("max_relative_drop: null # the same as a share", "max_relative_drop: 0.01 # the", 1)
    )
    done = CliRunner().invoke(app, ["samples"])
    assert done.exit_code == 1 and "run `dvc repro baseline`, or set goals.max_drop" in done.output
    write_project(folder)
    params.write_text(relative.replace("min_value: null", "min_value: 0.88"))
    assert "Goal: 0.0200 of the metric" in rows()[1]  # FP32 has 0.9
