"""The gap finder: it names the layer whose bias is in other units than the NPU reads it in."""

import pytest
from models import samples, settings, two_convs

from bitladder.errors import UserError
from bitladder.report.gap import format_gap
from bitladder.socs import find_soc
from bitladder.targets.gap import find_gap, first_divergence

SOC = find_soc("SM8650")


def test_a_wrong_bias_scale_is_found_where_it_is(tmp_path):
    model = two_convs(tmp_path / "model.onnx", full_range_bias=True, bits=16)
    layers = find_gap(model, samples(1), SOC, settings(), tmp_path)
    found = first_divergence(layers, SOC)
    assert [layer.layer for layer in layers] == ["first", "second"]
    assert found.layer == "second"
    assert found.causes[0].text.startswith("bias-scale") and found.causes[0].proven
    text = format_gap(layers, SOC)
    assert "diverges from QuantSim first at second (Conv)" in text
    assert "Typical of it: bias-scale" in text and "bitladder lint" in text


def test_a_right_graph_diverges_nowhere(tmp_path):
    layers = find_gap(two_convs(tmp_path / "model.onnx", bits=16), samples(1), SOC, settings(), tmp_path)
    assert first_divergence(layers, SOC) is None
    assert "No layer on SM8650 diverges" in format_gap(layers, SOC)
    assert first_divergence(layers, SOC, limit_db=500.0).layer == "first"
    # What no network was seen to depart by is not said as if one had
    assert "Unproven, to be tried: 16-bit op" in format_gap(layers, SOC, limit_db=500.0)


def test_a_float_graph_has_nothing_to_depart_from(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "float.onnx")
    with pytest.raises(UserError, match="has no quantizers"):
        find_gap(tmp_path / "float.onnx", samples(1), SOC, settings(), tmp_path)


def test_attention_at_16_bits_is_named_though_it_is_at_40_db(tmp_path):
    import torch

    from bitladder.htp.registry import RULES
    from bitladder.network.model import sample_inputs
    from bitladder.precision import Precision
    from bitladder.quantize.prepare.prepare import prepare
    from bitladder.quantize.sim.sim import build_sim
    from bitladder.tasks.task import Split

    torch.manual_seed(0)
    network, (tokens,) = RULES["attention"].example.build()
    split = Split({"x": tokens}, torch.zeros(len(tokens)))
    sample = sample_inputs(split)
    sim = build_sim(prepare(network.eval(), sample)[0], sample, Precision(8, 16), SOC.quantsim_config)
    sim.calibrate(split, len(split))
    sim.export_qdq(sample, (["x"], ["y"]), tmp_path / "model.onnx")
    found = first_divergence(find_gap(tmp_path / "model.onnx", split.first(1), SOC, settings(), tmp_path), SOC)
    assert 30 < found.sqnr_db < 50 and found.kinds == ("MatMul",)
    assert [cause.text.partition(":")[0] for cause in found.causes] == ["attention"]


@pytest.mark.parametrize("rows", [16, 17])
def test_a_norm_before_a_fully_connected_layer_is_right_at_16_rows_too(rows, tmp_path):
    import torch
    from torch import nn

    from bitladder.export.checks import graph_names
    from bitladder.network.model import sample_inputs
    from bitladder.precision import Precision
    from bitladder.quantize.sim.sim import build_sim
    from bitladder.tasks.task import Split

    torch.manual_seed(0)
    split = Split({"x": torch.randn(2, rows, 64)}, torch.zeros(2))
    sample = sample_inputs(split)
    sim = build_sim(nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 64)).eval(), sample, Precision(8, 16), "htp_v75")
    sim.calibrate(split, 2)
    sim.export_qdq(sample, graph_names(["x"], ["y"]), tmp_path / "model.onnx")
    layers = find_gap(tmp_path / "model.onnx", split, SOC, settings(), tmp_path)
    found = first_divergence(layers, SOC)
    assert found is None  # the norm's bias is in the units that the NPU takes it to be in
