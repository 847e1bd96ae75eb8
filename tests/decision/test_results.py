"""What rungs left that are in params.yaml no longer."""

import pytest
from ruamel.yaml import YAML

from bitladder.decision.results import remove_dropped
from bitladder.params import load_params

OUTS = {
    "judge@{}": ["gates/{}.json", "metrics/rungs/{}.json"],
    "qat@{}": ["metrics/eval/{}.json", "build/qat/{}/sim.safetensors"],
    "export@{}": ["build/export/{}/model.onnx", "build/export/{}/aimet/model.onnx"],
    "profile@{}": ["build/target/{}/model_ctx_qnn.bin"],
}


@pytest.mark.parametrize("dropped", ["old", "eval", "export", "gates", "build"])
def test_a_dropped_rungs_outputs_go_and_no_others(dropped, params_with, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stages = {
        stage.format(rung): {"cmd": "it", "outs": [{"path": path.format(rung), "md5": "0"} for path in paths]}
        for rung in ("tiny", dropped)
        for stage, paths in OUTS.items()
    }
    for path in (tmp_path / out["path"] for stage in stages.values() for out in stage["outs"]):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with (tmp_path / "dvc.lock").open("w", encoding="utf-8") as lock:
        YAML().dump({"stages": stages}, lock)
    remove_dropped(load_params(params_with({})))
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left - {"dvc.lock", "params.yaml"} == {path.format("tiny") for paths in OUTS.values() for path in paths}
