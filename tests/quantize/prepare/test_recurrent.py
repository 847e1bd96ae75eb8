"""Recurrent layers step by step: the same outputs as the layers, of torch and of ONNX, and all of it quantized."""

import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from bitladder.export.float_tensors import find_float
from bitladder.network.evaluate import predict, sqnr_db
from bitladder.precision import Precision
from bitladder.quantize.prepare.prepare import prepare
from bitladder.quantize.prepare.recurrent import MOST_STEPS, unroll
from bitladder.quantize.sim.sim import build_sim
from bitladder.tasks.onnx_model import OnnxModel
from bitladder.tasks.task import Split

KINDS = {
    "LSTM": lambda: nn.LSTM(5, 4),
    "LSTM both ways": lambda: nn.LSTM(5, 4, num_layers=2, bidirectional=True, batch_first=True),
    "LSTM with projection": lambda: nn.LSTM(5, 4, proj_size=3, batch_first=True),
    "LSTM without biases": lambda: nn.LSTM(5, 4, bias=False, batch_first=True),
    "GRU": lambda: nn.GRU(5, 4, batch_first=True),
    "GRU both ways": lambda: nn.GRU(5, 4, num_layers=2, bidirectional=True),
    "GRU without biases": lambda: nn.GRU(5, 4, bias=False, batch_first=True),
    "RNN": lambda: nn.RNN(5, 4, batch_first=True, bidirectional=True),
    "RNN with ReLU": lambda: nn.RNN(5, 4, nonlinearity="relu", batch_first=True),
}


class Recurrent(nn.Module):
    """A layer and all that it gives; its state comes with the inputs where `state` is set."""

    def __init__(self, rnn: nn.Module, state: bool = False):
        super().__init__()
        self.rnn, self.state = rnn, state

    def forward(self, values):
        values = values if self.rnn.batch_first else values.transpose(0, 1)
        start = values.new_ones(self.rnn.num_layers * (1 + self.rnn.bidirectional), len(values), 4)
        every, last = self.rnn(values, start) if self.state else self.rnn(values)
        return (every if self.rnn.batch_first else every.transpose(0, 1), *(last if type(last) is tuple else [last]))


def values(count: int = 3, steps: int = 6) -> torch.Tensor:
    return torch.randn(count, steps, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
def test_an_unrolled_layer_gives_the_same_outputs_and_last_states(kind):
    torch.manual_seed(0)
    model, given = Recurrent(KINDS[kind]()).eval(), values()
    expected = model(given)
    unroll(model, (values(1),))
    assert not any(isinstance(module, nn.RNNBase) for module in model.modules())
    for found, wanted in zip(model(given), expected, strict=True):
        assert torch.allclose(found, wanted, atol=1e-6)


def test_a_state_that_is_given_is_started_from():
    model, given = Recurrent(nn.GRU(5, 4, batch_first=True), state=True).eval(), values()
    expected = model(given)
    unroll(model, (values(1),))
    assert not isinstance(model.rnn, nn.GRU)
    assert all(torch.allclose(found, wanted, atol=1e-6) for found, wanted in zip(model(given), expected, strict=True))


def test_a_long_sequence_stays_one_op_and_is_counted_as_float(tmp_path):
    model = nn.Sequential(nn.Linear(5, 5), Last(nn.LSTM(5, 4, batch_first=True)), nn.Linear(4, 2)).eval()
    split = Split({"input": values(4, MOST_STEPS + 1)}, torch.zeros(4))
    path, _ = exported(model, split, Precision(8, 8), tmp_path)
    found = find_float(path)
    assert found.share.ops == 1
    assert {one.op for one in found.tensors} == {"LSTM"}
    assert any(one.kind == "weight" and one.elements == 4 * 4 * 5 for one in found.tensors)


class Last(nn.Module):
    def __init__(self, rnn: nn.Module):
        super().__init__()
        self.rnn = rnn

    def forward(self, values):
        return self.rnn(values)[0][:, -1]


@pytest.mark.parametrize("bits", [Precision(8, 16), Precision(8, 8), Precision(4, 8)], ids=str)
def test_an_lstm_holds_its_weights_in_the_rungs_bits(bits, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(Last(nn.LSTM(5, 16, batch_first=True)), nn.Linear(16, 2))
    split = Split({"input": values(8)}, torch.zeros(8))
    path, _ = exported(model.eval(), split, bits, tmp_path)
    assert not find_float(path).tensors
    matrices = [one for one in onnx.load(path).graph.initializer if len(one.dims) == 2]
    wanted = onnx.TensorProto.INT4 if bits.weights == 4 else onnx.TensorProto.INT8
    assert len(matrices) == 3, "of inputs, and of the state, which all steps share; and the head"
    assert {one.data_type for one in matrices} == {wanted}


def exported(model, split, bits, folder):
    sample = tuple(value[:1] for value in split.inputs.values())
    prepared, _ = prepare(model, sample)
    sim = build_sim(prepared, sample, bits, "htp_v75")
    sim.calibrate(split, 4)
    path = folder / "model.onnx"
    sim.export_qdq(sample, (list(split.inputs), ["output"]), path)
    return path, sim


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("LSTM with projection", "RNN with ReLU")])
def test_onnx_of_the_same_layer_gives_the_same_outputs(kind, tmp_path):
    torch.manual_seed(0)
    network = network_of(Recurrent(KINDS[kind]()), tmp_path)
    expected = network(values())
    prepared, _ = prepare(network, (values(1),))
    assert not {"LSTM", "GRU", "RNN"} & {node.op_type for node in prepared.proto.graph.node}
    for name, found in prepared(values()).items():
        assert torch.allclose(found, expected[name], atol=1e-6)


def network_of(model: nn.Module, folder) -> nn.Module:
    path = folder / "net.onnx"
    torch.onnx.export(
        model.eval(), (values(1),), str(path), input_names=["input"], opset_version=17, dynamo=False,
        dynamic_axes={"input": {0: "n"}},
    )  # fmt: skip
    return OnnxModel(path)()


def test_a_rung_of_an_onnx_lstm_is_integer(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(Last(nn.LSTM(5, 8, batch_first=True)), nn.Linear(8, 2))
    network, split = network_of(model, tmp_path), Split({"input": values(8)}, torch.zeros(8))
    expected = predict(network, split, 4, "fp32")
    path, sim = exported(network, split, Precision(8, 8), tmp_path)
    assert not find_float(path).tensors
    assert sqnr_db(expected, predict(sim.model, split, 4, "sim")) > 25


def test_an_onnx_lstm_of_an_unusual_kind_is_left(tmp_path):
    network = network_of(Recurrent(nn.LSTM(5, 4, batch_first=True)), tmp_path)
    node = next(node for node in network.proto.graph.node if node.op_type == "LSTM")
    node.attribute.append(helper.make_attribute("clip", 3.0))
    prepared, _ = prepare(network, (values(1),))
    assert "LSTM" in {node.op_type for node in prepared.proto.graph.node}
