"""Rungs that a network does not allow: each is refused with its reason, everywhere, and the run goes on to a decision.

The stages run in this process, on networks of a few layers; tests/pipeline has them as DVC runs them.
"""

import contextlib
import copy
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bitladder.params import load_params
from bitladder.records import ExportCheck, Gate, read_record, write_record
from bitladder.report.tables import block_notes
from support import ROOT

TASK = """
import torch
from aimet_torch.nn.modules import custom
from torch import nn

from bitladder.tasks.label_free import label_free


class Net(nn.Module):
    def __init__(self, scale, act, width):
        super().__init__()
        self.stem, self.act, self.head = nn.Conv2d(3, width, 3), act, nn.Conv2d(width, 4, 1)
        self.stem.weight.data *= scale

    def forward(self, image):
        x = self.stem(image)
        x = self.act(x)
        return self.head(x)


def model(scale, act, width):
    torch.manual_seed(0)
    return Net(scale, getattr(nn if hasattr(nn, act) else custom, act)(), width)


def samples(seed):
    generator = torch.Generator().manual_seed(seed)
    sizes = {"train": 8, "calibration": 24, "evaluation": 8}
    return {name: {"image": torch.randn(size, 3, 8, 8, generator=generator)} for name, size in sizes.items()}


def task(scale, act, width=8):
    return label_free(lambda: model(scale, act, width), samples, compare="cosine")
"""

CHANGES: dict[str, Any] = {
    "compute.threads": 1,
    "train.epochs": 0,
    "ladder": {
        "wide": {"weights": 8, "activations": 16, "after": "fp16"},
        "narrow": {"weights": 8, "activations": 8, "after": "wide"},
    },
    "ptq.techniques": ["min-max"],
    "ptq.samples": 16,
    "qat.when": "never",
    "sensitivity.samples": 8,
    "goals.max_drop": 0.5,
    "goals.policy": "sweep",
    "verify.max_drop": 0.1,
    "export.samples": 4,
    "target.samples": 4,
    "target.workers": 1,
    "target.max_gap": 0.5,
    "bundle.samples": 4,
}

BEFORE = [("sources",), ("task", "code"), ("data",), ("train",), ("baseline",), ("fp16",)]
AFTER = [
    ("verify",), ("sensitivity",), ("profile", "fp16"), ("judge", "fp16"),
    *((stage, rung) for rung in ("wide", "narrow") for stage in ("ptq", "qat", "export", "profile", "judge")),
    ("compare",), ("bundle",), ("report",),
]  # fmt: skip


class Project:
    def __init__(self, root, default_params, **args):
        self.root, self.values = root, copy.deepcopy(default_params)
        task = {"factory": "own.py:task", "files": {"code": "own.py"}, "args": args}
        (root / "own.py").write_text(TASK)
        (root / "gates").mkdir()
        for name in ("stages", "src"):
            (root / name).symlink_to(ROOT / name)
        self.edit({**CHANGES, "task": task})

    def edit(self, changes):
        for key, value in changes.items():
            *parents, last = key.split(".")
            block = self.values
            for parent in parents:
                block = block[parent]
            block[last] = value
        with (self.root / "params.yaml").open("w", encoding="utf-8") as file:
            YAML().dump(self.values, file)

    def run(self, stages):
        with contextlib.chdir(self.root):
            params = load_params()
            for stage, *words in stages:
                import_module(f"bitladder.stages.{stage}").main(params, *words)

    def record(self, path):
        return json.loads((self.root / path).read_text())

    def outcomes(self):
        return {entry["rung"]: entry["outcome"] for entry in self.record("metrics/decision.json")["trail"]}

    def check(self):
        """Run `check --task`; give its exit code, the lines that say `refused`, and what it ends with."""
        words = [str(Path(sys.executable).parent / "bitladder"), "check", "--task"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        done = subprocess.run(words, cwd=self.root, env=environment, capture_output=True, text=True, check=False)
        refused = [line.strip() for line in done.stdout.splitlines() if line.split()[0] == "refused"]
        return done.returncode, refused, done.stderr.splitlines()[-1:]


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory, default_params):
    """Activations past FP16's largest number, which integers hold."""
    project = Project(tmp_path_factory.mktemp("overflow"), default_params, scale=1e6, act="ReLU")
    project.run([*BEFORE, *AFTER])
    return project


@pytest.fixture(scope="module")
def foreign(tmp_path_factory, default_params):
    """An op that no NPU takes, at whatever precision."""
    project = Project(tmp_path_factory.mktemp("foreign"), default_params, scale=1.0, act="Erf")
    project.run([*BEFORE, *AFTER])
    return project


