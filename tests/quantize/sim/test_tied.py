"""A state that a network gives and takes again: one encoding for both, from calibration to the exported graph."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from bitladder.errors import UserError
from bitladder.network.model import sample_inputs
from bitladder.network.training import Recipe, fit
from bitladder.precision import Precision
from bitladder.quantize.prepare.prepare import prepare
from bitladder.quantize.sim.sim import build_sim
from bitladder.tasks.onnx_model import OnnxModel
from bitladder.tasks.task import Metric, Quantization, Split, Task

TIED = Quantization(tied=[("past", "present")])
INPUTS, OUTPUTS = ["x", "past"], ["y", "present"]


class Cell(nn.Module):
    """Its state goes through a reshape and a transpose before it leaves."""

    def __init__(self):
        super().__init__()
        self.of_input, self.of_state, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.mixed = nn.Linear(8, 8)

    def forward(self, x, past):
        state = self.mixed(torch.tanh(self.of_input(x) + self.of_state(past.transpose(1, 2).flatten(1))))
        return {"y": self.head(state), "present": state.unflatten(1, (2, 4)).transpose(1, 2)}


def split(largest=9.0):
    """The states that come in have another range than those that go out, which lie within 1."""
    generator = torch.Generator().manual_seed(0)
    past = largest * torch.rand(16, 4, 2, generator=generator)
    return Split({"x": torch.randn(16, 6, generator=generator), "past": past}, torch.zeros(16, dtype=torch.long))


def network(kind, folder):
    torch.manual_seed(0)
    model = Cell().eval()
    if kind == "torch":
        return model
    path, names = str(folder / "cell.onnx"), {"input_names": INPUTS, "output_names": OUTPUTS}
    torch.onnx.export(model, sample_inputs(split()), path, dynamo=False, **names)
    return OnnxModel(path)()


def sim_of(kind, folder, quantization=TIED, bits=(8, 16)):
    sample = sample_inputs(split())
    prepared, _ = prepare(network(kind, folder), sample, quantization=quantization)
    return build_sim(prepared, sample, Precision(*bits), "htp_v75")


def encodings(sim, path: Path):
    """Scale and zero point of what reads the input, and of what gives the output, in the exported graph."""
    sim.export_qdq(sample_inputs(split()), (INPUTS, OUTPUTS), path)
    graph = onnx.load(path).graph
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    constants |= {one.output[0]: numpy_helper.to_array(one.attribute[0].t) for one in graph.node if not one.input}
    makers = {name: node for node in graph.node for name in node.output}
    reader = next(node for node in graph.node if node.input and node.input[0] == "past")
    maker = makers["present"]
    while maker.op_type != "DequantizeLinear":
        maker = makers[maker.input[0]]
    assert reader.op_type == "QuantizeLinear"
    return [tuple(constants[name].item() for name in node.input[1:3]) for node in (reader, maker)]


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_what_is_tied_has_one_encoding_of_both_ranges_in_what_is_exported(kind, tmp_path):
    sim, apart = sim_of(kind, tmp_path), sim_of(kind, tmp_path, Quantization())
    for one in (sim, apart):
        one.calibrate(split(), 8)
    read, made = encodings(sim, tmp_path / "tied.onnx")
    assert read == made
    low, high = (-zero * read[0] for zero in (read[1], read[1] - 65535))
    assert -1.2 < low < -0.3 and high == pytest.approx(9, abs=0.2)
    read, made = encodings(apart, tmp_path / "apart.onnx")
    assert read != made and made[0] * 65535 < 3


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_it_stays_one_in_a_copy_and_after_saving_and_loading(kind, tmp_path):
    sim, other = sim_of(kind, tmp_path), sim_of(kind, tmp_path)
    sim.calibrate(split(), 8)
    sim.save(tmp_path / "sim")
    other.load(tmp_path / "sim")
    expected = encodings(sim, tmp_path / "a.onnx")
    assert expected == encodings(other, tmp_path / "b.onnx") == encodings(sim.copy(), tmp_path / "c.onnx")
    other.calibrate(split(3.0), 8)  # as after a technique: both move
    read, made = encodings(other, tmp_path / "d.onnx")
    assert read == made != expected[0]


def test_quantization_aware_training_moves_both_together(tmp_path):
    sim = sim_of("torch", tmp_path, bits=(8, 8))
    sim.calibrate(split(), 8)
    before = encodings(sim, tmp_path / "a.onnx")

    def loss(outputs, targets):
        return nn.functional.cross_entropy(outputs["y"], targets) + outputs["present"].square().mean()

    task = Task(Cell, lambda seed: {}, loss, Metric("error", lambda outputs, targets: 0.0, False), quantization=TIED)
    fit(sim.model, task, split(), Recipe(2, 8, 1e-2, 0.0, 0), tmp_path / "work")
    sim.model.eval()
    read, made = encodings(sim, tmp_path / "b.onnx")
    assert read == made != before[0]


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_what_is_given_back_in_is_rounded_once(kind, tmp_path):
    sim = sim_of(kind, tmp_path, bits=(8, 8))
    sim.calibrate(split(), 8)
    (scale, zero), _ = encodings(sim, tmp_path / "model.onnx")
    with torch.no_grad():
        outputs = sim.model(*split().inputs.values())
    present = (outputs["present"] if isinstance(outputs, dict) else outputs[1]).as_subclass(torch.Tensor).numpy()
    steps = present / scale + zero
    assert np.abs(steps - np.rint(steps)).max() < 1e-3


@pytest.mark.parametrize("kind", ["torch", "onnx"])
@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("before", "present"), r"Quantization\.tied: the model has no input 'before'; it has x, past$"),
        (("past", "after"), r"Quantization\.tied: the model has no output 'after'; it has y, present$"),
    ],
)
def test_a_name_that_is_not_there_is_told(kind, pair, message, tmp_path):
    with pytest.raises(UserError, match=message):
        sim_of(kind, tmp_path, Quantization(tied=[pair]))


def test_an_output_that_stays_in_float_is_told(tmp_path):
    with pytest.raises(UserError, match=r"Quantization\.tied: the output 'present' has no quantizer: is it an integer"):
        sim_of("onnx", tmp_path, Quantization(tied=TIED.tied, exclude=["/mixed/Gemm"]))


def test_an_input_without_a_quantizer_is_told():
    class Looked(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(5, 4), nn.Linear(4, 3)

        def forward(self, word):
            return self.head(self.table(word))

    sample = (torch.zeros(1, 2, dtype=torch.int32),)
    prepared, _ = prepare(Looked().eval(), sample, quantization=Quantization(tied=[("word", "output")]))
    with pytest.raises(UserError, match=r"Quantization\.tied: the input 'word' has no quantizer: is it an integer"):
        build_sim(prepared, sample, Precision(8, 16), "htp_v75")
