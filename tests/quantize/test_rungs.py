"""PTQ, QAT and the W16A16 check on a small network trained on real digits, through real AIMET."""

import copy
import subprocess
import sys

import pytest
import torch

from bitladder.errors import UserError
from bitladder.network.evaluate import compare, predict, sqnr_db
from bitladder.network.training import Recipe
from bitladder.params import load_params
from bitladder.precision import Precision
from bitladder.quantize.distill import distance
from bitladder.quantize.ptq import quantize
from bitladder.quantize.qat import train_quantized
from bitladder.quantize.sim.clipped import clipped_layers
from bitladder.quantize.sim.sim import build_sim
from bitladder.quantize.verify import verify
from support import CONFIG, rung_setting


def quantized(trained, precision, techniques=("min-max",)):
    done, _, _ = quantize(rung_setting(trained, precision, techniques))
    return done.sim, done.name


def answers(trained, model):
    return predict(model, trained.splits["evaluation"], 100, "")


def test_fewer_bits_cost_more(trained):
    reference = answers(trained, trained.prepared)
    found = [
        sqnr_db(reference, answers(trained, quantized(trained, precision)[0].model))
        for precision in (Precision(16, 16), Precision(8, 16), Precision(8, 8), Precision(4, 8))
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] > 40 and found[-1] < 25


def test_the_technique_says_what_was_done(trained):
    minmax, name = quantized(trained, Precision(8, 8))
    assert name == "ptq:bn-fold+min-max"
    sqnr, name = quantized(trained, Precision(8, 8), ("sqnr",))
    assert name == "ptq:bn-fold+sqnr"
    assert minmax.encodings() != sqnr.encodings()


def test_encodings_have_the_rungs_bits_and_full_scales(trained):
    sim, _ = quantized(trained, Precision(4, 8))
    encodings = sim.encodings()
    weights = {name: item for name, item in encodings.items() if "param_quantizers" in name}
    activations = {name: item for name, item in encodings.items() if "param_quantizers" not in name}
    assert {item["bw"] for item in weights.values()} == {4}
    assert {item["bw"] for item in activations.values()} == {8}
    assert all(scale > 0 for item in encodings.values() for scale in item["scale"])


def test_a_sim_passes_between_stages_bit_by_bit(trained, tmp_path):
    sim, _ = quantized(trained, Precision(4, 8))
    sim.save(tmp_path / "sim.safetensors")
    other = build_sim(copy.deepcopy(trained.prepared), trained.sample, Precision(8, 16), CONFIG)
    other.load(tmp_path / "sim.safetensors")
    assert torch.equal(answers(trained, sim.model)["output"], answers(trained, other.model)["output"])
    assert sim.encodings() == other.encodings()


def test_qat_wins_back_what_two_bit_weights_lose_and_keeps_the_best(trained, tmp_path):
    """2 bits are below what the NPU takes, and so coarse that PTQ alone is lost: training must show."""
    sim, _ = quantized(trained, Precision(2, 8))
    before = trained.task.metric(answers(trained, sim.model), trained.splits["evaluation"].targets)
    recipe = Recipe(epochs=3, batch_size=64, learning_rate=2e-3, weight_decay=0.0, seed=0)
    splits = (trained.splits["train"], trained.splits["calibration"])
    result = train_quantized(sim, trained.task, splits, recipe, 100, tmp_path)
    after = trained.task.metric(answers(trained, sim.model), trained.splits["evaluation"].targets)
    assert before < 0.5 < after
    best = max(result.history, key=lambda epoch: (epoch.value, -epoch.loss))
    assert result.best == best.epoch > 0
    held_out = predict(sim.model, splits[1], 100, "")
    assert trained.task.metric(held_out, splits[1].targets) == best.value


