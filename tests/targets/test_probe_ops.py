"""Which ops a SoC takes, as the backend says; asked once."""

import json

import onnx
import pytest
from typer.testing import CliRunner

from bitladder.commands.cli import app
from bitladder.socs import find_soc
from bitladder.targets import probe_ops as module
from bitladder.targets.probe import PROBED
from bitladder.targets.probe_ops import TOYS, probe_ops, toy_graph

FEW = {kind: TOYS[kind] for kind in ("Conv", "Softmax", "Erf")}


@pytest.mark.parametrize("kind", TOYS)
def test_each_toy_is_a_valid_graph_at_each_precision(kind):
    for precision, bits in PROBED.items():
        graph = toy_graph(TOYS[kind], bits)
        onnx.checker.check_model(graph, full_check=True)
        quantized = "QuantizeLinear" in {node.op_type for node in graph.graph.node}
        assert quantized == (precision != "FP16")


@pytest.mark.parametrize("op", ["Conv 1x1", "Gemm", "MatMul"])
@pytest.mark.parametrize("block", [16, 32, 64])
def test_a_toy_with_block_weights_has_two_blocks_a_channel(op, block):
    graph = toy_graph(TOYS[f"{op}, blocks of {block}"], PROBED["W4A16"]).graph
    scales = {one.name: list(one.dims) for one in graph.initializer}
    (node,) = (one for one in graph.node if any(attribute.name == "block_size" for attribute in one.attribute))
    attributes = {one.name: one.i for one in node.attribute}
    assert attributes["block_size"] == block
    assert scales[node.input[1]] == [
        2 if axis == attributes["axis"] else size for axis, size in enumerate(scales[node.input[0]])
    ]


def test_the_npu_takes_block_weights_of_4_bits_beside_16_bit_activations_only(tmp_path, monkeypatch):
    kind = "MatMul, blocks of 32"
    monkeypatch.setattr(module, "TOYS", {kind: TOYS[kind]})
    said = dict(probe_ops(find_soc("SM8650"), tmp_path))[kind]
    assert said["W4A16"] == "yes"
    assert said["W4A8"] != "yes" and said["W8A8"] != "yes"


def test_the_backend_is_asked_once_and_what_it_says_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TOYS", FEW)
    found = dict(probe_ops(find_soc("QCS6490"), tmp_path))
    assert found["Conv"]["W8A8"] == "yes" and found["Conv"]["FP16"] != "yes"  # which this SoC has not
    assert set(found["Softmax"]) == set(PROBED)
    assert all("Erf" in said for said in found["Erf"].values())
    monkeypatch.setattr(module, "compile_context", None)
    assert dict(probe_ops(find_soc("QCS6490"), tmp_path)) == found


def test_the_command_prints_a_row_for_each_op_and_why_not(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TOYS", FEW)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["socs", "--probe", "SM8650", "--ops"])
    assert done.exit_code == 0, done.output
    row = next(line for line in done.stdout.splitlines() if line.startswith("| Conv"))
    assert row.count("yes") == len(PROBED)
    assert "Erf, FP16 W16A16 W8A16 W8A8 W4A16 W4A8: left for the CPU: Erf" in done.stdout
    (kept,) = tmp_path.rglob("ops-SM8650-*.json")
    assert set(json.loads(kept.read_text())) == set(FEW)
