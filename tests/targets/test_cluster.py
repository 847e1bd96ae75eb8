"""Samples over a real Ray cluster on this machine: the same bytes, whoever is killed."""

import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import mishaps
import psutil
import pytest
import torch
from models import samples, settings, two_convs
from ray_nodes import Node

from bitladder.errors import UserError
from bitladder.network.outputs import StoredOutputs
from bitladder.params import ComputeParams, load_params
from bitladder.paths import PREPARED
from bitladder.paths import TASK as TASK_FILE
from bitladder.quantize import sensitivity_cluster
from bitladder.quantize.prepare.prepare import save_prepared
from bitladder.quantize.sensitivity import load_layers
from bitladder.running import cluster
from bitladder.running.cluster import ClusterError, connected
from bitladder.socs import find_soc
from bitladder.targets import cluster_pool as over_cluster
from bitladder.targets import context
from bitladder.targets.cluster_pool import cluster_pool
from bitladder.targets.context import compile_model, run_stored
from bitladder.tasks.splits import load_samples, make_splits, save_samples
from bitladder.tasks.task import Split, load_task
from support import ROOT

pytestmark = pytest.mark.slow

SOC = find_soc("SM8650")

AUTO, LOCAL = (ComputeParams(threads=2, cluster=name) for name in ("auto", "local"))


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory):
    """What this process, nodes and workers have alike. Ray reads it once, when it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        folders = ("src", "tests", "tests/targets")
        patch.setenv("PYTHONPATH", os.pathsep.join(str(ROOT / name) for name in folders))
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", "of-the-tests-alone")
        patch.setenv("MISHAPS", str(tmp_path_factory.mktemp("mishaps")))
        yield patch


@pytest.fixture(scope="module")
def short_folder(tmp_path_factory):
    """Give a folder whose path leaves room for Ray's sockets."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def head(environment, short_folder):
    nodes = [Node(short_folder, 1)]
    try:
        nodes.append(Node(short_folder, 1, nodes[0].address))
        yield nodes[0]
    finally:
        for node in reversed(nodes):
            node.kill()


