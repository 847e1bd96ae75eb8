"""A device over SSH, by a real OpenSSH server: outputs come back, a broken run goes on, and each fault is one line."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from models import samples, settings, two_convs
from ssh_server import NAME, SSHD, start

from bitladder.errors import UserError
from bitladder.network.outputs import StoredOutputs
from bitladder.socs import find_soc
from bitladder.targets import host, remote
from bitladder.targets.context import compile_model, run
from bitladder.targets.gap import find_gap
from bitladder.targets.on_device import on_device
from bitladder.targets.side_by_side import compare
from bitladder.targets.ssh import Ssh
from bitladder.targets.target import Job
from bitladder.tasks.task import Metric, Split

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(SSHD is None or os.geteuid() != 0, reason="needs root, and Debian's openssh-server"),
]

SOC = find_soc("SM8650")
MEAN = Metric("mean", lambda output, _: output.mean().item())


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    started = start(tmp_path_factory.mktemp("sshd"))
    yield started
    started.process.kill()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")
    return compile_model(two_convs(folder / "model.onnx"), folder / "target", SOC, False, 60, folder)


@pytest.fixture
def client(server, tmp_path, monkeypatch):
    """Give a function that configures the user's ssh."""
    folder = tmp_path / "client"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(host, "FOLDER", str(tmp_path / "there"))
    server.configure(folder)
    return lambda **changes: server.configure(folder, **changes)


def job_in(folder) -> Job:
    (folder / "work").mkdir(parents=True)
    return Job(
        two_convs(folder / "model.onnx"), "W8A8", samples(9), folder / "target", folder / "notes", folder / "work"
    )


def device(**changes) -> Ssh:
    return Ssh(
        SOC, settings(**{"host": NAME, "python": sys.executable, "runs": 3, "warmup": 1, "emulated": 4} | changes)
    )


def run_there(target: Ssh, job: Job, compiled) -> StoredOutputs:
    """Run the samples without compiling again."""
    return target.run(compiled, False, job.split, job.workspace)


def test_outputs_are_the_emulators_and_the_time_is_not_taken_for_a_devices(client, tmp_path):
    job = job_in(tmp_path)
    found = device().measure(job)
    (tmp_path / "here").mkdir()
    expected = run(
        compile_model(job.model, tmp_path / "again", SOC, False, 60, tmp_path),
        SOC,
        False,
        job.split,
        settings(),
        tmp_path / "here",
    )
    assert all(np.array_equal(values, found.outputs.whole()[name]) for name, values in expected.items())
    assert found.latency.source == "estimated"
    assert found.latency.reason.startswith(f"{NAME} has no NPU, its backend emulates one; latency: estimated for")
    assert found.memory_bytes > 0 and found.ops_cpu == 0 and (job.notes / "ops.csv").is_file()
    assert found.device.runtime.endswith("which emulates an NPU") and found.device.qairt.startswith("v2.")
    assert found.device.untold.startswith("no NPU there, so nothing was timed")
    assert len(found.emulated) == 4  # target.emulated
    beside = compare(job.split, MEAN, found.outputs, found.emulated, found.outputs)
    assert (beside.samples, beside.sqnr_db, beside.agreement) == (4, 200.0, 1.0)
    assert beside.device.value == beside.emulator.value == beside.simulation
    assert not list((tmp_path / "there").iterdir())  # nothing stays on the device


@pytest.mark.parametrize(
    ("changes", "keys", "message"),
    [
        ({}, {"known": "other"}, "Host key verification failed.; look whether it is the device that you mean"),
        ({}, {"key": "other"}, "Permission denied .*; put your key there: ssh-copy-id board"),
        ({"host": "nowhere.invalid"}, {}, "Could not resolve hostname .*; is the name right"),
        ({"python": "python-nowhere"}, {}, "has no python-nowhere; install Python there, or name it in target.python"),
    ],
)
def test_what_keeps_it_from_starting_is_one_line(client, tmp_path, changes, keys, message):
    client(**keys)
    with pytest.raises(UserError, match=rf"^target\.host: .*{message}") as refused:
        device(**changes).measure(job_in(tmp_path))
    assert "\n" not in str(refused.value)


def test_a_package_that_is_missing_there_is_named(client, tmp_path):
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(
        UserError, match=r"board: numpy: not installed; onnxruntime: not installed.*; pip install numpy$"
    ):
        device(python=str(bare)).measure(job_in(tmp_path))


