"""What the stages do, on a network of a few layers, in this process: that each does its step and tells of no other.

tests/pipeline has them as DVC runs them.
"""

import contextlib
import copy
import json
import shutil
from importlib import import_module

import numpy as np
import onnx
import pytest
from ruamel.yaml import YAML

from bitladder.bundle.arrays import load_arrays
from bitladder.bundle.verify import verify
from bitladder.network.evaluate import EQUAL_DB, predict, sqnr_db
from bitladder.network.model import build_model
from bitladder.network.outputs import StoredOutputs
from bitladder.params import load_params
from bitladder.paths import TRAINED, RungFiles
from bitladder.stages import compare
from bitladder.tasks.splits import load_samples
from bitladder.tasks.task import load_task
from support import ROOT

PIPELINE = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"]

TASK = """
import torch
from torch import nn
from torch.nn import functional

from bitladder.tasks.task import SPLITS, Metric, Split, Task

SIZES = {"train": 256, "calibration": 64, "evaluation": 64}


class Net(nn.Module):
    '''A Pad stands before its second convolution, which so has no quantizer of its own at the input.'''

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.pad = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ZeroPad2d((0, 1, 0, 1))
        self.padded, self.flatten, self.head = nn.Conv2d(8, 8, 3, stride=2), nn.Flatten(), nn.Linear(8 * 9, 4)

    def forward(self, x):
        return self.head(self.flatten(self.padded(self.pad(self.relu(self.conv(x))))))


def splits(seed):
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name in SPLITS:
        labels = torch.randint(0, 4, (SIZES[name],), generator=generator)
        images = torch.randn(len(labels), 3, 8, 8, generator=generator)
        images[torch.arange(len(labels)), labels % 3] += 0.5 + labels[:, None, None] / 4
        made[name] = Split({"image": images}, labels)
    return made


def task():
    accuracy = Metric("accuracy", lambda logits, targets: (logits.argmax(1) == targets).double().mean().item())
    return Task(Net, splits, functional.cross_entropy, accuracy)
"""

CHANGES = {
    "task": {"factory": "own.py:task", "files": {"code": "own.py"}},
    "train.epochs": 2,
    "ladder": {
        "wide": {"weights": 8, "activations": 16, "after": "fp16"},
        "narrow": {"weights": 4, "activations": 8, "after": "wide"},
    },
    "ptq.techniques": ["min-max"],
    "ptq.samples": 64,
    "qat.when": "always",
    "qat.epochs": 2,
    "qat.learning_rate": 3e-3,
    "goals.max_drop": 0.5,
    "verify.max_drop": 0.1,
    "sensitivity.samples": 16,
    "export": {"samples": 8, "min_sqnr_db": 30},
    "target.samples": 8,
    "target.workers": 1,
    "target.max_gap": 0.5,
    "bundle.samples": 8,
}

RUN = [
    ("sources",), ("task", "code"), ("data",), ("train",), ("baseline",), ("fp16",), ("verify",), ("sensitivity",),
    ("profile", "fp16"), ("judge", "fp16"),
    *((stage, rung) for rung in ("wide", "narrow") for stage in ("ptq", "qat", "export", "profile", "judge")),
    ("compare",), ("bundle",),
]  # fmt: skip

STALE = '{"value": 1.0, "stale": true}'


def declared(stage: str, rung: str | None) -> list[str]:
    """Give what dvc.yaml says that a stage leaves."""
    block = PIPELINE[f"{stage}-fp16" if rung == "fp16" else stage]
    block = block.get("do", block)
    entries = [*block.get("outs", []), *block.get("metrics", []), *block.get("plots", [])]
    return [str(next(iter(one)) if isinstance(one, dict) else one).replace("${key}", str(rung)) for one in entries]