@pytest.fixture
def auto(head, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", head.address)
    return AUTO


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")
    return compile_model(two_convs(folder / "model.onnx"), folder / "target", SOC, False, 60, folder)


@pytest.fixture(scope="module")
def expected(compiled, tmp_path_factory):
    """The outputs of 120 samples, of one machine. The 70th is one that mishaps know."""
    return run(compiled, tmp_path_factory.mktemp("here"))


@pytest.fixture
def mishap(environment, monkeypatch):
    """Give a function that has something happen in place of a plain run."""

    def happen(function):
        (Path(os.environ["MISHAPS"]) / "happened").unlink(missing_ok=True)
        monkeypatch.setattr(context, "run_batch", function)

    return happen


def marked(count=120):
    found = samples(count).inputs["x"].clone()
    if count > 70:
        found[70] = mishaps.MARK
    return Split({"x": found}, torch.zeros(count))


def run(compiled, folder, pool=None, count=120):
    return run_stored(compiled, SOC, False, marked(count), settings(workers=2), folder, pool).whole()["output"]


def test_two_nodes_give_the_bytes_of_one_machine(auto, compiled, expected, tmp_path):
    with cluster_pool(auto) as pool:
        assert pool.workers == 2
        assert torch.equal(run(compiled, tmp_path, pool), expected)


def test_a_machine_outside_gets_them_too(head, compiled, expected, tmp_path):
    with cluster_pool(ComputeParams(threads=2, cluster=f"ray://127.0.0.1:{head.client_port}")) as pool:
        assert torch.equal(run(compiled, tmp_path, pool), expected)


TASK = """
import torch
from torch import nn
from torch.utils.data import Dataset
from bitladder.tasks.task import Metric, Task


class Numbers(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, index):
        return {"x": torch.rand(4, 6, 6, generator=torch.Generator().manual_seed(index))}, index % 2


def task():
    splits = {name: Numbers() for name in ("train", "calibration", "evaluation")}
    return Task(nn.Identity, lambda seed: splits, print, Metric("accuracy", lambda outputs, targets: 0.0))
"""


@pytest.fixture
def streamed(params_with, tmp_path, monkeypatch):
    """Give samples of a Dataset that only its files know, as the stage `data` left them."""
    monkeypatch.chdir(tmp_path)
    Path("task.py").write_text(TASK)
    params = load_params(params_with({"task": {"factory": "task.py:task", "files": {"code": "task.py"}}}))
    task = load_task("task.py:task", {})
    save_samples("evaluation", make_splits(task, 0)["evaluation"])
    return load_samples(task, params, "evaluation")


def test_workers_that_see_the_same_folder_are_sent_indices(auto, compiled, streamed, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    here = run_stored(compiled, SOC, False, streamed, settings(), tmp_path / "here").whole()["output"]
    monkeypatch.delattr(over_cluster, "rows_of")  # what reads samples to send them
    with cluster_pool(auto) as pool:
        found = run_stored(compiled, SOC, False, streamed, settings(), tmp_path, pool).whole()["output"]
    assert torch.equal(found, here)


@pytest.mark.parametrize("where", ["no such folder", "other data"])
def test_workers_that_do_not_are_sent_samples(where, auto, compiled, streamed, tmp_path):
    (tmp_path / "here").mkdir()
    here = run_stored(compiled, SOC, False, streamed, settings(), tmp_path / "here").whole()["output"]
    if where == "other data":
        Path("task.py").write_text(TASK.replace("manual_seed(index)", "manual_seed(index + 1)"))
    else:
        streamed = replace(streamed, origin=replace(streamed.origin, folder="/nowhere"))
    with cluster_pool(auto) as pool:
        found = run_stored(compiled, SOC, False, streamed, settings(), tmp_path, pool).whole()["output"]
    assert torch.equal(found, here)


@pytest.fixture
def prepared(trained, params_with, tmp_path, monkeypatch):
    """Give params of a folder in which the stages up to `baseline` have run."""
    monkeypatch.chdir(tmp_path)
    changes = {"task.args": {"train": 1500, "calibration": 200, "evaluation": 200}, "sensitivity.samples": 50}
    save_samples("calibration", trained.splits["calibration"])
    save_prepared(PREPARED, trained.prepared, True)
    TASK_FILE.write_text("{}")
    return load_params(params_with(changes))


@pytest.mark.parametrize("seen", [True, False], ids=["workers see the folder", "they do not"])
def test_sensitivity_is_the_same_over_two_nodes(seen, auto, prepared, tmp_path, monkeypatch):
    expected = load_layers(prepared, tmp_path / "fp32").measure_all(prepared.sensitivity)
    if not seen:
        monkeypatch.setattr(sensitivity_cluster.Path, "cwd", lambda: Path("/nowhere"))
    with connected(auto) as joined:
        assert sensitivity_cluster.measure_over(joined, prepared) == expected


def test_a_worker_that_is_killed_in_the_middle_costs_nothing(auto, compiled, expected, mishap, tmp_path):
    mishap(mishaps.loses_the_worker_once)
    with cluster_pool(auto) as pool:
        assert torch.equal(run(compiled, tmp_path, pool), expected)
    assert Path(os.environ["MISHAPS"], "happened").exists()


def test_an_emulator_that_is_killed_in_a_worker_costs_nothing(auto, compiled, expected, mishap, tmp_path):
    mishap(mishaps.dies_once_of_the_marked)
    with cluster_pool(auto) as pool:
        assert torch.equal(run(compiled, tmp_path, pool), expected)
    assert Path(os.environ["MISHAPS"], "happened").exists()


def test_a_sample_that_kills_every_emulator_is_named(auto, compiled, mishap, tmp_path):
    mishap(mishaps.dies_of_the_marked)
    with cluster_pool(auto) as pool, pytest.raises(UserError, match=r"sample 70 on .*: its process died") as error:
        run(compiled, tmp_path, pool)
    assert "\n" not in str(error.value)
    assert len(StoredOutputs(tmp_path / "outputs")) == 70


def test_a_sample_that_never_ends_names_the_limit(auto, compiled, mishap, tmp_path):
    mishap(mishaps.never_answers_the_marked)
    limit = settings(sample_limit_s=2.0)
    with cluster_pool(auto) as pool, pytest.raises(UserError, match=r"sample 70 .* than target\.sample_limit_s = 2 s"):
        run_stored(compiled, SOC, False, marked(), limit, tmp_path, pool)


def test_a_node_that_is_lost_in_the_middle_costs_nothing(auto, compiled, expected, mishap, short_folder, tmp_path):
    mishap(mishaps.takes_a_while)
    third = Node(short_folder, 1, os.environ["RAY_ADDRESS"])

    def cut_its_power():
        while not len(StoredOutputs(tmp_path / "outputs")):
            time.sleep(0.1)
        third.kill()

    with cluster_pool(auto) as pool, pytest.MonkeyPatch.context() as patch:
        assert pool.workers == 3
        patch.setattr(context, "SAVE_EVERY_S", 0.2)
        watch = threading.Thread(target=cut_its_power)
        watch.start()
        found = run(compiled, tmp_path, pool)
        watch.join()
    assert torch.equal(found, expected)


def test_a_worker_with_another_version_is_refused_by_name(auto, compiled, monkeypatch, tmp_path):
    own = cluster.versions()
    monkeypatch.setattr(cluster, "versions", lambda: own | {"onnxruntime-qnn": "9.9"})
    says = (
        rf"auto: the worker \S+ \(\S+\) has onnxruntime-qnn {own['onnxruntime-qnn']}, and this machine has 9\.9; inst"
    )
    with cluster_pool(auto) as pool, pytest.raises(ClusterError, match=says):
        run(compiled, tmp_path, pool)


def test_a_head_that_stops_is_one_line_and_what_was_done_is_kept(compiled, short_folder, environment, tmp_path):
    node, count = Node(short_folder, 2), 60
    (tmp_path / "target").symlink_to(compiled.context.parent)
    words = [sys.executable, str(ROOT / "tests/targets/cluster_driver.py"), str(tmp_path), str(count)]
    driver = subprocess.Popen(
        words,
        env={**os.environ, "RAY_ADDRESS": node.address},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        while not len(StoredOutputs(tmp_path / "work/outputs")) and driver.poll() is None:
            time.sleep(0.2)
    finally:
        node.kill()
    said, _ = driver.communicate(timeout=120)
    assert re.fullmatch(r"compute\.cluster: auto: lost \(.*\); run again: it goes on from what was kept\n", said)
    assert 0 < len(StoredOutputs(tmp_path / "work/outputs")) < count
    assert torch.equal(run(compiled, tmp_path / "work", count=count), run(compiled, tmp_path, count=count))


def test_local_needs_no_set_up_and_listens_on_loopback_alone(compiled, expected, tmp_path):
    before = set(psutil.Process().children(recursive=True))
    with cluster_pool(LOCAL) as pool:
        assert torch.equal(run(compiled, tmp_path, pool), expected)
        started = set(psutil.Process().children(recursive=True)) - before
        listening = [one for process in started for one in process.net_connections() if one.status == "LISTEN"]
        assert listening
        assert {one.laddr.ip.removeprefix("::ffff:") for one in listening} == {"127.0.0.1"}


def test_no_cluster_is_one_line(environment, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    says = r"^compute\.cluster: auto: no cluster answers .*`ray start --head`"
    with pytest.raises(UserError, match=says) as error, connected(AUTO):
        pass
    assert "\n" not in str(error.value)
