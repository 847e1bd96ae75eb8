"""Exported files put right: graph and encodings say the same, and what no rule concerns keeps its bytes."""

import json

import onnx
import pytest
import torch
from torch import nn

from bitladder.export.repairs import repair_file
from bitladder.htp.graph import Graph
from bitladder.network.model import sample_inputs
from bitladder.params import RULES
from bitladder.precision import Precision
from bitladder.quantize.prepare.prepare import prepare
from bitladder.quantize.sim.sim import build_sim
from bitladder.socs import find_soc
from bitladder.tasks.task import Split

SOC = find_soc("SM8650")


@pytest.fixture
def exported(tmp_path):
    """Give a function that exports a network at W8A16, and its encodings, into a folder."""

    def export(network: nn.Module, inputs: torch.Tensor):
        split = Split({"x": inputs}, torch.zeros(len(inputs)))
        sample = sample_inputs(split)
        sim = build_sim(prepare(network.eval(), sample)[0], sample, Precision(8, 16), SOC.quantsim_config)
        sim.calibrate(split, len(split))
        sim.export_qdq(sample, (["x"], ["y"]), tmp_path / "model.onnx")
        sim.export_encodings(sample, (["x"], ["y"]), tmp_path / "aimet")
        return tmp_path

    return export


def test_what_no_rule_concerns_keeps_its_bytes(exported):
    folder = exported(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)), torch.randn(8, 3, 8, 8))
    files = [path for path in folder.rglob("*") if path.is_file()]
    before = [path.read_bytes() for path in files]
    assert repair_file(folder / "model.onnx", SOC, tuple(RULES), folder / "aimet") is None
    assert [path.read_bytes() for path in files] == before


def test_encodings_come_to_say_what_the_graph_does(exported):
    torch.manual_seed(0)
    layers = (nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16), nn.LayerNorm(16), nn.Linear(16, 4))
    nn.init.normal_(layers[3].bias)
    folder = exported(nn.Sequential(*layers), torch.randn(8, 12, 16))
    repairs = repair_file(folder / "model.onnx", SOC, tuple(RULES), folder / "aimet")
    assert [one.rule for one in repairs] == ["relu"]  # the norm's bias was exported as the NPU takes it
    encodings = json.loads((folder / "aimet/model.encodings").read_text())
    said = {one["name"]: one for kind in ("activation_encodings", "param_encodings") for one in encodings[kind]}
    graph = Graph(onnx.load(folder / "model.onnx"))
    relu = next(graph.of_type("Relu"))
    assert said["/0/Add_output_0"] == {**said["/1/Relu_output_0"], "name": "/0/Add_output_0"}
    assert graph.quantizer(relu.input[0]).same_as(graph.quantizer(relu.output[0]))


def test_only_the_rules_that_are_named_are_applied(exported):
    layers = (nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16), nn.LayerNorm(16), nn.Linear(16, 4))
    folder = exported(nn.Sequential(*layers), torch.randn(8, 12, 16))
    assert repair_file(folder / "model.onnx", SOC, ()) is None
    assert {one.rule for one in repair_file(folder / "model.onnx", SOC, ("relu",))} == {"relu"}


def test_a_prelus_slope_has_the_type_of_its_input(exported):
    """With another, the NPU computes it in float."""
    folder = exported(nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Conv2d(8, 4, 1)), torch.randn(8, 3, 8, 8))
    repair_file(folder / "model.onnx", SOC, tuple(RULES))
    graph = Graph(onnx.load(folder / "model.onnx"))
    (node,) = graph.of_type("PRelu")
    assert [graph.bits(name) for name in (*node.input, *node.output)] == [16, 16, 16]