@pytest.fixture(scope="module")
def project(tmp_path_factory, default_params):
    """Run the stages in a folder of their own, where every metric that they leave was there before, of another run."""
    root = tmp_path_factory.mktemp("stages")
    values = copy.deepcopy(default_params)
    for key, value in CHANGES.items():
        *parents, last = key.split(".")
        block = values
        for parent in parents:
            block = block[parent]
        block[last] = value
    with (root / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(values, file)
    (root / "own.py").write_text(TASK)
    for name in ("stages", "src"):
        (root / name).symlink_to(ROOT / name)
    (root / "gates").mkdir()
    with contextlib.chdir(root):
        params = load_params()
        for stage, *words in RUN:
            for path in map(root.joinpath, declared(stage, *(words or [None]))):
                if "metrics" in path.parts:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(STALE)
            import_module(f"bitladder.stages.{stage}").main(params, *words)
    return root


def fp32_outputs(project) -> dict:
    """Give FP32's outputs of the evaluation split."""
    with contextlib.chdir(project):
        params = load_params()
        task = load_task(params.task.factory, params.task.args)
        return predict(build_model(task, TRAINED), load_samples(task, params, "evaluation").first(8), 8, "")


def simulated(project, rung: str) -> dict:
    """Give the simulation's outputs of the samples that the target runs."""
    return StoredOutputs(project / RungFiles(rung).outputs).whole()


def record(project, path: str) -> dict:
    return json.loads((project / path).read_text())


@pytest.mark.parametrize("stage", RUN, ids="@".join)
def test_a_stage_leaves_all_that_it_declares_and_no_old_metric(project, stage):
    for path in map(project.joinpath, declared(stage[0], *(stage[1:] or [None]))):
        assert path.exists(), path
        assert path.is_dir() or STALE.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(("rung", "bits"), [("wide", (8, 16)), ("narrow", (4, 8))])
def test_a_rung_is_quantized_with_its_own_bits(project, rung, bits):
    encodings = record(project, f"build/ptq/{rung}/encodings.json")
    weights = {item["bw"] for name, item in encodings.items() if "param_quantizers.weight" in name}
    activations = {item["bw"] for name, item in encodings.items() if "output_quantizers" in name}
    assert (weights, activations) == ({bits[0]}, {bits[1]})
    found = record(project, f"metrics/ptq/{rung}.json")
    assert (found["weights_bits"], found["activations_bits"]) == bits


@pytest.mark.parametrize(("rung", "least", "most"), [("wide", 26, 70), ("narrow", 5, 26)])
def test_ptq_answers_as_a_quantized_network_and_tells_of_its_own_answers(project, rung, least, most):
    assert least < record(project, f"metrics/ptq/{rung}.json")["sqnr_db"] < most
    told = record(project, f"metrics/eval/{rung}.json")["sqnr_db"]
    assert told == pytest.approx(sqnr_db(fp32_outputs(project), simulated(project, rung)), abs=3)  # of 8 of them


def test_qat_that_is_asked_for_trains_and_hands_on_what_it_trained(project):
    rows = (project / "metrics/qat/narrow.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "0", "1", "2"]
    found, before = record(project, "metrics/eval/narrow.json"), record(project, "metrics/ptq/narrow.json")
    assert (found["technique"], found["qat"]) == ("qat", "run: qat.when is always")
    assert found["value"] > before["value"]
    for name in ("sim", "scores"):
        paths = [project / f"build/{stage}/narrow/{name}.safetensors" for stage in ("ptq", "qat")]
        assert paths[0].read_bytes() != paths[1].read_bytes()


def test_the_exported_graph_is_quantized_and_its_biases_are_what_the_npu_reads(project):
    graph = onnx.load(project / "build/export/wide/model.onnx").graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("QuantizeLinear") >= 3 and kinds.count("DequantizeLinear") > kinds.count("QuantizeLinear")
    assert "QuantizeLinear" not in {
        node.op_type for node in onnx.load(project / "build/export/wide/aimet/model.onnx").graph.node
    }
    assert record(project, "metrics/export/wide.json")["sqnr_db"] > 60


@pytest.mark.parametrize("rung", ["fp16", "wide", "narrow"])
def test_the_target_is_told_from_the_simulation(project, rung):
    """Int32 biases as AIMET exports them leave under 10 dB here; the simulation's own answers would be its equals."""
    found = record(project, f"metrics/target/{rung}.json")
    # a model of the NPU's integers, proved on the 8 that the emulator ran, ran all
    proved = found.get("exact", {"samples": 8, "used": False})
    assert proved["samples"] == 8 and found["samples"] == (64 if proved["used"] else 8) and found["ops_cpu"] == 0
    assert proved["used"] is (rung != "fp16")
    assert 20 < found["sqnr_db"] < EQUAL_DB


def test_the_bundle_holds_what_the_target_answers(project):
    decision = record(project, "metrics/decision.json")
    assert decision["chosen"] == record(project, "deploy/manifest.json")["rung"] == "narrow"
    with contextlib.chdir(project):
        good, bad = verify(project / "deploy", load_params(), 60)
    assert not bad
    assert any("gives the recorded outputs, bit for bit, on 8 samples" in line for line in good)
    answers = load_arrays(project / "deploy/SM8650/answers.npz")["output"]
    for others in (fp32_outputs(project), simulated(project, "narrow")):
        assert not np.array_equal(answers, others["output"][:8].numpy())


def test_a_decision_is_of_the_metrics_that_are_there_now(project, tmp_path):
    """A rung that misses a goal in the new records is not the answer, whatever an older comparison says."""
    shutil.copytree(project / "metrics", tmp_path / "metrics")
    shutil.copy(project / "params.yaml", tmp_path)
    (tmp_path / "build").symlink_to(project / "build")
    path = tmp_path / "metrics/target/narrow.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"drop": 0.9, "value": 0.05}))
    with contextlib.chdir(tmp_path):
        compare.main(load_params())
    decision = record(tmp_path, "metrics/decision.json")
    assert decision["chosen"] == "wide"
    assert "drop on target 0.9 over goals.max_drop" in decision["trail"][-1]["outcome"]
    assert "narrow,W4A8,accuracy" in (tmp_path / "metrics/comparison.csv").read_text()
    assert ",0.05,0.9," in (tmp_path / "metrics/comparison.csv").read_text()
