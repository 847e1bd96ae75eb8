"""A network that comes as an ONNX file, without labels, through the whole pipeline."""

import json

import pytest
import torch
from torch import nn

from clones import SMALL, make_clone

pytestmark = pytest.mark.slow

TASK = """
import torch

from bitladder.tasks.label_free import label_free
from bitladder.tasks.onnx_model import OnnxModel

SAMPLES = {"train": 1, "calibration": 100, "evaluation": 100}


def samples(seed):
    generator = torch.Generator().manual_seed(seed)
    return {name: {"image": torch.rand(count, 3, 16, 16, generator=generator)} for name, count in SAMPLES.items()}


def task():
    return label_free(OnnxModel("net.onnx"), samples)
"""


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU6(), nn.Conv2d(16, 16, 3, groups=16), nn.ReLU6(),
        nn.Conv2d(16, 16, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    ).eval()  # fmt: skip


def test_an_onnx_file_goes_down_the_ladder_to_a_bundle_that_verifies(tmp_path):
    own = {"code": "task.py", "onnx": "net.onnx"}
    tiny = {**SMALL["ladder"]["tiny"], "ptq": {"techniques": ["cle", "gptq"]}}
    ladder = {"compact": SMALL["ladder"]["compact"], "tiny": tiny}
    task = {"task.factory": "task.py:task", "task.files": own, "task.args": {}}
    clone = make_clone(tmp_path, {**SMALL, **task, "ladder": ladder, "sensitivity.samples": 8})
    (tmp_path / "task.py").write_text(TASK)
    torch.onnx.export(
        network(), (torch.rand(1, 3, 16, 16),), str(tmp_path / "net.onnx"), input_names=["image"],
        output_names=["logits"], opset_version=17, dynamo=False, dynamic_axes={"image": {0: "n"}},
    )  # fmt: skip
    done = clone.repro()
    assert done.code == 0, done.text[-3000:]
    for rung in ("fp16", "compact", "tiny"):
        record = json.loads((tmp_path / f"metrics/target/{rung}.json").read_text())
        assert record["sqnr_db"] > 40, rung  # the NPU answers as the simulation does
    trained = json.loads((tmp_path / "metrics/eval/tiny.json").read_text())
    assert trained["value"] >= 0.9
    assert trained["technique"] == "ptq:min-max+cle+gptq"  # the exporter has folded the batch norm
    plain = json.loads((tmp_path / "metrics/eval/compact.json").read_text())
    assert plain["technique"] == "ptq:min-max"
    assert json.loads((tmp_path / "metrics/sensitivity.json").read_text())["worst"][0].startswith("/")  # a node's name
    assert "aimet-onnx trains nothing" in done.text + (tmp_path / "metrics/eval/tiny.json").read_text()
    assert json.loads((tmp_path / "metrics/decision.json").read_text())["chosen"] == "tiny"
    verified = clone.run("bitladder", "verify", "deploy")
    assert verified.returncode == 0, verified.stderr
    assert "bit for bit" in verified.stdout
    assert not clone.repro().ran
