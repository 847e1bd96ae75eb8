"""Padding in numbers in the place of a size that was asked for."""

import copy

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from bitladder.tasks.onnx_file import open_session
from bitladder.tasks.onnx_forms.pads import write_pads


@pytest.mark.parametrize("how", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize(("size", "stride", "apart"), [(7, 1, 1), (8, 2, 1), (9, 3, 1), (5, 4, 1)])
def test_outputs_stay_equal(how, size, stride, apart):
    weights = np.random.default_rng(0).normal(size=(2, 3, 3, 4)).astype(np.float32)
    conv = helper.make_node(
        "Conv", ["x", "w"], ["y"], auto_pad=how, strides=[stride, 1], dilations=[apart, 1], kernel_shape=[3, 4]
    )
    ends = [helper.make_tensor_value_info(*one) for one in (("x", TensorProto.FLOAT, [1, 3, size, 6]), ("y", 1, None))]
    graph = helper.make_graph([conv], "net", ends[:1], ends[1:], [numpy_helper.from_array(weights, "w")])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = np.random.default_rng(1).normal(size=(1, 3, size, 6)).astype(np.float32)
    after = copy.deepcopy(proto)
    write_pads(after)
    assert "auto_pad" not in {one.name for one in after.graph.node[0].attribute}
    (expected,), (found,) = (open_session(one.SerializeToString()).run(None, {"x": x}) for one in (proto, after))
    assert found.shape == expected.shape and np.allclose(found, expected, atol=1e-5)
