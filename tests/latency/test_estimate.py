"""Latency estimates: what they are worth on published models that they have not seen, and what they refuse."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from bitladder.commands.cli import app
from bitladder.errors import UserError
from bitladder.latency.estimate import devices, estimate, fit_report, reach_by_precision
from bitladder.latency.table import published_reach

REQUIRED = ("Samsung Galaxy S24", "Samsung Galaxy S25", "Snapdragon X Elite CRD")
MEDIAN = {"fp16": 0.12, "w8a8": 0.20, "w8a16": 0.20}


def conv_model(path: Path, channels: int = 64, batch: int | str = 1) -> Path:
    weights = numpy_helper.from_array(np.zeros((channels, 3, 3, 3), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["y"], ["z"], "relu"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 32, 32])
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, [batch, channels, 32, 32])
    graph = helper.make_graph(nodes, "g", [x], [z], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def report():
    return fit_report()


@pytest.mark.parametrize("device", REQUIRED)
@pytest.mark.parametrize("precision", MEDIAN)
def test_left_out_models_are_within_the_limits(report, device, precision):
    (row,) = [row for row in report if (row["device"], row["precision"]) == (device, precision)]
    assert row["median_error"] <= MEDIAN[precision]
    assert row["p90_error"] <= 0.5


@pytest.mark.parametrize("precision", MEDIAN)
def test_intervals_hold_what_they_say(report, precision):
    rows = [row for row in report if row["precision"] == precision]
    held = sum(row["models"] * row["within_interval"] for row in rows) / sum(row["models"] for row in rows)
    assert 0.75 <= held <= 0.90


def test_every_device_and_precision_is_reported(report):
    assert {(row["device"], row["precision"]) for row in report} == {
        (device, precision) for device, precisions in devices().items() for precision in precisions
    }


def test_more_work_takes_longer_and_a_free_batch_is_one(tmp_path):
    small = estimate(conv_model(tmp_path / "small.onnx"), "s24", "fp16")
    large = estimate(conv_model(tmp_path / "large.onnx", channels=4096), "s24", "fp16")
    free = estimate(conv_model(tmp_path / "free.onnx", batch="n"), "Galaxy S24", "fp16")
    assert small.low_ms < small.latency_ms < small.high_ms
    assert small.latency_ms < large.latency_ms
    assert free == small


def test_command_gives_json(tmp_path):
    model = conv_model(tmp_path / "model.onnx")
    found = CliRunner().invoke(app, ["latency", str(model), "--device", "SM8750", "--precision", "w8a8", "--json"])
    record = json.loads(found.stdout)
    assert record["device"] == "Samsung Galaxy S25"
    assert record["latency_source"] == "estimated"
    assert 0 < record["low_ms"] < record["latency_ms"] < record["high_ms"]


def test_unknown_device_precision_and_file_are_refused(tmp_path):
    model = conv_model(tmp_path / "model.onnx")
    with pytest.raises(UserError, match="no device with published latencies"):
        estimate(model, "Pixel 9", "fp16")
    with pytest.raises(UserError, match="use one of fp16"):
        estimate(model, "s24", "w4a8")
    with pytest.raises(UserError, match="has no published latencies at fp16"):
        estimate(model, "QCS6490", "fp16")
    with pytest.raises(UserError, match="no such file"):
        estimate(tmp_path / "none.onnx", "s24", "fp16")
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(UserError, match="not readable as ONNX"):
        estimate(tmp_path / "text.onnx", "s24", "fp16")


def test_the_reach_of_intervals_on_file_is_what_the_fit_gives():
    assert published_reach() == pytest.approx(reach_by_precision(), abs=1e-6)
