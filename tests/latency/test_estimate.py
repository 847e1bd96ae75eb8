"""Latency estimates: what they are worth on published models that they have not seen, and what they refuse."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from bitladder.commands.cli import app
from bitladder.errors import UserError
from bitladder.latency.estimate import devices, estimate
from bitladder.latency.neighbours import is_near
from bitladder.latency.table import (
    left_out,
    published_measurements,
    published_work,
    residuals,
    unit_costs,
)
from bitladder.latency.work import FEATURES, features
from bitladder.report.latency import error_rows
from bitladder.socs import all_socs
from support import conv_model

REQUIRED = ("Samsung Galaxy S24", "Samsung Galaxy S25", "Snapdragon X Elite CRD")
MEDIAN = {"fp16": 0.09, "w8a8": 0.12, "w8a16": 0.11}
P90 = {"fp16": 0.3, "w8a8": 0.5, "w8a16": 0.4}


@pytest.fixture(scope="module")
def report():
    return {(row["group"], row["name"]): row for row in error_rows()}


@pytest.mark.parametrize("precision", MEDIAN)
def test_left_out_networks_are_within_the_limits(report, precision):
    row = report["precision", precision]
    assert row["median_error"] <= MEDIAN[precision] and row["p90_error"] <= P90[precision]


@pytest.mark.parametrize("device", REQUIRED)
def test_left_out_networks_are_within_the_limits_on_each_device_that_many_have(report, device):
    row = report["device", device]
    assert row["median_error"] <= 0.12 and row["p90_error"] <= 0.37


def test_intervals_hold_what_they_say_over_all_and_in_every_family(report):
    assert 0.78 <= report["all", ""]["within_interval"] <= 0.85
    families = [row for (group, _), row in report.items() if group == "family"]
    assert {row["name"] for row in families} == {"CNN", "transformer", "detection", "segmentation"}
    assert all(row["within_interval"] >= 0.72 and row["median_error"] <= 0.14 for row in families)


def test_at_least_seventy_networks_and_every_device_are_reported(report):
    assert report["all", ""]["networks"] >= 70
    assert {name for group, name in report if group == "device"} == set(devices())


def test_the_files_on_disk_belong_together():
    for m in published_measurements():
        fitted = unit_costs()[m.place] @ features(published_work()[m.graph], m.precision, m.converts)
        assert np.log(m.latency_ms / fitted) == pytest.approx(residuals()[m.graph, m.precision][m.device], abs=2e-3)
    assert all(len(costs) == len(FEATURES) for costs in unit_costs().values())
    assert {row["model"] for row in left_out()} == {m.model for m in published_measurements()}


def test_a_soc_without_published_latencies_takes_those_of_its_generation(tmp_path):
    model = conv_model(tmp_path / "model.onnx")
    own, borrowed = estimate(model, "SM8750", "w8a8"), estimate(model, "SM8350", "w8a8")
    assert not own.siblings
    assert borrowed.device == "SM8350"
    assert set(borrowed.siblings) == {soc.device for soc in all_socs().values() if soc.arch == "v68" and soc.device}
    assert borrowed.high_ms / borrowed.low_ms > own.high_ms / own.low_ms
    assert "devices of its Hexagon generation" in borrowed.basis


def test_a_device_with_few_published_networks_has_a_wide_interval_and_says_so(tmp_path):
    model = conv_model(tmp_path / "model.onnx")
    known, few = estimate(model, "SM8850", "fp16"), estimate(model, "SM8950", "fp16")
    assert few.high_ms / few.low_ms > known.high_ms / known.low_ms
    assert "fewer than 10 networks" in few.basis
    assert "fewer" not in known.basis


def test_peak_memory_has_an_interval_and_grows_with_the_weights(tmp_path):
    small = estimate(conv_model(tmp_path / "small.onnx"), "s24", "fp16")
    large = estimate(conv_model(tmp_path / "large.onnx", channels=2**20), "s24", "fp16")
    assert small.memory_low_mb < small.memory_mb < small.memory_high_mb
    assert small.memory_mb < large.memory_mb


def test_networks_are_near_only_where_something_like_them_was_published():
    spreads = np.array([float(row["spread"]) for row in left_out()])
    errors = np.array([abs(np.log(float(row["estimated_ms"]) / float(row["measured_ms"]))) for row in left_out()])
    near = np.array([is_near(spread) for spread in spreads])
    assert 0.2 < near.mean() < 0.8
    assert np.median(errors[near]) < 0.6 * np.median(errors[~near])


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


def test_command_gives_a_row_for_each_device(tmp_path):
    model = conv_model(tmp_path / "model.onnx")
    found = CliRunner().invoke(app, ["latency", str(model), "--all", "--precision", "w8a8"])
    named = [line.split("|")[1].strip() for line in found.stdout.splitlines()[2:]]
    assert sorted(named) == sorted(name for name, known in devices().items() if "w8a8" in known)


def test_unknown_device_precision_and_file_are_refused(tmp_path):
    model = conv_model(tmp_path / "model.onnx")
    with pytest.raises(UserError, match="no device with published latencies"):
        estimate(model, "Pixel 9", "fp16")
    with pytest.raises(UserError, match="publishes W4 of language models only"):
        estimate(model, "s24", "w4a8")
    with pytest.raises(UserError, match="use one of fp16"):
        estimate(model, "s24", "w16a16")
    with pytest.raises(UserError, match="SM8635 does not take FP16"):
        estimate(model, "SM8635", "fp16")
    with pytest.raises(UserError, match="has no published latencies at fp16"):
        estimate(model, "QCS6490", "fp16")
    with pytest.raises(UserError, match="no such file"):
        estimate(tmp_path / "none.onnx", "s24", "fp16")
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(UserError, match="not readable as ONNX"):
        estimate(tmp_path / "text.onnx", "s24", "fp16")