def test_fp16_that_overflows_is_refused_by_its_layer_and_another_rung_is_chosen(overflowing):
    reason = "FP16 overflows in layer 'stem': a sample gives infinity or NaN"
    assert overflowing.record("metrics/eval/fp16.json")["refused"].startswith(reason)
    assert overflowing.record("metrics/target/fp16.json")["reason"].startswith(f"refused: {reason}")
    assert overflowing.record("metrics/rungs/fp16.json")["verdict"] == "refused"
    assert overflowing.outcomes()["fp16"].startswith(f"refused: {reason}")
    assert overflowing.record("metrics/decision.json")["chosen"] in ("wide", "narrow")
    assert reason in (overflowing.root / "metrics/comparison.csv").read_text()
    assert "FP16 overflows in layer" in (overflowing.root / "reports/index.html").read_text()
    assert overflowing.record("gates/fp16.json")["descend"] is True


def test_an_op_that_the_npu_does_not_take_refuses_each_rung_by_layer_and_line(foreign):
    line = next(at for at, text in enumerate(TASK.splitlines(), 1) if "self.act(x)" in text)
    outcomes = foreign.outcomes()
    assert list(outcomes) == ["fp16", "wide", "narrow"]
    for outcome in outcomes.values():
        assert outcome.startswith("refused: build/export/")
        assert f" in act (own.py:{line})" in outcome
    assert "the NPU of SM8650 does not take 1 of its ops: /act/Erf (Erf)" in outcomes["narrow"]
    decision = foreign.record("metrics/decision.json")
    assert decision["chosen"] is None and "check --task" in decision["next"][0]
    # What was measured off target stays: the rung was refused after that
    assert foreign.record("metrics/eval/narrow.json")["sqnr_db"] > 20
    assert "refused" in (foreign.root / "reports/index.html").read_text()


def test_a_failed_w16a16_check_refuses_the_ladder_and_leaves_fp16(tmp_path, default_params):
    project = Project(tmp_path, default_params, scale=1.0, act="ReLU")
    project.edit({"verify.min_sqnr_db": 190})
    project.run([*BEFORE, *AFTER])
    outcomes = project.outcomes()
    assert outcomes["fp16"].startswith("chosen")
    for rung in ("wide", "narrow"):
        assert outcomes[rung].startswith("refused: W16A16 disagrees with FP32")
        assert project.record(f"metrics/eval/{rung}.json")["qat"] == "not run: the rung is refused"
    assert (project.root / "build/w16a16-evidence/show.py").exists()
    # and a graph that is not what was simulated is refused where it is exported, with nothing of it left
    project.edit({"verify.min_sqnr_db": 10, "export.min_sqnr_db": 250})
    project.run(AFTER)
    for rung in ("wide", "narrow"):
        assert "outputs differ from the QuantSim's" in project.record(f"metrics/export/{rung}.json")["refused"]
        assert (project.root / f"build/export/{rung}/model.onnx").read_text().startswith("refused: ")
        assert not list((project.root / f"build/export/{rung}/aimet").glob("model*"))
        assert project.outcomes()[rung].startswith("refused: build/export/")


def test_a_rung_says_which_layers_have_blocks_and_is_refused_where_none_can(tmp_path, default_params):
    project = Project(tmp_path, default_params, scale=1.0, act="ReLU", width=32)
    wide = {"weights": 8, "activations": 16, "after": "fp16", "weights_block": 16}
    project.edit({"ladder": {"wide": wide, "narrow": {**wide, "weights_block": 32}}})
    steps = (("ptq", "wide"), ("qat", "wide"), ("export", "wide"), ("ptq", "narrow"))
    write_record(project.root / "gates/fp16.json", Gate(descend=True))
    project.run([*BEFORE[1:-1], ("verify",), *steps])
    found = project.record("metrics/export/wide.json")
    assert found["block_weights"] == {"size": 16, "layers": ["head"], "per_channel": ["stem"]}
    assert {"rule": "block-bias", "node": "/head/Conv", "op": "Conv"} in found["repairs"]
    record = read_record(ExportCheck, project.root / "metrics/export/wide.json")
    assert block_notes({"wide": record}) == ["wide: a scale for each 16 input channels in head; per channel: stem"]
    blocks = record.block_weights.model_copy(update={"layers": tuple(f"block{i}.conv" for i in range(29))})
    many = record.model_copy(update={"block_weights": blocks})
    assert block_notes({"wide": many}) == [
        "wide: a scale for each 16 input channels in 29 of 30 layers; `block_weights` in metrics/export/wide.json names"
        " them"
    ]
    refused = project.record("metrics/ptq/narrow.json")["refused"]
    assert refused.startswith("ladder: weights_block: no Linear and no convolution of 1 x 1 has a multiple of 32 input")


def test_check_tells_what_repro_refuses(overflowing, foreign):
    code, refused, _ = overflowing.check()
    assert code == 0  # FP16 is no rung of the ladder
    assert len(refused) == 1 and "fp16: FP16 overflows in layer 'stem'" in refused[0]
    code, refused, ends = foreign.check()
    assert code == 1
    assert [line.split()[1] for line in refused] == ["fp16:", "wide:", "narrow:"]
    assert ends == ["bitladder: `dvc repro` would refuse of the ladder's rungs: wide, narrow"]
