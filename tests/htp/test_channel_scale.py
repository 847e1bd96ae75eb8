"""A channel with next to no weights: what its repair leaves right, and which ones it leaves alone."""

import numpy as np
import onnx
import pytest
import torch
from emulated import Constant, emulate, one_op, quantizer, random_inputs
from onnx import TensorProto

from bitladder.export.checks import graph_names, run_unoptimised
from bitladder.htp.graph import Graph
from bitladder.htp.quantizer import Quantizer
from bitladder.htp.registry import RULES
from bitladder.htp.repair import repair
from bitladder.network.evaluate import sqnr_db
from bitladder.socs import find_soc
from bitladder.targets.plain_qdq import quantize_plainly
from bitladder.targets.workers import worker_pool
from bitladder.tasks.task import Split

SOC = find_soc("SM8650")


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    with worker_pool(1, tmp_path_factory.mktemp("work")) as made:
        yield made


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


def depthwise(exponents: list[int], kernel: int, stride: int) -> onnx.ModelProto:
    """Give a 16-bit depthwise convolution whose channels' ratios have these exponents, and outputs up to the top."""
    channels, step = len(exponents), 8 / 65536
    ratios = 0.6 * 2.0 ** np.array(exponents)
    scales = (ratios * 8 / 5).astype(np.float32)
    weights = np.full((channels, 1, kernel, kernel), 100 // kernel**2) * scales.reshape(-1, 1, 1, 1).astype(float)
    bias = np.where(ratios > 2.0**-12, 3, 0.2).astype(np.float32)  # 32 bits hold it in each channel's units
    held = Quantizer(scales, np.zeros(channels, np.int64), TensorProto.INT8, 0)
    return one_op(
        "Conv", [((1, channels, 16, 16), quantizer(5 / 65536, 0, 16)), Constant(weights, held),
                 Constant(bias)], quantizer(step, 30000, 16),
        kernel_shape=[kernel] * 2, group=channels, strides=[stride] * 2, pads=[kernel // 2] * 4,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("exponents", "kernel", "stride", "wrong"),
    [
        ([-8, -8, -9, -15], 1, 1, True),
        ([-10, -11, -9, -16], 1, 1, True),
        ([-8, -8, -9, -15], 3, 2, True),
        ([-8, -8, -9, -14], 1, 1, False),
        ([-8, -8, -9, -16], 1, 1, False),  # so far apart that the NPU takes another kernel
        ([-9, -9, -9, -16], 3, 2, False),
        ([-8, -8, -9, -15], 3, 1, False),
    ],
    ids=str,
)
def test_depthwise_kernels_overflow_at_ratios_of_their_own(exponents, kernel, stride, wrong, pool, tmp_path):
    graph = depthwise(exponents, kernel, stride)
    inputs = random_inputs(graph)
    onnx.save(graph, tmp_path / "m.onnx")
    sample = Split({"x0": torch.from_numpy(inputs["x0"])}, torch.zeros(1))
    (expected,) = run_unoptimised(tmp_path / "m.onnx", sample).values()

    def decibels() -> float:
        found = torch.from_numpy((emulate(graph, inputs, pool) - 30000) * (8 / 65536))
        return sqnr_db({"y": expected}, {"y": found})

    assert (decibels() < 20) == wrong
    assert len(repair(graph, SOC, ["channel-scale"])) == wrong
    assert decibels() > 55
