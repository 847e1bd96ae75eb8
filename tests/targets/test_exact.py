"""A model of the NPU that is proved on what the emulator ran, and trusted for the rest only then."""

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from emulated import Constant, one_op, quantizer
from models import settings
from onnx import TensorProto

from bitladder.decision.sources import sources_of
from bitladder.export.checks import run_unoptimised
from bitladder.htp.arithmetic import convolution
from bitladder.htp.arithmetic.executor import Executor
from bitladder.htp.quantizer import Quantizer
from bitladder.network import scoring
from bitladder.network.outputs import StoredOutputs
from bitladder.network.scoring import Tally
from bitladder.socs import find_soc
from bitladder.statistics.scores import FP32, NETWORK
from bitladder.targets.exact import BATCH, Whole, prove
from bitladder.targets.profile import profile
from bitladder.targets.target import Job
from bitladder.tasks.metric import Metric
from bitladder.tasks.task import Split
from records import off

ALL, EMULATED = 40, 6

ACCURACY = Metric("accuracy", lambda logits, targets: (logits.argmax(1) == targets).float())

SOC = find_soc("SM8650")


def classifier(path: Path) -> Path:
    """A fully connected layer in QDQ form, which gives 10 classes."""
    numbers = np.random.default_rng(0)
    source = quantizer(0.02, 90, 8)
    weights = Quantizer(
        numbers.uniform(0.005, 0.01, 10).astype(np.float32), np.zeros(10, np.int64), TensorProto.INT8, 0
    )
    values = numbers.integers(-127, 128, (10, 64)) * weights.scale[:, None].astype(np.float64)
    biases = Constant(np.linspace(-1, 1, 10).astype(np.float32))
    operands = [((1, 64), source), Constant(values, weights), biases]
    onnx.save(one_op("Gemm", operands, quantizer(0.15, 120, 8), transB=1), path)
    return path


@pytest.fixture
def whole():
    inputs = torch.rand(ALL, 64, generator=torch.Generator().manual_seed(0)) * 5 - 1.8
    return Split({"x0": inputs}, torch.arange(ALL) % 10)


@pytest.fixture
def job(tmp_path, whole):
    (tmp_path / "work").mkdir()
    model = classifier(tmp_path / "model.onnx")
    return Job(model, "W8A8", whole.first(EMULATED), tmp_path / "target", tmp_path / "notes", tmp_path / "work")


def measured(job: Job, whole: Split):
    """Profile the job; QuantSim, and FP32 too, are the graph on the CPU."""
    outputs = run_unoptimised(job.model, whole)
    tally = Tally(ACCURACY, alone=True)
    tally.add(outputs, outputs, whole.targets)
    scores = tally.score().scores
    stored = StoredOutputs(job.workspace / "simulated")
    stored.append({name: values[: len(job.split)] for name, values in outputs.items()})
    stored.flush()
    fp32 = ACCURACY({"y": outputs["y"][: len(job.split)]}, job.split.targets)
    everything = Whole(whole, {FP32: scores, NETWORK: scores})
    return profile(job, ACCURACY, (stored, fp32), SOC, settings(), everything)


def test_a_proved_model_gives_the_metric_on_all_samples(job, whole):
    record, scores = measured(job, whole)
    proof = record.exact
    assert (proof.samples, proof.equal_integers, proof.equal_classes) == (EMULATED, 1.0, 1.0)
    assert proof.within_one_step == 1.0
    assert proof.used and proof.float_ops == () and proof.first_difference is None
    assert record.samples == scores[NETWORK].samples == ALL and proof.emulated.samples == EMULATED
    assert record.value == pytest.approx(scores[NETWORK].values.mean())
    told = sources_of(off("compact"), record).on_target
    assert told == f"hexagon-exact (proved on {EMULATED} emulated samples), SM8650, {ALL} samples"


def test_a_wrong_rounding_is_found_and_named_and_its_figures_are_not_used(job, whole, monkeypatch):
    def half_even(self, accumulator, zero_point, low, high):
        scaled = accumulator.double() * self.factor / 2.0 ** (15 + self.shift)
        return (torch.round(scaled) + zero_point).clamp(low, high).float()

    monkeypatch.setattr(convolution, "_in_float", lambda *_: None)  # which rounds by itself
    monkeypatch.setattr(convolution.Multiplier, "apply", half_even)
    record, _ = measured(job, whole)
    proof = record.exact
    assert proof.equal_integers < 0.99 <= proof.within_one_step and proof.first_difference == "Gemm made"
    assert not proof.used and record.samples == EMULATED and proof.emulated is None
    assert record.ran_by == "hexagon-emulator"


def test_where_the_emulator_ran_all_samples_the_model_only_reports(job, whole):
    record, _ = measured(job, whole.first(EMULATED))
    assert record.exact.equal_integers == 1.0 and not record.exact.used
    assert record.samples == EMULATED


def test_a_killed_pass_goes_on_where_it_was(job, whole, monkeypatch):
    monkeypatch.setattr(scoring, "SAVE_EVERY_S", 0.0)
    run, batches, proof = Executor.__call__, [], math.ceil(EMULATED / BATCH)
    killed = proof + 3  # two batches after the proof

    def killed_once(self, inputs):
        batches.append(inputs["x0"])
        if len(batches) == killed:
            raise KeyboardInterrupt
        return run(self, inputs)

    monkeypatch.setattr(Executor, "__call__", killed_once)
    with pytest.raises(KeyboardInterrupt):
        measured(job, whole)
    record, scores = measured(job, whole)
    assert torch.equal(torch.cat(batches[killed + proof :]), whole.inputs["x0"][2 * BATCH :])
    outputs = run(Executor(onnx.load(job.model)), whole.inputs)
    right = (outputs["y"].argmax(1) == whole.targets).numpy()
    assert record.samples == ALL and np.array_equal(scores[NETWORK].values, right)


def test_old_generations_have_no_model(job):
    proof, executor = prove(job, StoredOutputs(job.workspace / "none"), find_soc("QCS6490"), settings())
    assert executor is None and proof.samples == 0
    assert proof.reason == "the arithmetic of v68 is not known; that of v73 to v81 is"