def test_qat_that_only_harms_leaves_ptq(trained, tmp_path):
    sim, _ = quantized(trained, Precision(8, 8))
    before = answers(trained, sim.model)["output"]
    recipe = Recipe(epochs=1, batch_size=64, learning_rate=1.0, weight_decay=0.0, seed=0)
    splits = (trained.splits["train"].first(128), trained.splits["calibration"])
    assert train_quantized(sim, trained.task, splits, recipe, 100, tmp_path).best == 0
    assert torch.equal(answers(trained, sim.model)["output"], before)


def test_distance_is_none_between_equals_and_knows_scores_from_values():
    torch.manual_seed(0)
    answers = {"output": torch.randn(4, 3)}
    further = {"output": answers["output"] + 1}  # softmax does not see a shift of all scores
    assert distance(answers, answers, True) == distance(answers, answers, False) == 0
    assert distance(further, answers, True).item() == pytest.approx(0, abs=1e-6)
    assert distance(further, answers, False) > 0.1


def checked(trained, evidence, params_path):
    model = copy.deepcopy(trained.prepared)
    split = trained.splits["evaluation"]
    return verify(model, trained.task.metric, split, trained.model, load_params(params_path), evidence)


def test_w16a16_agrees_with_fp32(trained, params_with, tmp_path):
    result = checked(trained, tmp_path / "evidence", params_with({"verify.max_drop": 0.005}))  # one of 200
    assert result.sqnr_db > 40 and result.samples == 200
    assert not (tmp_path / "evidence").exists()


def test_w16a16_that_disagrees_names_the_worst_layers_and_leaves_evidence(trained, params_with, tmp_path):
    params = params_with(
        {"verify.min_sqnr_db": 120.0, "task.args": {"train": 1500, "calibration": 200, "evaluation": 200}}
    )
    with pytest.raises(UserError, match=r"W16A16 disagrees .* \(verify\.min_sqnr_db 120\); worst layers: \w") as error:
        checked(trained, tmp_path / "evidence", params)
    assert "\n" not in str(error.value)
    rows = (tmp_path / "evidence/layers.csv").read_text().splitlines()
    values = [float(row.split(",")[2]) for row in rows[1:]]
    assert len(values) > 20 and values == sorted(values)
    done = subprocess.run([sys.executable, tmp_path / "evidence/show.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert rows[1] in done.stdout and "aimet-torch" in done.stdout


def test_layer_sqnr_finds_the_layer_that_is_wrong(trained):
    sim = build_sim(copy.deepcopy(trained.prepared), trained.sample, Precision(16, 16), CONFIG)
    sim.calibrate(trained.splits["calibration"], 100)
    split = trained.splits["evaluation"].first(16)
    quantizer = sim.model.get_submodule("6.0").param_quantizers["weight"]
    quantizer.bitwidth = 2
    layers = sim.layer_sqnr(trained.prepared, split)
    good = {layer.layer for layer in layers if layer.sqnr_db > 40}
    assert "6.0" not in good and "0.0" in good


def test_of_a_layer_before_a_relu6_what_that_lets_through_is_compared(trained):
    sim = build_sim(copy.deepcopy(trained.prepared), trained.sample, Precision(8, 8), CONFIG)
    sim.calibrate(trained.splits["calibration"], 100)
    clipped = clipped_layers(sim.aimet)
    assert clipped  # depthwise convolutions: AIMET fuses none with its activation
    found = {layer.layer: layer.sqnr_db for layer in sim.layer_sqnr(trained.prepared, trained.splits["evaluation"])}
    for layer, activation in clipped.items():
        assert found[layer] == pytest.approx(found[activation], abs=3)  # not the few dB that clipping leaves


def test_the_comparison_is_with_fp32_on_the_same_samples(trained):
    split = trained.splits["evaluation"]
    reference = answers(trained, trained.prepared)
    result = compare(
        trained.task.metric, answers(trained, quantized(trained, Precision(4, 8))[0].model), reference, split.targets
    )
    assert result.samples == 200
    assert result.drop == pytest.approx(trained.task.metric(reference, split.targets) - result.value)
