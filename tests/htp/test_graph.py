"""Edits of a graph: its order stays true, its function is what it should be."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bitladder.htp.graph import Graph
from bitladder.htp.quantizer import Quantizer
from bitladder.tasks.onnx_file import open_session


def graph() -> Graph:
    """Give x -> Relu -> y, and y read twice."""
    nodes = [
        helper.make_node("Relu", ["x"], ["y"], "act"),
        helper.make_node("Neg", ["y"], ["a"], "first"),
        helper.make_node("Abs", ["y"], ["b"], "second"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xab"]
    made = helper.make_graph(nodes, "g", values[:1], values[1:])
    return Graph(helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))


def test_a_range_comes_to_hold_zero():
    assert Quantizer.of_range(1.0, 3.0, 8).low == 0.0
    quantizer = Quantizer.of_range(-1.0, 2.0, 16)
    assert quantizer.bits == 16 and quantizer.high == pytest.approx(2.0, abs=quantizer.step)


def test_a_quantizer_behind_a_node_is_ahead_of_all_that_read_it():
    edited = graph()
    edited.quantize_output(edited.nodes[0], Quantizer.of_range(0.0, 1.0, 8))
    onnx.checker.check_model(edited.proto, full_check=True)
    kinds = [node.op_type for node in edited.nodes]
    assert kinds == ["Relu", "QuantizeLinear", "DequantizeLinear", "Neg", "Abs"]
    assert edited.bits(edited.nodes[3].input[0]) == edited.bits(edited.nodes[4].input[0]) == 8


@pytest.mark.parametrize("channels", [8, 7])  # of which the last block is not whole
def test_a_constant_in_blocks_is_read_as_onnx_runtime_reads_it(channels):
    scale = np.array([[0.5, 0.25], [1.0, 2.0], [0.125, 4.0]], np.float32)
    quantizer = Quantizer(scale, np.zeros(scale.shape, np.int64), TensorProto.INT4, axis=1, block_size=4)
    values = np.random.default_rng(0).normal(size=(3, channels)).astype(np.float32)
    edited = graph()
    tensor = edited.add_quantized("w", values, quantizer, edited.nodes[0])
    assert edited.quantizer(tensor).same_as(quantizer)
    edited.proto.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))
    (expected,) = open_session(edited.proto.SerializeToString()).run([tensor], {"x": np.zeros((1, 4), np.float32)})
    np.testing.assert_array_equal(edited.constant(tensor), expected)


@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.INT8, TensorProto.UINT16, TensorProto.INT32])
def test_a_constant_is_read_as_it_was_quantized(kind):
    edited = graph()
    values = np.array([[-0.5, 0.0, 0.25, 0.5]] if kind != TensorProto.UINT16 else [[0.0, 0.25, 0.5, 1.0]])
    name = edited.add_quantized("c", values, Quantizer(np.array(0.125), np.array(0), kind), edited.nodes[0])
    assert np.array_equal(edited.constant(name), values.astype(np.float32))
    edited.set_input(edited.nodes[1], 0, name)
    onnx.checker.check_model(edited.proto)


def test_a_constant_per_channel_has_a_scale_for_each():
    edited = graph()
    quantizer = Quantizer(np.array([0.5, 0.25]), np.array([0, 0]), TensorProto.INT8, axis=0)
    name = edited.add_quantized("c", np.array([[1.0, 2.0], [0.25, 0.5]]), quantizer, edited.nodes[0])
    assert edited.constant(name).tolist() == [[1.0, 2.0], [0.25, 0.5]]


def test_what_nobody_reads_is_dropped():
    edited = graph()
    edited.add_quantized("c", np.ones(2), Quantizer.of_range(0.0, 1.0, 8), edited.nodes[0])
    edited.drop_unread()
    assert len(edited.nodes) == 3 and not edited.proto.graph.initializer


def test_what_depends_on_the_input_is_no_constant():
    edited = graph()
    assert edited.find_constant("y") is None and edited.bits("y") == 0
    with pytest.raises(KeyError):
        edited.constant("y")
    edited.proto.graph.initializer.append(numpy_helper.from_array(np.ones(2), "late"))
