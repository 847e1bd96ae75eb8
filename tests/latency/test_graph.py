"""Work counted from a graph: the same whether the graph is float or QDQ, and whoever exported it."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from bitladder.latency.graph import read_ops
from bitladder.latency.work import sum_work


def export(network: nn.Module, path: Path, shape: tuple[int, ...], opset: int) -> Path:
    torch.onnx.export(network.eval(), (torch.zeros(shape),), str(path), dynamo=False, opset_version=opset)
    return path


def qdq(path: Path) -> Path:
    """The float model of a 1x1 convolution with quantizers around everything."""
    scale = numpy_helper.from_array(np.array(0.1, np.float32), "s")
    zero, weight_zero = (
        numpy_helper.from_array(np.array(0, kind), name) for kind, name in ((np.uint8, "z"), (np.int8, "wz"))
    )
    weights = numpy_helper.from_array(np.ones((8, 4, 1, 1), np.int8), "w")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "s", "wz"], ["wd"]),
        helper.make_node("Conv", ["xd", "wd"], ["y"], "conv"),
        helper.make_node("QuantizeLinear", ["y", "s", "z"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "s", "z"], ["out"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 6, 6])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 8, 6, 6])
    graph = helper.make_graph(nodes, "g", [x], [out], [scale, zero, weight_zero, weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def test_quantizers_are_no_ops(tmp_path):
    plain = sum_work(read_ops(export(nn.Conv2d(4, 8, 1, bias=False), tmp_path / "float.onnx", (1, 4, 6, 6), 17)))
    quantized = sum_work(read_ops(qdq(tmp_path / "qdq.onnx")))
    assert quantized == plain
    assert quantized["conv"].macs == 4 * 8 * 36
    assert quantized["conv"].weights == 32


@pytest.mark.parametrize(
    ("network", "kind", "macs"),
    [
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), "depthwise", 9 * 8 * 100),
        (nn.Conv2d(64, 64, 1, groups=16), "conv", 4 * 64 * 100),
        (nn.Sequential(nn.Flatten(), nn.Linear(800, 10)), "linear", 8000),
    ],
)
def test_macs(network, kind, macs, tmp_path):
    channels = 64 if kind == "conv" else 8
    work = sum_work(read_ops(export(network, tmp_path / "model.onnx", (1, channels, 10, 10), 17)))
    assert (work[kind].ops, work[kind].macs) == (1, macs)
    assert sum(of.ops for kind, of in work.items() if kind != "border") == 1


def test_grouped_convolution_fills_the_matrix_unit(tmp_path):
    op, _ = read_ops(export(nn.Conv2d(64, 64, 1, groups=16), tmp_path / "model.onnx", (1, 64, 10, 10), 17))
    assert op.padded_macs == 2 * 32 * 32 * 16 * 12  # 16 groups of 4 channels, 8 at a time; 10 x 10 in tiles of 8 x 4


def test_activations_fill_whole_tiles(tmp_path):
    op, border = read_ops(export(nn.Conv2d(3, 40, 1), tmp_path / "model.onnx", (1, 3, 10, 10), 17))
    assert op.tensors == (32 * 16 * 12, 64 * 16 * 12)
    assert (border.kind, border.tensors) == ("border", op.tensors)


def test_each_step_of_an_lstm_counts(tmp_path):
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(8, 16, bidirectional=True)

        def forward(self, x):
            return self.lstm(x)[0]

    work = sum_work(read_ops(export(Last(), tmp_path / "model.onnx", (12, 1, 8), 17)))
    assert work["recurrent"].ops == 12 * 2
    assert work["recurrent"].weights == 2 * 4 * 16 * (8 + 16)


@pytest.mark.parametrize(("kernel", "stride", "kind"), [(5, 2, "window"), (2, 2, "pool"), (3, 1, "pool")])
def test_averages_over_odd_windows_are_told_apart(kernel, stride, kind, tmp_path):
    network = nn.AvgPool2d(kernel, stride)
    (op, _) = read_ops(export(network, tmp_path / "model.onnx", (1, 8, 20, 20), 17))
    assert op.kind == kind


def test_gelu_and_layer_norm_count_once_however_they_are_written(tmp_path):
    network = nn.Sequential(nn.LayerNorm(16), nn.GELU(), nn.Softmax(-1))
    whole = [op.kind for op in read_ops(export(network, tmp_path / "20.onnx", (1, 4, 16), 20))[:-1]]
    spelled = [op.kind for op in read_ops(export(network, tmp_path / "14.onnx", (1, 4, 16), 14))[:-1]]
    assert whole == ["norm", "curve", "softmax"]
    assert [kind for kind in spelled if kind != "pointwise"] == whole


@pytest.mark.parametrize(
    ("order", "shape", "kinds"),
    [
        ((0, 2, 3, 1), (1, 64, 8, 8), []),  # the NPU holds channels last
        ((1, 0, 2), (1, 8, 64), []),  # the same values in the same order
        ((0, 2, 1, 3), (1, 8, 12, 64), ["move"]),
    ],
)
def test_a_transpose_counts_where_it_moves_something(order, shape, kinds, tmp_path):
    class Turned(nn.Module):
        def forward(self, x):
            return x.permute(order)

    ops = read_ops(export(Turned(), tmp_path / "model.onnx", shape, 17))
    assert [op.kind for op in ops] == [*kinds, "border"]


def test_each_head_of_attention_is_a_product(tmp_path):
    class Scores(nn.Module):
        def forward(self, x):
            return x @ x.transpose(2, 3)

    work = sum_work(read_ops(export(Scores(), tmp_path / "model.onnx", (2, 12, 49, 32), 17)))
    assert work["matmul"].ops == 2 * 12
    assert work["matmul"].macs == 2 * 12 * 49 * 49 * 32


def test_an_image_of_few_channels_does_not_spill(tmp_path):
    """Filled up to 32 channels it would be 9.8 MB, which is more than VTCM has."""
    grey = sum_work(read_ops(export(nn.Conv2d(1, 8, 3, 2), tmp_path / "grey.onnx", (1, 1, 480, 640), 17)))
    wide = sum_work(read_ops(export(nn.Conv2d(8, 8, 3, 2), tmp_path / "wide.onnx", (1, 8, 480, 640), 17)))
    assert grey["conv"].spilled_1 == 0
    assert wide["conv"].spilled_1 == 32 * 480 * 640


def test_what_is_moved_fills_its_tiles_in_the_better_way(tmp_path):
    class Heads(nn.Module):
        def forward(self, x):
            return x.permute(1, 2, 0, 3)

    (op, _) = read_ops(export(Heads(), tmp_path / "model.onnx", (197, 1, 12, 64), 17))
    assert op.tensors == (197 * 16 * 64, 12 * 200 * 64)  # as an image, one channel would fill 32


def test_shapes_that_the_graph_computes_are_known(tmp_path):
    class Shuffle(nn.Module):
        def forward(self, x):
            batch, channels, height, width = x.shape
            return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(x.shape)

    ops = read_ops(export(Shuffle(), tmp_path / "model.onnx", (1, 8, 4, 4), 17))
    assert [op.kind for op in ops] == ["move", "border"]
