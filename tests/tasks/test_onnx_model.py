"""What of an ONNX file is refused at its door."""

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bitladder.errors import UserError
from bitladder.tasks.onnx_model import OnnxModel


@pytest.mark.parametrize("beside", [False, True])
def test_more_than_2_gib_is_refused_before_it_is_read(beside, tmp_path):
    """In one file, or with weights beside it: sparse files stand for them, so nothing of them may be read."""
    weights = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in "xy"]
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([product], "net", values[:1], values[1:], [weights])
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph), path, save_as_external_data=beside, location="net.data", size_threshold=0)
    os.truncate(tmp_path / "net.data" if beside else path, 2**31 + 2**29)
    with pytest.raises(UserError, match=r"net\.onnx: is 2\.5 GiB with its weights, and an ONNX graph can be of 2 GiB"):
        OnnxModel(str(path))()
