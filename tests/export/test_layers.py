"""Nodes of exported graphs tell the user's layer and line, whatever torch's exporter calls them."""

import inspect

import onnx
import pytest
import torch
from torch import nn

from bitladder.export.fp16 import HalfPrecision, export_fp16
from bitladder.export.layers import note_layers
from bitladder.network.lines import lines_kept
from bitladder.precision import Precision
from bitladder.quantize.prepare.prepare import prepare
from bitladder.quantize.sim.sim import build_sim
from bitladder.tasks.task import Split
from support import CONFIG


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()

    def forward(self, x):
        inner = self.act(self.conv(x))
        return self.act(inner + x)


class Net(nn.Module):
    """Blocks whose layers are called alike, a functional call, and a layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.blocks(x)
        pooled = x.mean((2, 3))
        return self.head(pooled)


def line(owner, text):
    source, start = inspect.getsourcelines(owner)
    return f"test_layers.py:{start + next(at for at, one in enumerate(source) if text in one)}"


@pytest.fixture(scope="module")
def sample():
    torch.manual_seed(0)
    return (torch.randn(1, 4, 6, 6),)


def notes(path):
    graph = onnx.load(path).graph
    assert graph.node
    return {(node.op_type, node.doc_string) for node in graph.node if node.doc_string}


def test_a_quantized_graph_tells_layers_and_lines_of_what_was_written_for_calls_too(sample, tmp_path):
    network, _ = prepare(Net().eval(), sample)
    sim = build_sim(network, sample, Precision(8, 8), CONFIG)
    sim.calibrate(Split({"x": sample[0]}, torch.zeros(1)), 1)
    path = tmp_path / "model.onnx"
    sim.export_qdq(sample, (["x"], ["y"]), path)
    note_layers(path, sim.model, lines_kept(network))
    found = notes(path)
    for index in (0, 1):
        assert ("Conv", f"blocks.{index}.conv ({line(Block, 'inner =')})") in found
        added = [note for kind, note in found if kind == "Add" and note.startswith(f"blocks.{index}.module_add")]
        assert [note.partition("(")[2] for note in added] == [f"{line(Block, 'inner + x')})"]
    assert any(note.endswith(f"({line(Net, 'mean')})") for kind, note in found if kind.startswith("Reduce"))
    assert any(note == f"head ({line(Net, 'self.head(')})" for _, note in found)


def test_a_graph_in_fp16_tells_them_by_the_networks_own_paths(sample, tmp_path):
    path = tmp_path / "model.onnx"
    export_fp16(HalfPrecision(Net().eval()), sample, (["x"], ["y"]), path)
    found = notes(path)
    for index in (0, 1):
        assert ("Conv", f"blocks.{index}.conv ({line(Block, 'inner =')})") in found
        assert any(kind == "Add" and note.startswith(f"blocks.{index} ") for kind, note in found)


def test_the_network_that_was_asked_for_its_lines_gives_the_same_outputs(sample):
    """Batch norms keep their statistics: nothing is run in training mode."""
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)).eval()
    before = model(*sample)
    prepare(model, sample, fold=False)
    half = HalfPrecision(model)
    assert torch.equal(model(*sample), before) and not half.model.training