def test_a_check_that_says_nothing_is_one_line(client, tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho cannot execute binary file >&2; exit 126\n")
    broken.chmod(0o755)
    with pytest.raises(UserError, match=r"^target\.host: board: the check fails: cannot execute binary file$"):
        device(python=str(broken)).measure(job_in(tmp_path))


def test_what_is_no_part_of_a_model_is_not_sent(client, compiled, tmp_path):
    """Python would import it in numpy's place, or run it as the runner."""
    for name in ("numpy.py", "runner.py"):
        (tmp_path / name).write_text("raise SystemExit(0)")
        there = host.Host(NAME, sys.executable)
        with (
            pytest.raises(UserError, match=rf"^{name}: is no part of a compiled model"),
            there.folder({name: tmp_path / name}),
        ):
            pass


def test_an_input_that_the_graph_has_not_stays_here(client, compiled, tmp_path):
    """An input that the network does not use is not in what is compiled."""
    job = job_in(tmp_path)
    more = Split({**job.split.inputs, "unused": job.split.inputs["x"][:, :1]}, job.split.targets)
    assert len(run_there(device(), replace(job, split=more), compiled)) == len(more)


def test_a_connection_that_breaks_is_taken_up_where_it_was(client, server, compiled, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "CHUNK", 2)
    monkeypatch.setattr(remote, "WAIT_S", 0.1)
    flush, flushed = StoredOutputs.flush, []

    def breaking(kept):
        flush(kept)
        flushed.append(len(kept))
        if len(flushed) in (1, 3):
            server.break_connections()

    monkeypatch.setattr(StoredOutputs, "flush", breaking)
    found = run_there(device(), job_in(tmp_path / "broken"), compiled)
    assert flushed == sorted(set(flushed))  # no sample ran twice
    monkeypatch.setattr(StoredOutputs, "flush", flush)
    expected = run_there(device(), job_in(tmp_path / "whole"), compiled)
    assert all(np.array_equal(values, expected.whole()[name]) for name, values in found.whole().items())


def test_a_runner_that_is_killed_is_told_and_the_next_run_goes_on(client, compiled, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "CHUNK", 2)
    job, flush = job_in(tmp_path), StoredOutputs.flush

    def killing(kept):
        flush(kept)
        subprocess.run(["pkill", "-KILL", "-f", "runner.py --serve"], check=False)

    monkeypatch.setattr(StoredOutputs, "flush", killing)
    with pytest.raises(UserError, match=r"board: the runner was killed there; is its memory too small\? Run again"):
        run_there(device(), job, compiled)
    monkeypatch.setattr(StoredOutputs, "flush", flush)
    assert len(StoredOutputs(job.workspace / "outputs")) == 2
    assert len(run_there(device(), job, compiled)) == len(job.split)


def test_a_full_disk_there_is_one_line(client, compiled, tmp_path, small_disk, monkeypatch):
    full = small_disk("16k")
    monkeypatch.setattr(host, "FOLDER", str(full))
    with pytest.raises(UserError, match=r"^target\.host: board: .*No space left on device"):
        run_there(device(), job_in(tmp_path / "job"), compiled)


def test_two_runs_at_once_do_not_meet(client, compiled, tmp_path):
    jobs = [job_in(tmp_path / name) for name in ("one", "two")]
    with ThreadPoolExecutor() as pool:
        one, two = pool.map(lambda job: run_there(device(), job, compiled).whole(), jobs)
    assert all(np.array_equal(values, two[name]) for name, values in one.items())


def test_a_model_that_the_device_does_not_load_says_why(client, compiled, tmp_path):
    damaged = replace(compiled, context=tmp_path / "bad/model_ctx.onnx")
    damaged.context.parent.mkdir()
    for path in compiled.context.parent.iterdir():
        content = path.read_bytes()
        damaged.context.parent.joinpath(path.name).write_bytes(content if path.suffix == ".onnx" else content[:1000])
    with pytest.raises(UserError, match=r"^target\.host: board: .*Failed to get context binary info"):
        run_there(device(), job_in(tmp_path / "job"), damaged)


def test_intermediate_outputs_are_asked_of_the_device(client, tmp_path):
    """The layers of the device are those of the emulator, as its backend is one."""
    model, reached = two_convs(tmp_path / "model.onnx", full_range_bias=True, bits=16), device(backend="ssh")
    folders = [tmp_path / name for name in ("here", "there")]
    for folder in folders:
        folder.mkdir()
    here = find_gap(model, samples(2), SOC, settings(), folders[0])
    there = find_gap(model, samples(2), SOC, settings(), folders[1], on_device(SOC, reached.settings))
    assert here == there and [layer.layer for layer in there] == ["first", "second"]
