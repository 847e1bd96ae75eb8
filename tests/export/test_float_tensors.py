"""What of a graph is float: counted tensor by tensor, on small graphs by hand and on those that AIMET exports."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bitladder.errors import RefusedError
from bitladder.export.float_tensors import check_float, find_float

QUANTIZED = """
    in_q = QuantizeLinear(input, scale, zero)
    in_dq = DequantizeLinear(in_q, scale, zero)
    w_dq = DequantizeLinear(w_q, scale, weight_zero)
"""

END = """
    out_q = QuantizeLinear(raw, scale, zero)
    output = DequantizeLinear(out_q, scale, zero)
"""


def graph(folder, body: str, **constants: np.ndarray):
    """Write a graph with a body between quantizers: it makes `raw` of the input `in_dq` and the weight `w_dq`."""
    head = '<ir_version: 10, opset_import: ["": 21]> net (float[2,4] input) => (float[2,4] output)'
    text = f"{head} {{ {QUANTIZED} {body} {END} }}"
    proto = onnx.parser.parse_model(text)
    known = {
        "scale": np.float32(0.1), "zero": np.uint8(3), "weight_zero": np.int8(0), "w_q": np.ones((4, 4), np.int8),
        **constants,
    }  # fmt: skip
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(one), name) for name, one in known.items())
    for index, node in enumerate(proto.graph.node):
        node.name = f"/block/layer/{node.op_type}_{index}"
    onnx.save(proto, folder / "model.onnx")
    return folder / "model.onnx"


def test_a_float_parameter_is_named_with_its_op_layer_and_size(tmp_path):
    path = graph(
        tmp_path, "hidden = MatMul(in_dq, w_dq) raw = Add(hidden, position)", position=np.ones((2, 4), np.float32)
    )
    found = find_float(path)
    parameter = found.tensors[-1]
    assert (parameter.name, parameter.op, parameter.layer) == ("position", "Add", "block.layer")
    assert (parameter.elements, parameter.kind) == (8, "weight")
    assert str(found.share) == "2 ops, 33% of weights"


def test_a_tensor_between_ops_without_a_quantizer_is_an_activation_in_float(tmp_path):
    found = find_float(graph(tmp_path, "hidden = Sigmoid(in_dq) raw = Mul(in_dq, hidden)"))
    assert [(one.name, one.kind, one.elements) for one in found.tensors] == [("hidden", "activation", 8)]
    assert str(found.share) == "2 ops, 0% of weights"


INTEGER = {
    "a layer": "raw = MatMul(in_dq, w_dq)",
    "a layer whose bias is an op of its own": "hidden = MatMul(in_dq, w_dq) raw = Add(bias, hidden)",
    "a layer and its ReLU": "hidden = Gemm(in_dq, w_dq, bias) raw = Relu(hidden)",
    "what only moves, before its quantizer": "hidden = Sigmoid(in_dq) raw = Reshape(hidden, shape)",
    "what only moves, after its quantizer": "moved = Reshape(in_dq, shape) raw = Sigmoid(moved)",
    "the bounds of a clip": "raw = Clip(in_dq, low, high)",
    "a mask": "other = Identity(in_dq) mask = Not(flag) raw = Where(mask, in_dq, other)",
}


@pytest.mark.parametrize("body", INTEGER)
def test_nothing_is_counted_that_is_integer_on_the_npu(body, tmp_path):
    constants = {
        "bias": np.ones(4, np.float32), "shape": np.array([2, 4]), "low": np.float32(0), "high": np.float32(6),
        "flag": np.ones((2, 4), bool),
    }  # fmt: skip
    found = find_float(graph(tmp_path, INTEGER[body], **constants))
    assert found.tensors == ()
    assert str(found.share) == "nothing"


def test_an_op_that_the_npu_computes_in_float_counts_whatever_quantizers_it_has(tmp_path):
    proto = onnx.load(graph(tmp_path, "raw = Identity(in_dq)"))
    node = next(node for node in proto.graph.node if node.op_type == "Identity")
    node.CopyFrom(helper.make_node("ReduceL2", ["in_dq"], ["raw"], "/norm/ReduceL2", keepdims=1))
    onnx.save(proto, tmp_path / "model.onnx")
    assert {one.op for one in find_float(tmp_path / "model.onnx").tensors} == {"ReduceL2"}


def test_what_is_allowed_passes_and_the_rest_refuses_the_rung(tmp_path):
    position = np.ones((2, 4), np.float32)
    found = find_float(graph(tmp_path, "raw = Add(in_dq, position)", position=position))
    for allowed in (True, ["position"], ["block.layer"]):
        check_float(found, allowed, "tiny")
    for refused in (False, [], ["another"]):
        with pytest.raises(RefusedError, match=r"^tiny: export.allow_float .* float: position \(Add\); name") as error:
            check_float(found, refused, "tiny")
        assert "\n" not in str(error.value)
    check_float(replace(found, tensors=()), False, "tiny")


def test_a_long_list_is_cut_short(tmp_path):
    found = find_float(graph(tmp_path, "raw = Add(in_dq, position)", position=np.ones((2, 4), np.float32)))
    assert str(replace(found, tensors=found.tensors * 7)).endswith("and 2 more")
