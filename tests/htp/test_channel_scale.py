"""A channel with next to no weights: what its repair leaves right, and which ones it leaves alone."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from bitladder.export.checks import graph_names, run_unoptimised
from bitladder.htp.graph import Graph
from bitladder.htp.quantizer import Quantizer
from bitladder.htp.registry import RULES
from bitladder.htp.repair import repair
from bitladder.network.evaluate import sqnr_db
from bitladder.socs import find_soc
from bitladder.targets.plain_qdq import quantize_plainly
from bitladder.tasks.task import Split

SOC = find_soc("SM8650")


@pytest.fixture
def split() -> Split:
    torch.manual_seed(0)
    return Split({"x": torch.randn(8, 3, 12, 12)}, torch.zeros(8))


def exported(split: Split, path, faint: float, bits: tuple[int, int] = (8, 16)) -> Graph:
    """Give the rule's network with a first channel of weights that are so small."""
    network, _ = RULES["channel-scale"].example.build()
    with torch.no_grad():
        network[0].weight[0] = network[0].weight[1] * faint
        network[0].bias.fill_(1e-5)  # which 32 bits hold in such small units
    quantize_plainly(network.eval(), split, graph_names(["x"], ["y"]), bits, path)
    return Graph(onnx.load(path))


@pytest.mark.parametrize(("faint", "bits"), [(1e-4, (8, 16)), (1e-7, (8, 8))], ids=["16 bits", "8 bits"])
def test_what_the_npu_has_bits_for_is_left_alone(faint, bits, split, tmp_path):
    graph = exported(split, tmp_path / "m.onnx", faint, bits)
    assert not repair(graph.proto, SOC, ["channel-scale"])


def test_an_integer_bias_is_brought_into_the_new_units(split, tmp_path):
    """Or the rule alone would have the NPU read it in units that are 1,000 times too large."""
    graph = exported(split, tmp_path / "m.onnx", 1e-7)
    node = next(graph.of_type("Conv"))
    unit = graph.quantizer(node.input[0]).scale * graph.quantizer(node.input[1]).scale
    integers = Quantizer(np.asarray(unit), np.zeros(unit.shape, np.int64), TensorProto.INT32, 0)
    values = graph.constant(node.input[2])
    graph.set_input(node, 2, graph.add_quantized("bias", values, integers, node))
    onnx.save(graph.proto, tmp_path / "before.onnx")
    assert [one.node for one in repair(graph.proto, SOC, ["channel-scale"])] == [node.name]
    onnx.save(graph.proto, tmp_path / "after.onnx")
    repaired = Graph(onnx.load(tmp_path / "after.onnx"))
    node = next(repaired.of_type("Conv"))
    inputs, weights, bias = (repaired.quantizer(name) for name in node.input[:3])
    assert np.allclose(bias.scale, inputs.scale * weights.scale, atol=0) and bias.type == TensorProto.INT32
    assert (np.abs(repaired.constant(node.input[2]) - values) <= 0.51 * bias.scale).all()
    before, after = (run_unoptimised(tmp_path / f"{name}.onnx", split) for name in ("before", "after"))
    assert sqnr_db(before, after) > 80
