"""The emulator as a target: what it records, and one clear line for what goes wrong, with nothing half-written."""

import csv
import os
import signal
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import samples, settings, two_convs
from onnx import helper, numpy_helper

from bitladder.errors import UserError
from bitladder.export.checks import run_unoptimised
from bitladder.network.outputs import StoredOutputs
from bitladder.params import load_params
from bitladder.socs import find_soc
from bitladder.targets.context import compile_model, run
from bitladder.targets.estimated import estimated_latency
from bitladder.targets.hexagon import Hexagon, Snapdragon
from bitladder.targets.probe import PROBED, probe
from bitladder.targets.profile import find_target, profile
from bitladder.targets.target import Job
from bitladder.targets.workers import own_cores, result, worker_pool
from bitladder.tasks.task import Metric
from support import quantized_convs


@pytest.fixture
def job(tmp_path):
    (tmp_path / "work").mkdir()
    model = two_convs(tmp_path / "model.onnx")
    return Job(model, "W8A8", samples(), tmp_path / "target", tmp_path / "notes", tmp_path / "work")


def test_a_process_that_is_not_up_when_the_others_are_done_says_nothing(job, capfd):
    """A few samples are done before a second process has started."""
    soc = load_params(Path("params.yaml")).soc
    compiled = compile_model(job.model, job.folder, soc, False, 60, job.workspace)
    run(compiled, soc, False, samples(20), settings(workers=2), job.workspace)
    assert "Traceback" not in capfd.readouterr().err


