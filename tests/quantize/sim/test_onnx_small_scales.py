"""Tensors of small values of a network that came as ONNX get the steps that they ask for, as those of torch do."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, save

from bitladder.export.checks import run_unoptimised
from bitladder.network.evaluate import predict, sqnr_db
from bitladder.network.model import sample_inputs
from bitladder.precision import Precision
from bitladder.quantize.prepare.prepare import prepare
from bitladder.quantize.sim.sim import build_sim
from bitladder.tasks.onnx_model import OnnxModel
from bitladder.tasks.task import Split

WEIGHTS = {
    name: torch.randn(shape, generator=torch.Generator().manual_seed(index)).numpy()
    for index, (name, shape) in enumerate({"a": (8, 3, 1, 1), "b": (4, 8, 1, 1)}.items())
}


@pytest.fixture
def build(tmp_path):
    """Give a function that builds and calibrates two convolutions whose weights are multiplied by these factors."""

    def make(factors: dict[str, float], bits: int, method: str = "min-max", **changed: np.ndarray):
        nodes = [
            helper.make_node("Conv", ["x", "a"], ["c"], name="first"),
            helper.make_node("Relu", ["c"], ["r"], name="relu"),
            helper.make_node("Conv", ["r", "b"], ["y"], name="second"),
        ]
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size, 8, 8])
            for name, size in (("x", 3), ("y", 4))
        ]
        tensors = [
            numpy_helper.from_array(values * np.float32(factors[name]), name)
            for name, values in (WEIGHTS | changed).items()
        ]
        graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "n.onnx")
        split = Split({"x": torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(9))}, torch.zeros(16))
        prepared, _ = prepare(OnnxModel(str(tmp_path / "n.onnx"))(), sample_inputs(split))
        sim = build_sim(prepared, sample_inputs(split), Precision(bits, bits), "htp_v75", method)
        sim.calibrate(split, 8)
        return prepared, sim, split

    return make


@pytest.mark.parametrize("method", ["min-max", "sqnr"])
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_a_small_tensor_is_quantized_as_finely_as_a_large_one(bits, method, build):
    usual, small = (build({"a": size, "b": 1.0}, bits, method)[1].encodings() for size in (1.0, 2.0**-30))
    for name, expected in usual.items():
        size = 1.0 if name.startswith("x") or name == "second.param_quantizers.weight" else 2.0**-30
        assert np.allclose(np.array(small[name]["scale"]) / size, expected["scale"], rtol=1e-4), name
        assert small[name]["offset"] == expected["offset"]


@pytest.mark.parametrize("bits", [8, 16])
def test_a_network_with_small_weights_and_large_activations_is_right(bits, build, tmp_path):
    """As where FP16 overflows: one layer multiplies by a million, the next one divides."""
    network, sim, split = build({"a": 1e6, "b": 1e-6}, bits)
    simulated = predict(sim.model, split, 8, "")
    assert sqnr_db(predict(network, split, 8, ""), simulated) > (80 if bits == 16 else 35)
    sim.export_qdq(sample_inputs(split), (["x"], ["y"]), tmp_path / "q.onnx")
    assert sqnr_db(simulated, run_unoptimised(tmp_path / "q.onnx", split)) > 60


def test_a_channel_of_nothing_keeps_a_step_near_the_others(build):
    dead = WEIGHTS["b"].copy()
    dead[1] = 0
    scales = build({"a": 1.0, "b": 2.0**-30}, 8, b=dead)[1].encodings()["second.param_quantizers.weight"]["scale"]
    assert 2.0**-18 < scales[1] / max(scales) < 2.0**-12


def test_what_is_nothing_but_zeros_keeps_a_usual_step(build):
    encodings = build({"a": 0.0, "b": 1.0}, 8)[1].encodings()
    assert encodings["relu.output_quantizers.0"]["scale"][0] == pytest.approx(0.01 / 255)
