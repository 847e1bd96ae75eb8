"""What a killed stage left is found again by the same work only: by nothing that would have come out otherwise."""

from pathlib import Path

import pytest

from bitladder.bundle import write
from bitladder.params import load_params
from bitladder.quantize import ptq
from bitladder.records import Decision, write_record
from bitladder.socs import find_soc
from bitladder.targets import profile

FILES = (
    "build/export/tiny/model.onnx",
    "build/data/evaluation.safetensors",
    "build/data/calibration.safetensors",
    "build/baseline/model.safetensors",
    "build/train/weights.safetensors",
    "build/export/tiny/reference.safetensors",
    "build/qat/tiny/scores.safetensors",
    "build/export/tiny/outputs/000000000.safetensors",
    "build/target/tiny/SM8650/model_ctx_qnn.bin",
    "build/target/tiny/QCS6490/model_ctx_qnn.bin",
    "build/task.json",
)


class Asked(BaseException):
    """What a workspace was asked for, in the place of one."""


@pytest.fixture
def key_of(tmp_path, monkeypatch, params_with):
    """Give a function that says by which key a stage looks for what it has done."""
    monkeypatch.chdir(tmp_path)
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    decision = Decision(chosen="tiny", reason="", policy="sweep", objective="smallest", nearest=None, next=(), trail=())
    write_record(tmp_path / "metrics/decision.json", decision)

    def ask(name: str, key: str, **_: bool) -> None:
        raise Asked(key)

    for module in (profile, ptq, write):
        monkeypatch.setattr(module, "workspace", ask)

    def find(stage: str, **changes) -> str:
        params = load_params(params_with({"target.socs": ["QCS6490"]} | changes))
        with pytest.raises(Asked) as asked:
            STAGES[stage](params)
        return str(asked.value)

    return find


STAGES = {
    "profile": lambda params: profile.profile_rung(params, "tiny", find_soc("SM8650")),
    "ptq": lambda params: ptq.quantize_rung(params, "tiny", None),
    "bundle": lambda params: write.write_bundle(params, Path("deploy")),
}


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("profile", {"target.backend": "snapdragon", "target.socs": []}),  # the emulator's answers are not the NPU's
        ("profile", {"target.samples": 7}),
        ("profile", {"target.exact": "off"}),
        ("ptq", {"target.soc": "SM8350", "ladder.balanced.activations": 8}),  # of another Hexagon generation
        ("ptq", {"seed": 1}),
        ("bundle", {"bundle.samples": 7}),
    ],
)
def test_other_params_find_nothing(key_of, stage, changes):
    assert key_of(stage) == key_of(stage)
    assert key_of(stage) != key_of(stage, **changes)


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("profile", "build/export/tiny/model.onnx"),
        ("ptq", "build/data/calibration.safetensors"),
        ("bundle", "build/data/evaluation.safetensors"),
        ("profile", "build/export/tiny/outputs/000000000.safetensors"),  # the gap to them is in the record
        ("profile", "build/task.json"),  # the metric is the task's
        ("bundle", "build/target/tiny/SM8650/model_ctx_qnn.bin"),
        ("bundle", "build/target/tiny/QCS6490/model_ctx_qnn.bin"),
    ],
)
def test_other_files_find_nothing(key_of, stage, name):
    before = key_of(stage)
    Path(name).write_text("edited")
    assert key_of(stage) != before
