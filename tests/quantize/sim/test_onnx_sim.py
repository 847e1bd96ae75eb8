"""What is told of a simulated ONNX network's tensors."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, save

from bitladder.export.checks import run_unoptimised
from bitladder.network.evaluate import predict, sqnr_db
from bitladder.network.model import sample_inputs
from bitladder.precision import Precision
from bitladder.quantize.prepare.prepare import prepare
from bitladder.quantize.sim import onnx_layers
from bitladder.quantize.sim.sim import build_sim
from bitladder.tasks.onnx_model import OnnxModel
from bitladder.tasks.task import Split


@pytest.fixture
def rows_of(tmp_path):
    """Give a network with a norm in parts, which aimet-onnx fuses, its sim and samples."""
    weights = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).numpy()
    constants = {"w": weights, "two": np.float32(2), "small": np.float32(1e-5)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="linear"),
        helper.make_node("ReduceMean", ["m"], ["mean"], axes=[-1], name="mean"),
        helper.make_node("Sub", ["m", "mean"], ["centred"], name="sub"),
        helper.make_node("Pow", ["centred", "two"], ["squares"], name="pow"),
        helper.make_node("ReduceMean", ["squares"], ["variance"], axes=[-1], name="variance"),
        helper.make_node("Add", ["variance", "small"], ["over"], name="add"),
        helper.make_node("Sqrt", ["over"], ["deviation"], name="sqrt"),
        helper.make_node("Div", ["centred", "deviation"], ["d"], name="div"),
        helper.make_node("Relu", ["d"], ["y"], name="relu"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 8])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 8])]
    tensors = [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()]
    graph = helper.make_graph(nodes, "net", inputs, outputs, tensors)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "net.onnx")
    split = Split({"x": torch.randn(6, 4, 8, generator=torch.Generator().manual_seed(1))}, torch.arange(6))
    prepared, _ = prepare(OnnxModel(str(tmp_path / "net.onnx"))(), sample_inputs(split))
    sim = build_sim(prepared, sample_inputs(split), Precision(8, 8), "htp_v75")
    sim.calibrate(split, 8)
    return prepared, sim, split


def test_nodes_that_aimet_fuses_do_not_end_the_table(rows_of):
    prepared, sim, split = rows_of
    rows = {row["layer"]: row for row in sim.layer_rows(prepared, split)}
    assert {"linear", "mean", "relu"} <= set(rows)
    expected = sqnr_db(predict(prepared, split, 8, ""), predict(sim.model, split, 8, ""))
    assert rows["relu"]["sqnr_db"] == pytest.approx(expected, abs=1e-3)


def test_the_tensors_of_one_sample_are_held_at_a_time(rows_of, monkeypatch):
    seen = []

    class Sums(onnx_layers.NoiseSums):
        def add(self, reference, outputs):
            seen.extend(values.shape for values in reference.values())
            super().add(reference, outputs)

    monkeypatch.setattr(onnx_layers, "NoiseSums", Sums)
    prepared, sim, split = rows_of
    sim.layer_rows(prepared, split)
    assert (1, 4, 8) in seen and max(shape[0] for shape in seen if len(shape) == 3) == 1


@pytest.mark.parametrize("value", [-1.0, 9.0, -1e9])
def test_a_pad_of_a_value_is_exported_as_simulated(value, tmp_path):
    """The Pad's input and output have one scale, which must hold the value too, unless only a MaxPool reads it."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("Pad", ["r", "pads", "value"], ["p"], name="pad"),
        helper.make_node("Add", ["p", "p"], ["y"], name="add"),
    ]
    if value < -1e6:
        nodes[-1] = helper.make_node("MaxPool", ["p"], ["y"], name="pool", kernel_shape=[3])
    constants = {"pads": np.array([0, 0, 1, 0, 0, 1]), "value": np.float32(value)}
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1, "m"])]
    tensors = [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()]
    graph = helper.make_graph(nodes, "net", inputs, outputs, tensors)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "net.onnx")
    split = Split({"x": torch.randn(16, 1, 8, generator=torch.Generator().manual_seed(1))}, torch.arange(16))
    model = OnnxModel(str(tmp_path / "net.onnx"))()
    prepared, _ = prepare(model, sample_inputs(split))
    sim = build_sim(prepared, sample_inputs(split), Precision(8, 8), "htp_v75")
    sim.calibrate(split, 8)
    sim.export_qdq(sample_inputs(split), (["x"], ["y"]), tmp_path / "q.onnx")
    exported = run_unoptimised(tmp_path / "q.onnx", split)
    assert sqnr_db(predict(sim.model, split, 8, ""), exported) > 60
    assert sqnr_db(predict(model, split, 8, ""), exported) > 30


@pytest.mark.parametrize("activation", ["Relu", "Clip"])
def test_what_feeds_only_an_activation_has_its_range_and_is_compared_behind_it(activation, tmp_path):
    """A depthwise convolution is not fused with its activation, and would spend its steps on what that clips."""
    weights = 20 * torch.randn(4, 1, 3, generator=torch.Generator().manual_seed(0)).numpy()
    ends = ["c"] if activation == "Relu" else ["c", "low", "high"]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="depthwise", group=4),
        helper.make_node(activation, ends, ["y"], name="activation"),
    ]
    constants = {"w": weights, "low": np.float32(0), "high": np.float32(6)}
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 8])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 6])]
    tensors = [
        numpy_helper.from_array(np.asarray(one), name) for name, one in constants.items() if name in {*ends, "w"}
    ]
    graph = helper.make_graph(nodes, "net", inputs, outputs, tensors)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "net.onnx")
    split = Split({"x": torch.randn(16, 4, 8, generator=torch.Generator().manual_seed(1))}, torch.arange(16))
    prepared, _ = prepare(OnnxModel(str(tmp_path / "net.onnx"))(), sample_inputs(split))
    sim = build_sim(prepared, sample_inputs(split), Precision(8, 8), "htp_v75")
    sim.calibrate(split, 8)
    rows = {row["layer"]: row for row in sim.layer_rows(prepared, split)}
    most = prepared(split.inputs["x"])["y"].max().item()
    assert rows["depthwise"]["output_min"] == 0
    assert rows["depthwise"]["output_max"] == pytest.approx(most, rel=1e-2)
    assert rows["depthwise"]["sqnr_db"] == pytest.approx(rows["activation"]["sqnr_db"], abs=3)
    assert rows["activation"]["sqnr_db"] > 30