def test_record_of_the_emulator(job):
    simulated = run_unoptimised(job.model, job.split)
    params = load_params(Path("params.yaml"))
    params = params.model_copy(update={"target": settings()})
    score = Metric("mean", lambda output, _: output.mean().item())
    stored = StoredOutputs(job.workspace / "simulated")
    stored.append(simulated)
    stored.flush()
    record, _ = profile(job, score, (stored, score(simulated, job.split.targets)), params.soc, params.target)
    assert record.sqnr_db > 25
    assert record.memory_bytes == sum(path.stat().st_size for path in job.folder.glob("*.bin")) > 0
    assert 0 < record.weights_bytes < record.memory_bytes
    assert record.memory.source == "context binary"
    assert record.memory.constants_bytes + record.memory.op_data_bytes < record.memory_bytes
    assert record.memory.spill_fill_bytes == 0 < record.memory.vtcm_bytes
    assert record.latency_source == "estimated"
    assert record.latency_low_ms < record.latency_ms < record.latency_high_ms
    assert "Samsung Galaxy S24" in record.reason
    assert record.ops_cpu == 0
    assert [name for name, value in record if value is None] == ["latency_p90_ms", "exact", "device", "side_by_side"]
    with (job.notes / "ops.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert any(row["op"].startswith("first") for row in rows)
    assert {row["source"] for row in rows} == {"emulated"}
    assert sum(float(row["share"]) for row in rows) == pytest.approx(1, abs=1e-4)


def test_what_does_not_fit_the_npu_is_spilled_and_told(tmp_path):
    """Four layers of 64 channels at 256 x 256 are 8 MB each at 16 bits: more than any NPU's own memory."""
    image, out = (
        helper.make_tensor_value_info(*each) for each in (("x", 1, [1, 3, 256, 256]), ("y", 1, [1, 64, 1, 1]))
    )
    weights = {"w0": (64, 3, 3, 3), "w1": (64, 64, 3, 3), "w2": (64, 64, 3, 3)}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], "first", pads=[1] * 4),
        helper.make_node("Conv", ["a", "w1"], ["b"], "second", pads=[1] * 4),
        helper.make_node("Relu", ["b"], ["c"], "clip"),
        helper.make_node("Conv", ["c", "w2"], ["d"], "third", pads=[1] * 4),
        helper.make_node("Add", ["a", "d"], ["e"], "add"),
        helper.make_node("GlobalAveragePool", ["e"], ["y"], "pool"),
    ]
    constants = [numpy_helper.from_array(np.full(shape, 0.01, np.float32), name) for name, shape in weights.items()]
    graph = helper.make_graph(nodes, "large", [image], [out], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    compiled = compile_model(tmp_path / "model.onnx", tmp_path / "t", find_soc("SM8350"), True, 60, tmp_path)
    assert compiled.memory["spill_fill_bytes"] > 1e6


def test_no_estimate_where_nothing_is_published(tmp_path):
    found = estimated_latency(quantized_convs(tmp_path / "model.onnx", [(4, 8)]), find_soc("SM8550"))
    assert (found.source, found.ms) == ("none", None)
    assert "no latencies are published at w4a8" in found.reason


def test_a_soc_without_published_latencies_says_whose_they_are(tmp_path):
    found = estimated_latency(quantized_convs(tmp_path / "model.onnx", [(8, 8)]), find_soc("SM8635"))
    assert found.source == "estimated"
    assert "estimated for SM8635 from published latencies of devices of its Hexagon generation" in found.reason


def test_snapdragon_refuses_a_machine_without_one(job):
    with pytest.raises(UserError, match="needs a machine with a Snapdragon NPU"):
        Snapdragon(find_soc("SM8650"), settings(backend="snapdragon")).measure(job)
    assert not job.folder.exists()


def test_runs_are_timed_after_the_warm_up(job):
    target = Snapdragon(find_soc("SM8650"), settings(backend="snapdragon", warmup=1, runs=5))
    compiled = compile_model(job.model, job.folder, target.soc, False, 60, job.workspace)
    latency = target.time(job, compiled)  # on the emulator: that there is a time, not which
    assert latency.source == "measured"
    assert 0 < latency.ms <= latency.p90_ms
    assert "median of 5 runs after 1" in latency.reason


def test_backend_chooses_the_target():
    for backend, kind in (("hexagon-emulator", "Hexagon"), ("snapdragon", "Snapdragon"), ("ai-hub", "AiHub")):
        chosen = find_target(find_soc("SM8650"), settings(backend=backend))
        assert type(chosen).__name__ == kind


def test_what_a_killed_compile_left_is_in_nobodys_way(job, monkeypatch):
    monkeypatch.chdir(job.workspace.parent)
    job = replace(job, model=Path("model.onnx"), folder=Path("target"), workspace=Path("work"))  # as stages have them
    left = job.workspace / "context"
    left.mkdir()
    (left / "model_ctx.onnx").write_text("half")
    (left / "old.bin").write_text("half")
    compiled = compile_model(job.model, job.folder, find_soc("SM8650"), False, 60, job.workspace)
    assert compiled.memory_bytes > 1000
    assert not (job.folder / "old.bin").exists()


def test_a_refused_model_leaves_nothing(job):
    job.model.write_bytes(b"no model")
    with pytest.raises(UserError, match="compiling for SM8650") as caught:
        Hexagon(find_soc("SM8650"), settings()).measure(job)
    assert "\n" not in str(caught.value)
    assert not job.folder.exists()


def test_a_killed_worker_is_one_line(tmp_path):
    with worker_pool(1, tmp_path) as pool:
        future = pool.schedule(os._exit, args=(3,))
        with pytest.raises(UserError, match=r"its process died .*run again") as caught:
            result(future, "a sample", "60 s", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_worker_that_never_ends_is_given_up(tmp_path):
    with worker_pool(1, tmp_path) as pool:
        future = pool.schedule(signal.pause, timeout=1)
        with pytest.raises(UserError, match=r"took longer than target\.limit = 1"):
            result(future, "a sample", "target.limit = 1", tmp_path)


@pytest.mark.parametrize(
    ("cores", "workers", "shares"),
    [
        ([0, 1], 1, [[0, 1]]),
        ([0, 1], 2, [[0], [1], [0, 1]]),  # the third takes a dead one's place
        ([2, 3, 5, 7], 2, [[2, 3], [5, 7]]),
        ([4], 2, [[4], [4]]),
        ([0, 1], 3, [[0], [0], [1]]),
    ],
)
def test_each_process_has_its_share_of_the_cores(cores, workers, shares):
    assert [own_cores(cores, number, workers) for number in range(len(shares))] == shares


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system pins no processes")
def test_processes_keep_to_cores_and_their_parent_does_not(tmp_path):
    before = os.sched_getaffinity(0)
    with worker_pool(2, tmp_path) as pool:
        found = {tuple(sorted(pool.schedule(os.sched_getaffinity, args=(0,)).result())) for _ in range(20)}
    assert os.sched_getaffinity(0) == before
    assert found <= {tuple(own_cores(sorted(before), number, 2)) for number in range(2)}


def failing(error: Exception) -> Future:
    future: Future = Future()
    future.set_exception(error)
    return future


def test_a_missing_backend_library_is_named(tmp_path, monkeypatch):
    import onnxruntime_qnn

    from bitladder.targets import backend

    monkeypatch.setattr(onnxruntime_qnn, "get_qnn_htp_path", lambda: str(tmp_path / "libQnnHtp.so"))
    with pytest.raises(FileNotFoundError) as missing:
        backend.check_backend()
    with pytest.raises(UserError, match=r"onnxruntime-qnn has no libQnnHtp\.so; install it again"):
        result(failing(missing.value), "compiling", "60 s", tmp_path)


def test_a_disk_that_fills_up_is_one_line_and_the_next_run_goes_on(job, small_disk):
    disk = small_disk("32k")  # the toy's context binary takes 48
    (disk / "work").mkdir()
    job = replace(job, folder=disk / "target", workspace=disk / "work")
    target = Hexagon(find_soc("SM8650"), settings())
    with pytest.raises(UserError, match=r"compiling for SM8650: the disk .* is full; make room, and run again") as full:
        target.measure(job)
    assert "\n" not in str(full.value)
    assert not job.folder.exists()
    small_disk("64k")  # it compiles and runs, and the profile is cut short
    with pytest.raises(UserError, match=r"profiling on SM8650: the disk .* is full"):
        target.measure(job)
    assert not (job.notes / "ops.csv").exists()
    small_disk("20m")
    assert target.measure(job).memory_bytes > 40_000
    assert (job.notes / "ops.csv").exists()


@pytest.mark.parametrize("name", ["SM8650", "QCS6490"])
def test_the_backend_takes_what_the_table_says(name):
    soc = find_soc(name)
    verdicts = list(probe(soc))
    assert [verdict.precision for verdict in verdicts] == list(PROBED)
    assert {verdict.precision for verdict in verdicts if verdict.takes} == set(soc.takes)
    assert {verdict.chip for verdict in verdicts if verdict.takes} == {f"{soc.name} {soc.arch}"}
    assert all(verdict.reason for verdict in verdicts if not verdict.takes)


def test_answers_do_not_depend_on_the_number_of_workers(job, tmp_path):
    one = Hexagon(find_soc("SM8650"), settings()).measure(job).outputs.whole()["output"]
    other = Job(job.model, "W8A8", job.split, tmp_path / "t2", tmp_path / "n2", tmp_path / "w2")
    (tmp_path / "w2").mkdir()
    two = Hexagon(find_soc("SM8650"), settings(workers=2)).measure(other).outputs.whole()["output"]
    assert np.array_equal(one, two)
