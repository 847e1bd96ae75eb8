"""A real MLflow store on sqlite: what is logged, and that nothing is logged twice."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from bitladder.errors import UserError
from bitladder.params import load_params
from support import ROOT


@pytest.fixture(scope="module")
def migrated(tmp_path_factory):
    """Make a store once: MLflow takes long for the first tables."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def project(migrated, tmp_path, monkeypatch):
    """A folder with this commit's metrics and an empty store."""
    shutil.copytree(ROOT / "metrics", tmp_path / "metrics")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copy(migrated, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    # MLflow keeps one connection a URI and process, so each test needs a URI of its own
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return tmp_path


def runs():
    from mlflow import MlflowClient

    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("bitladder")
    found = client.search_runs([experiment.experiment_id])
    parents = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    return client, parents, [run for run in found if run not in parents]


def test_a_run_with_a_child_for_each_rung(project):
    from bitladder.report.tracking import track

    (project / "metrics/qat/tiny.csv").write_text("epoch,train_loss,value,loss\n0,,0.9,0.5\n1,0.4,0.95,0.3\n")
    assert "with 5 children" in track(load_params())
    client, (parent,), children = runs()
    assert parent.info.status == "FINISHED" and {child.info.status for child in children} == {"FINISHED"}
    assert parent.data.params["ladder.tiny.weights"] == "4"
    assert {item.path for item in client.list_artifacts(parent.info.run_id)} == {
        "comparison-socs.csv",
        "comparison.csv",
        "decision.json",
        "params.yaml",
        "report.html",
    }
    by_rung = {child.data.params["rung"]: child for child in children}
    assert set(by_rung) == {"fp32", "fp16", "balanced", "compact", "tiny"}
    eval_record = json.loads((project / "metrics/eval/tiny.json").read_text())
    target_record = json.loads((project / "metrics/target/tiny.json").read_text())
    tiny = by_rung["tiny"].data
    assert tiny.metrics["value"] == eval_record["value"]
    assert tiny.metrics["target.value"] == target_record["value"]
    assert tiny.metrics["target.memory_bytes"] == target_record["memory_bytes"]
    assert "target.latency_ms" not in tiny.metrics
    curve = client.get_metric_history(by_rung["tiny"].info.run_id, "qat.value")
    assert [(point.step, point.value) for point in curve] == [(0, 0.9), (1, 0.95)]
    chosen = json.loads((project / "metrics/decision.json").read_text())["chosen"]
    assert [name for name, child in by_rung.items() if child.data.tags["chosen"] == "true"] == [chosen]


def test_nothing_is_logged_twice_and_what_changed_is_logged(project):
    from bitladder.report.tracking import track

    track(load_params())
    assert "nothing logged" in track(load_params())
    assert len(runs()[1]) == 1
    path = project / "metrics/eval/tiny.json"
    path.write_text(path.read_text().replace('"value": 0.9', '"value": 0.8'))
    assert "with 5 children" in track(load_params())
    assert len(runs()[1]) == 2


def test_files_of_a_rung_that_was_removed_are_not_logged(project):
    from bitladder.report.tracking import track

    for kind in ("eval", "target"):
        shutil.copy(f"metrics/{kind}/tiny.json", f"metrics/{kind}/gone.json")
    track(load_params())
    assert "gone" not in {child.data.params["rung"] for child in runs()[2]}


def test_a_run_that_was_killed_is_logged_anew_as_a_whole(project, monkeypatch):
    from bitladder.report import tracking

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tracking, "_log_rung", killed)
        with pytest.raises(KeyboardInterrupt):
            tracking.track(load_params())
    assert [parent.info.status for parent in runs()[1]] == ["RUNNING"]
    assert "with 5 children" in tracking.track(load_params())
    _, parents, children = runs()
    assert [parent.info.status for parent in parents] == ["FINISHED"]
    assert len(children) == 5


def test_a_store_that_is_away_is_one_line(project, monkeypatch):
    from bitladder.report.tracking import track

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="the MLflow store did not take the metrics") as error:
        track(load_params())
    assert "\n" not in str(error.value)


LOG = """
import os, sys
from bitladder.params import load_params
from bitladder.report.tracking import track
print(track(load_params()))
"""


@pytest.mark.slow
def test_two_clones_that_log_the_same_at_once_leave_one_run(project):
    at_once = [subprocess.Popen([sys.executable, "-c", LOG], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = sorted(process.communicate(timeout=300)[0].strip() for process in at_once)
    assert "already there as run" in said[0] and "with 5 children" in said[1]
    _, parents, children = runs()
    assert [parent.info.status for parent in parents] == ["FINISHED"]
    assert len(children) == 5


def test_no_password_of_the_store_is_printed_or_logged(project, monkeypatch):
    from bitladder.report.tracking import track

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:planted-secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "planted-secret")
    with pytest.raises(UserError) as error:
        track(load_params())
    assert "127.0.0.1" in str(error.value) and "planted" not in str(error.value)


def test_the_stage_ends_well_while_the_store_is_away_and_the_command_sends_it_later(project):
    from bitladder.report.tracking import track

    away = {**os.environ, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    words = [sys.executable, str(ROOT / "stages/track.py")]
    done = subprocess.run(words, env=away, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "run `bitladder track` when it is back" in done.stderr and "Traceback" not in done.stderr
    assert "with 5 children" in track(load_params())


def test_a_store_is_made_whole_or_not_at_all(project):
    """Kill a first `track` at moments of MLflow's first tables; what it leaves must not stop the next one."""
    store = project / "mlflow.db"
    store.unlink()
    words = [
        sys.executable,
        "-c",
        "from bitladder.params import *; from bitladder.report.tracking import track; track(load_params())",
    ]
    for _ in range(3):
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        while not any(project.glob(".mlflow.db.*")):
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.2)
        process.kill()
        process.wait()
        assert not store.exists()
    subprocess.run(words, check=True)
    _, (parent,), _ = runs()
    assert parent.info.status == "FINISHED"


def test_a_damaged_store_is_named(project):
    from bitladder.report.tracking import track

    (project / "mlflow.db").write_bytes(b"SQLite format 3\0" + bytes(5000))
    with pytest.raises(UserError, match=r"the MLflow store sqlite:.*mlflow\.db is damaged"):
        track(load_params())
