"""A data set that streams, through the ladder: a detector with lists of boxes, judged by torchmetrics; and killed."""

import json
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from clones import Clone, make_clone

pytestmark = pytest.mark.slow

DETECTOR = {
    "compute.threads": 1,
    "task": {"factory": "detector.py:task", "files": {"code": "detector.py"}, "args": {}},
    "train": {"epochs": 8, "batch_size": 32, "learning_rate": 1e-2, "weight_decay": 1e-4},
    "evaluate.batch_size": 20,
    "goals.max_drop": 1.0,
    "verify": {"max_drop": 0.05, "min_sqnr_db": 30},
    "ladder": {"tiny": {"weights": 4, "activations": 8, "after": "fp16"}},
    "sensitivity.samples": 8,
    "ptq.techniques": ["min-max"],
    "ptq.samples": 40,
    "qat.when": "always",
    "qat.epochs": 1,
    "qat.batch_size": 32,
    "qat.checkpoint_steps": 3,
    "export.samples": 8,
    "export.min_sqnr_db": 20,
    "target.samples": 12,
    "target.max_gap": 1.0,
    "bundle.samples": 4,
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A pipeline that has run, and keeps what it has done after each batch."""
    made = make_clone(tmp_path_factory.mktemp("streamed"), DETECTOR)
    shutil.copy(Path(__file__).with_name("detector.py"), made.root)
    for name in ("network/scoring.py", "targets/context.py"):
        path = made.root / "src/bitladder" / name
        text = path.read_text("utf-8")
        before = next(line for line in text.splitlines() if line.startswith("SAVE_EVERY_S = "))
        path.write_text(text.replace(before, "SAVE_EVERY_S = 0.0"), "utf-8")
    done = made.repro()
    assert done.code == 0, done.text[-3000:]
    return made


def test_a_detector_goes_through_the_ladder(clone: Clone) -> None:
    fp32, tiny, target = (
        json.loads((clone.root / f"metrics/{name}.json").read_text())
        for name in ("eval/fp32", "eval/tiny", "target/tiny")
    )
    assert (fp32["metric"], fp32["samples"], target["exact"]["samples"]) == ("map_50", 60, 12)
    assert target["exact"]["used"] and target["samples"] == 60  # a model of the NPU, proved on these, ran all
    assert fp32["value"] > 0.7
    assert tiny["value"] > 0.3 and target["value"] > 0.3
    assert tiny["agreement"] is target["agreement"] is None
    assert json.loads((clone.root / "metrics/decision.json").read_text())["chosen"] == "tiny"
    assert (clone.root / "build/data/train.safetensors").stat().st_size < 10_000  # no image is copied
    verified = clone.run("bitladder", "verify", "deploy")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "bit for bit, on 4 samples" in verified.stdout


# Of a batch of 20 the metric is updated once, and once for each 8 samples; twice that where FP32 runs beside
@pytest.mark.parametrize(
    ("stage", "moment", "left"),
    [
        ("baseline", "metric 7", "baseline/*/score-fp32.pt"),
        ("fp16", "metric 12", "fp16/*/score-fp16.pt"),
        ("ptq@tiny", "metric 30", "ptq-tiny-scored/*/score-ptq-tiny.pt"),
        ("qat@tiny", "loss 12", "qat-tiny/*/state.pt"),
        ("profile@tiny", "read 10", "profile-tiny-SM8650/*/outputs/*.safetensors"),
    ],
)
def test_a_killed_stage_goes_on_and_gives_the_same_bytes(clone: Clone, stage: str, moment: str, left: str) -> None:
    before, work = outputs(clone, stage), clone.root / "build/work"
    for kept in work.glob("measured-*"):  # or nothing would be emulated again
        shutil.rmtree(kept)
    killed = clone.repro("-f", "-s", stage, KILLED_AT=moment)
    assert killed.code != 0 and list(work.glob(left)), killed.text[-2000:]
    done = clone.repro("-f", "-s", stage)
    assert done.code == 0 and stage in done.ran, done.text[-2000:]
    assert outputs(clone, stage) == before
    assert not list(work.glob(left))


def outputs(clone: Clone, stage: str) -> dict[str, str]:
    found = YAML(typ="safe").load((clone.root / "dvc.lock").read_text("utf-8"))["stages"][stage]["outs"]
    return {out["path"]: out["md5"] for out in found}
