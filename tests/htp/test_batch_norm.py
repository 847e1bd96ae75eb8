"""A batch norm that no layer takes, in place of which comes a convolution."""

import onnx
import torch

from bitladder.export.checks import graph_names, run_unoptimised
from bitladder.htp.graph import Graph
from bitladder.htp.registry import RULES
from bitladder.htp.repair import repair
from bitladder.network.evaluate import sqnr_db
from bitladder.socs import find_soc
from bitladder.targets.plain_qdq import quantize_plainly
from bitladder.tasks.task import Split


def test_a_faint_channel_keeps_its_bias(tmp_path):
    """In steps of so small a weight the bias has no room in 32 bits."""
    torch.manual_seed(0)
    network, _ = RULES["batch-norm"].example.build()
    with torch.no_grad():
        network[2].weight[0], network[2].bias[0] = 1e-8, 3.0
    split = Split({"x": torch.randn(8, 3, 16, 16)}, torch.zeros(8))
    quantize_plainly(network.eval(), split, graph_names(["x"], ["y"]), (8, 16), tmp_path / "before.onnx")
    proto = onnx.load(tmp_path / "before.onnx")
    assert list(Graph(proto).of_type("BatchNormalization"))
    assert len(repair(proto, find_soc("SM8650"), ["batch-norm"])) == 1
    onnx.save(proto, tmp_path / "after.onnx")
    before, after = (run_unoptimised(tmp_path / f"{name}.onnx", split) for name in ("before", "after"))
    assert sqnr_db(before, after) > 60
