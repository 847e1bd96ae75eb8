"""`bitladder lint` on files of any making: what it says, its exit codes, and random and damaged graphs."""

import copy
import json
import os
import random

import numpy as np
import onnx
import pytest
import torch
from random_graphs import random_graph
from typer.testing import CliRunner

from bitladder.commands.cli import app
from bitladder.errors import UserError
from bitladder.htp.graph import Graph
from bitladder.htp.lint import read_graph
from bitladder.htp.registry import RULES
from bitladder.htp.repair import find, repair
from bitladder.socs import find_soc
from bitladder.tasks.onnx_file import open_session

COUNT = 2000 if os.environ.get("HYPOTHESIS_PROFILE") == "many" else 60

SOCS = [find_soc(name) for name in ("SM8650", "QCS6490")]

STEPS = 10  # by which a repair may move an output: a rounding more inside, which a norm behind makes larger


def largest_step(proto: onnx.ModelProto) -> float:
    """Give the largest step of an activation's quantizer; 0 of a graph in float."""
    graph = Graph(proto)
    made = [node.output[0] for node in graph.of_type("DequantizeLinear")]
    return max((graph.quantizer(name).step for name in made if graph.find_constant(name) is None), default=0.0)


def lint(*words: object):
    return CliRunner().invoke(app, ["lint", *map(str, words)])


@pytest.fixture
def wrong(tmp_path):
    """Give the file of a random graph in which a norm's bias is in float."""
    seed = next(
        seed for seed in range(100) if any("norm-bias" in str(one) for one in find(random_graph(seed), SOCS[0]))
    )
    onnx.save(random_graph(seed), tmp_path / "wrong.onnx")
    return tmp_path / "wrong.onnx"


def test_what_is_found_is_told_by_node_and_is_exit_code_1(wrong):
    done = lint(wrong)
    assert done.exit_code == 1
    assert "(LayerNormalization), wrong: " in done.stdout or "(InstanceNormalization), wrong: " in done.stdout
    assert "Repair (norm-bias): its bias as int32" in done.stdout and "--fix OUT.onnx repairs them" in done.stdout


def test_a_repaired_file_has_nothing_left(wrong, tmp_path):
    assert lint(wrong, "--fix", tmp_path / "right.onnx").exit_code == 0
    done = lint(tmp_path / "right.onnx")
    assert done.exit_code == 0 and ": 0 nodes are not as the NPU of SM8650 takes them\n" in done.stdout


def test_what_a_repair_brings_forth_is_repaired_too():
    proto = random_graph(923)  # a LeakyReLU right behind a PReLU: a quantizer between the two concerns both
    repair(proto, SOCS[0])
    assert not find(proto, SOCS[0])


def test_a_stored_tensor_that_is_cut_short_is_one_line(tmp_path):
    proto = random_graph(0)
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-1]
    onnx.save(proto, tmp_path / "short.onnx")
    done = lint(tmp_path / "short.onnx")
    assert done.exit_code == 1 and "is no valid ONNX graph" in done.stderr and done.stderr.count("\n") == 1


def test_json_has_a_key_for_each_thing_said(wrong):
    rows = json.loads(lint(wrong, "--json").stdout)
    assert {"rule", "effect", "node", "op", "where", "why", "remedy", "changes"} == set(rows[0])


@pytest.fixture
def in_float(tmp_path):
    """Give the file of a float graph: the logarithm of a sigmoid, which the NPU takes wrong at 16 bits."""
    network, inputs = RULES["log"].example.build()
    path = tmp_path / "float.onnx"
    torch.onnx.export(network.eval(), (inputs[0][:1],), str(path), dynamo=False, dynamic_axes={}, opset_version=17)
    return path


def test_a_float_file_is_looked_at_as_it_would_be_quantized(in_float):
    assert "(half-tables)" in lint(in_float).stdout  # a matter of FP16
    assert lint(in_float, "--precision", "W8A8").exit_code == 0
    done = lint(in_float, "--precision", "W8A16")
    assert done.exit_code == 1 and "Repair (log): " in done.stdout and "1 nodes are not" in done.stdout
    assert "at W8A16; `dvc repro` repairs them" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--precision", "W9A9"), "--precision: 'W9A9' is none of FP16, "),
        (("--precision", "W8A8", "--fix", "o.onnx"), "--fix writes no graph of --precision"),
    ],
)
def test_what_cannot_be_asked_of_a_float_file_is_one_line(in_float, words, said):
    done = lint(in_float, *words)
    assert done.exit_code == 1 and said in done.stderr and done.stderr.count("\n") == 1


def test_a_file_that_is_quantized_already_is_asked_without_a_precision(wrong):
    done = lint(wrong, "--precision", "W8A8")
    assert done.exit_code == 1 and "is quantized already" in done.stderr and done.stderr.count("\n") == 1


def test_what_is_no_graph_is_one_line(tmp_path):
    (tmp_path / "text.onnx").write_text("no graph")
    for name, said in (("text", "is no ONNX file, or only a part of one"), ("gone", "no such file")):
        done = lint(tmp_path / f"{name}.onnx")
        assert done.exit_code == 1 and done.stderr == f"bitladder: {tmp_path / name}.onnx: {said}\n"


def run(proto: onnx.ModelProto, values: np.ndarray) -> np.ndarray:
    return open_session(proto.SerializeToString()).run(None, {"x": values})[0]


@pytest.mark.fuzz
def test_a_repaired_random_graph_is_valid_and_has_the_same_function():
    repaired = set()
    for seed in range(COUNT):
        proto = random_graph(seed)
        sides = [one.dim_value for one in proto.graph.input[0].type.tensor_type.shape.dim]
        values = torch.randn(sides, generator=torch.Generator().manual_seed(seed)).numpy()
        before = run(proto, values)
        for soc in SOCS:
            own = copy.deepcopy(proto)
            repaired |= {one.rule.name for one in repair(own, soc)}
            onnx.checker.check_model(own, full_check=True)
            step = largest_step(own) or 1e-4 * float(np.abs(before).max())
            alike = copy.deepcopy(proto)
            repair(alike, soc, [name for name, rule in RULES.items() if not rule.changes])
            assert np.abs(run(alike, values) - before).max() <= STEPS * step, f"seed {seed} on {soc.name}"
            assert not find(own, soc), f"seed {seed} on {soc.name}"
    assert len(repaired) > 10


@pytest.mark.fuzz
def test_a_damaged_file_is_one_line_or_read(tmp_path):
    path, refused = tmp_path / "damaged.onnx", 0
    for seed in range(COUNT):
        chance = random.Random(seed)
        data = bytearray(random_graph(seed).SerializeToString())
        if chance.random() < 0.3:
            del data[chance.randrange(len(data)) :]
        for _ in range(chance.randint(1, 8)):
            if data:
                data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data)
        try:
            repair(read_graph(path), SOCS[seed % 2])
        except UserError as error:
            refused += 1
            assert "\n" not in str(error), seed
    assert refused > COUNT / 2
