"""A detector's head: boxes in pixels and scores from 0 to 1, joined by a Concat in which the network ends."""

import pytest
import torch
from torch import nn

from bitladder.export.checks import run_unoptimised
from bitladder.network.evaluate import predict, sqnr_db
from bitladder.network.model import sample_inputs
from bitladder.precision import Precision
from bitladder.quantize.prepare.prepare import prepare
from bitladder.quantize.sim.sim import build_sim
from bitladder.tasks.onnx_model import OnnxModel
from bitladder.tasks.task import Split


class Head(nn.Module):
    def __init__(self, layer_behind):
        super().__init__()
        self.boxes, self.scores = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 8, 3)
        self.behind = nn.Conv1d(12, 12, 1) if layer_behind else nn.Identity()

    def forward(self, image):
        boxes, scores = (self.boxes(image) + 3) * 32, torch.sigmoid(self.scores(image))
        return self.behind(torch.cat([boxes.flatten(2), scores.flatten(2)], 1))


@pytest.fixture
def sims(tmp_path):
    def build(kind, layer_behind=False):
        torch.manual_seed(0)
        network, split = Head(layer_behind).eval(), Split({"image": torch.randn(8, 3, 8, 8)}, torch.zeros(8))
        sample = sample_inputs(split)
        if kind == "onnx":
            path = str(tmp_path / "head.onnx")
            torch.onnx.export(network, sample, path, input_names=["image"], output_names=["y"], dynamo=False)
            network = OnnxModel(path)()
        prepared, _ = prepare(network, sample)
        made = [build_sim(prepared, sample, Precision(8, 8), "htp_v75") for _ in range(2)]
        made[0].calibrate(split, 8)
        return predict(prepared, split, 8, ""), made, split

    return build


def decibels(expected, found, channels):
    pair = [{"y": next(iter(one.values()))[:, channels]} for one in (expected, found)]
    return sqnr_db(*pair)


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_each_keeps_its_range_in_the_simulation_and_in_what_is_exported(sims, kind, tmp_path):
    expected, (sim, other), split = sims(kind)
    found = predict(sim.model, split, 1, "")
    assert decibels(expected, found, slice(4)) > 40
    assert decibels(expected, found, slice(4, None)) > 40  # with one range for both it is 15
    sim.export_qdq(sample_inputs(split), (["image"], ["y"]), tmp_path / "model.onnx")
    assert decibels(found, run_unoptimised(tmp_path / "model.onnx", split), slice(4, None)) > 80
    sim.save(tmp_path / "sim")
    other.load(tmp_path / "sim")
    assert decibels(found, predict(other.model, split, 1, ""), slice(None)) > 150


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_what_a_layer_reads_has_one_range(sims, kind):
    _, (sim, _), _ = sims(kind, layer_behind=True)
    quantizers = sim._quantizers.values() if kind == "onnx" else [one for _, one in sim.aimet.named_quantizers()]
    assert {one.bitwidth for one in quantizers} == {8}
