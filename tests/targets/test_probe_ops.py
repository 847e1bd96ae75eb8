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
