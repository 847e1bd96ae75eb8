"""What MLflow's compare view has of the decision, and the registered model."""

from pathlib import Path

import pytest

from bitladder.errors import UserError
from bitladder.params import load_params
from records import write_project

pytestmark = pytest.mark.slow  # MLflow's import and its first database


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return tmp_path


def test_the_chosen_rung_is_tagged_and_registered_and_the_report_is_there(project: Path) -> None:
    from mlflow import MlflowClient

    from bitladder.report.tracking import track

    params = project / "params.yaml"
    params.write_text(params.read_text().replace("register_as: null", "register_as: digits"))
    with pytest.raises(UserError, match=r"build/export/tiny/model\.onnx: not here.*dvc pull"):
        track(load_params())
    graph = project / "build/export/tiny/model.onnx"
    graph.parent.mkdir(parents=True)
    graph.write_bytes(b"graph")
    assert "logged run" in track(load_params())
    assert "nothing logged" in track(load_params())

    client = MlflowClient()
    (experiment,) = [found.experiment_id for found in client.search_experiments() if found.name == "bitladder"]
    runs = [run for run in client.search_runs([experiment]) if run.info.status == "FINISHED"]
    parent = next(run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    own = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    rungs = {run.data.params["rung"]: run for run in own}
    assert rungs["tiny"].data.tags["chosen"] == "true"
    assert rungs["compact"].data.tags["verdict"].startswith("not chosen: meets the goals")
    tiny = rungs["tiny"].data
    settle = {"samples_to_settle", "target_samples_to_settle"}  # only where something is undecided
    assert set(tiny.metrics) == set(rungs["fp16"].data.metrics) | settle
    assert (tiny.metrics["lost"], tiny.metrics["target_won"]) == (4, 0)
    assert tiny.metrics["drop_low"] < tiny.metrics["drop"] < tiny.metrics["drop_high"]
    assert (tiny.tags["goals.off_target"], tiny.tags["goals.gap"]) == ("undecided", "holds")
    assert parent.data.metrics["chosen.memory_bytes"] == rungs["tiny"].data.metrics["target.memory_bytes"]
    assert "report.html" in {item.path for item in client.list_artifacts(parent.info.run_id)}
    version = client.get_model_version_by_alias("digits", "chosen")
    assert (version.run_id, version.tags["rung"]) == (rungs["tiny"].info.run_id, "tiny")
