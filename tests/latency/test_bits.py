"""The precision of each op, read off the graph's quantizers; and mixed graphs estimated by it."""

import json

import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from bitladder.commands.cli import app
from bitladder.errors import UserError
from bitladder.latency.estimate import MIXED, estimate, estimate_all
from bitladder.latency.graph import read_ops
from support import conv_model, quantized_convs

LOW, HIGH = (8, 8), (8, 16)


def precisions(path):
    return [(op.kind, op.precision) for op in read_ops(path)]


def test_each_op_has_the_bits_of_its_quantizers_and_a_change_of_bits_is_an_op(tmp_path):
    found = precisions(quantized_convs(tmp_path / "mixed.onnx", [LOW, LOW, HIGH, LOW, (4, 8)]))
    assert found == [
        ("conv", "w8a8"),
        ("conv", "w8a8"),
        ("pointwise", "w8a16"),
        ("conv", "w8a16"),
        ("pointwise", "w8a16"),
        ("conv", "w8a8"),
        ("conv", "w4a8"),
        ("border", "w8a8"),
    ]


def test_an_op_whose_output_no_quantizer_holds_is_float_and_what_moves_values_is_not(tmp_path):
    path = quantized_convs(tmp_path / "model.onnx", [LOW])
    model = onnx.load(path)
    last = model.graph.output[0].name
    model.graph.node.extend(
        [
            helper.make_node("Transpose", [last], ["t"], "turn", perm=[0, 1, 3, 2]),
            helper.make_node("Softmax", ["t"], ["s"], "softmax"),
        ]
    )
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("s", TensorProto.FLOAT, [1, 64, 32, 32]))
    onnx.save(model, path)
    assert precisions(path) == [("conv", "w8a8"), ("move", "w8a8"), ("softmax", "fp16"), ("border", "w8a8")]


def test_a_mixed_graph_lies_between_its_precisions(tmp_path):
    plain = quantized_convs(tmp_path / "plain.onnx", [LOW] * 20)
    raised = [
        estimate(quantized_convs(tmp_path / f"{n}.onnx", [LOW] * (20 - n) + [HIGH] * n), "s24", MIXED) for n in (1, 10)
    ]
    low, high = estimate(plain, "s24", "w8a8"), estimate(plain, "s24", "w8a16")
    assert low.latency_ms < raised[0].latency_ms < raised[1].latency_ms < high.latency_ms
    assert raised[0].precision == "w8a16 + w8a8"
    assert "such a mix of precisions" in raised[0].basis


@pytest.mark.parametrize(("bits", "precision"), [(LOW, "w8a8"), (HIGH, "w8a16")])
def test_a_graph_of_one_precision_is_no_mix(tmp_path, bits, precision):
    path = quantized_convs(tmp_path / "model.onnx", [bits] * 3)
    assert estimate(path, "s24", MIXED) == estimate(path, "s24", precision)


def test_a_float_graph_is_no_mix(tmp_path):
    path = conv_model(tmp_path / "model.onnx")
    assert estimate(path, "s24", MIXED) == estimate(path, "s24", "fp16")


def test_every_precision_of_a_mix_must_have_been_published(tmp_path):
    in_float = conv_model(tmp_path / "float.onnx")
    with pytest.raises(UserError, match="RB3 Gen 2 Vision Kit has no published latencies at fp16"):
        estimate(in_float, "rb3-gen-2", MIXED)
    assert "Dragonwing RB3 Gen 2 Vision Kit" not in {of.device for of in estimate_all(in_float, MIXED)}
    with pytest.raises(UserError, match="no latencies are published at w4a8"):
        estimate(quantized_convs(tmp_path / "w4.onnx", [LOW, (4, 8)]), "s24", MIXED)
    with pytest.raises(UserError, match="at w16a16; some operations of this graph compute so"):
        estimate(quantized_convs(tmp_path / "w16.onnx", [LOW, (16, 16)]), "s24", MIXED)


def test_the_command_takes_a_mixed_graph(tmp_path):
    path = quantized_convs(tmp_path / "model.onnx", [LOW, HIGH])
    found = CliRunner().invoke(app, ["latency", str(path), "--precision", "mixed", "--json"])
    assert json.loads(found.stdout)["precision"] == "w8a16 + w8a8"
