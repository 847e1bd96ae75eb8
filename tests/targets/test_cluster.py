"""Samples, layers, techniques, SoCs and experiments over a real Ray cluster: the same bytes, whoever is killed."""

import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import mishaps
import pytest
import torch
from models import samples, settings, two_convs
from ray_nodes import Node, wait_until

from bitladder.commands import sweep_cluster
from bitladder.commands.sweep import sweep
from bitladder.errors import UserError
from bitladder.export.checks import run_unoptimised
from bitladder.network.model import sample_inputs
from bitladder.network.outputs import StoredOutputs
from bitladder.network.scoring import save_score, score
from bitladder.params import ComputeParams, load_params
from bitladder.paths import PREPARED, TRAINED, RungFiles
from bitladder.paths import TASK as TASK_FILE
from bitladder.paths import samples as samples_of
from bitladder.quantize import ptq_cluster, sensitivity_cluster
from bitladder.quantize.chains import load_chains
from bitladder.quantize.prepare.prepare import prepare, save_prepared
from bitladder.quantize.ptq import quantize_rung
from bitladder.quantize.sensitivity import load_layers
from bitladder.quantize.techniques import adaround
from bitladder.quantize.techniques.technique import ORDER
from bitladder.running import cluster, cluster_folder
from bitladder.running.cluster import Cluster, ClusterError
from bitladder.running.cluster_connect import connected
from bitladder.running.cluster_folder import SharedFolder
from bitladder.running.files import save_tensors
from bitladder.socs import find_soc
from bitladder.stages import profile
from bitladder.targets import cluster_pool as over_cluster
from bitladder.targets import context, profile_cluster
from bitladder.targets.cluster_pool import ClusterPool
from bitladder.targets.context import compile_model, run_stored
from bitladder.tasks.splits import load_samples, make_splits, save_samples
from bitladder.tasks.task import Split, load_task
from support import ROOT

pytestmark = pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed: pip install 'bitladder[ray]'")

SOC = find_soc("SM8650")

AUTO = ComputeParams(threads=1, cluster="auto")  # as many as the tests' own process


@pytest.fixture(scope="module")
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
def short_folder():
    """Give a folder whose path leaves room for Ray's sockets."""
    with TemporaryDirectory(prefix="ray") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def nodes(environment, short_folder):
    """Give the head of a cluster, and its second node, with a CPU each."""
    started = [Node(short_folder, 1)]
    try:
        started.append(Node(short_folder, 1, started[0].address))
        environment.setenv("RAY_ADDRESS", started[0].address)
        yield started
    finally:
        for node in reversed(started):
            node.kill()


@pytest.fixture(scope="module")
def joined(nodes):
    with connected(AUTO) as cluster:
        yield cluster


@pytest.fixture
def pool(joined):
    return ClusterPool(joined)


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
    return run_stored(compiled, SOC, False, marked(count), settings(), folder, pool).whole()["output"]


def test_two_nodes_give_the_bytes_of_one_machine(pool, compiled, expected, tmp_path):
    assert pool.workers == 2
    assert torch.equal(run(compiled, tmp_path, pool), expected)


TASK = """
import os
import signal
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset
from bitladder.tasks.task import Metric, Task


class Numbers(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, index):
        return {"x": torch.rand(4, 6, 6, generator=torch.Generator().manual_seed(index))}, index % 2


def network():
    return nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 4), nn.Flatten())


def accuracy(outputs, targets):
    driver, killed = Path("driver"), Path("killed")
    if driver.exists() and driver.read_text() != str(os.getpid()) and not killed.exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return (outputs.argmax(1) == targets).double().mean().item()


def task():
    splits = {name: Numbers() for name in ("train", "calibration", "evaluation")}
    return Task(network, lambda seed: splits, nn.functional.cross_entropy, Metric("accuracy", accuracy))
"""


@pytest.fixture
def project(params_with, tmp_path, monkeypatch):
    """Give params of a folder in which the stages up to `baseline` have run; its samples only files know."""
    monkeypatch.chdir(tmp_path)
    Path("task.py").write_text(TASK)
    task = load_task("task.py:task", {})
    for name, split in make_splits(task, 0).items():
        save_samples(name, split)
    changes = {"task": {"factory": "task.py:task", "files": {"code": "task.py"}}, "compute": AUTO.model_dump()}
    ptq = {"ptq.samples": 20, "ptq.max_drop": None, "ptq.adaround.iterations": 5}
    params = load_params(params_with({**changes, "sensitivity.samples": 20, **ptq}))
    torch.manual_seed(0)
    model = task.model().eval()
    save_tensors(TRAINED, model.state_dict())
    save_prepared(PREPARED, *prepare(model, sample_inputs(load_samples(task, params, "calibration"))))
    TASK_FILE.write_text("{}")
    return params


@pytest.fixture
def streamed(project):
    return load_samples(load_task("task.py:task", {}), project, "evaluation")


@pytest.fixture
def streamed_here(compiled, streamed, tmp_path):
    (tmp_path / "here").mkdir()
    return run_stored(compiled, SOC, False, streamed, settings(), tmp_path / "here").whole()["output"]


def test_workers_that_see_the_same_folder_are_sent_indices(
    pool, compiled, streamed, streamed_here, tmp_path, monkeypatch
):
    monkeypatch.delattr(over_cluster, "rows_of")  # what reads samples to send them
    found = run_stored(compiled, SOC, False, streamed, settings(), tmp_path, pool).whole()["output"]
    assert torch.equal(found, streamed_here)


@pytest.mark.parametrize("where", ["no such folder", "other data"])
def test_workers_that_do_not_are_sent_samples(where, pool, compiled, streamed, streamed_here, tmp_path):
    if where == "other data":
        Path("task.py").write_text(TASK.replace("manual_seed(index)", "manual_seed(index + 1)"))
    else:
        streamed = replace(streamed, origin=replace(streamed.origin, folder="/nowhere"))
    found = run_stored(compiled, SOC, False, streamed, settings(), tmp_path, pool).whole()["output"]
    assert torch.equal(found, streamed_here)


def test_sensitivity_is_the_same_over_two_nodes(joined, project, tmp_path, monkeypatch):
    expected = load_layers(project, tmp_path / "fp32").measure_all(project.sensitivity)
    assert len(expected) > 2 * len({(row.what, row.bits) for row in expected})  # each node has several
    assert sensitivity_cluster.measure_over(joined, project) == expected
    monkeypatch.setattr(cluster_folder, "fingerprint", lambda files: "of other files than the workers see")
    assert sensitivity_cluster.measure_over(joined, project) == expected


@pytest.fixture
def over_both(joined, monkeypatch):
    """Have PTQ use the cluster that this process has joined."""
    monkeypatch.setattr(ptq_cluster, "connected", lambda _: nullcontext(joined))


def quantized(params):
    """Quantize the rung `tiny`; give what was tried, the bytes of the sim, and how it came about."""
    found = quantize_rung(params, "tiny", load_task("task.py:task", {}))
    found.quantized.sim.save(Path("sim.safetensors"))
    return found.tries, Path("sim.safetensors").read_bytes(), found.quantized.name


def test_techniques_come_to_the_same_over_two_nodes_though_a_worker_is_killed(project, over_both, monkeypatch):
    alone = project.model_copy(update={"compute": ComputeParams(threads=1)})
    expected = quantized(alone)
    assert [one.technique for one in expected[0]] == list(ORDER)
    Path("driver").write_text(str(os.getpid()))
    assert quantized(project) == expected
    assert Path("killed").exists()
    monkeypatch.setattr(cluster_folder, "fingerprint", lambda files: "of other files than the workers see")
    assert quantized(project) == expected


def test_what_a_worker_has_kept_of_a_technique_is_gone_on_from(project, over_both, tmp_path, monkeypatch):
    """As after a run that was killed."""
    task = load_task("task.py:task", {})
    chains, _ = load_chains(project, "tiny", task, Path("work"), tmp_path / "fp32")
    with ptq_cluster.over_cluster(project, "tiny", chains, (PREPARED, TRAINED)) as attempt:
        assert attempt(("min-max",), "adaround").trial
    monkeypatch.delattr(adaround, "_round_layer")
    assert chains.reach(("min-max", "adaround"))


@pytest.fixture
def exported(params_with, tmp_path, monkeypatch):
    """Give a function that exports a rung and profiles it on two SoCs, in a folder of its own; gives what it wrote."""

    def profiled(folder, compute):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        changes = {"compute": compute.model_dump(), "target.socs": ["SM8550"], "target.workers": 1}
        params, split, files = load_params(params_with(changes)), samples(20), RungFiles("compact")
        for path in (files.model, files.reference, files.scores, PREPARED, samples_of("evaluation")):
            path.parent.mkdir(parents=True, exist_ok=True)
        answers = run_unoptimised(two_convs(files.model), split)
        save_samples("evaluation", split)
        TASK_FILE.write_text("{}")
        stored = StoredOutputs(files.outputs)
        stored.append(answers)
        stored.flush()
        metric = load_task(params.task.factory, params.task.args).metric
        for path in (files.reference, files.scores):
            save_score(path, score(lambda x: answers, split, metric, 20, ""))
        profile.main(params, "compact")
        written = [one for kind in ("build/target", "metrics") for one in Path(kind).rglob("*") if one.is_file()]
        return {path: path.read_bytes() for path in written}

    return profiled


def test_socs_that_fill_the_cluster_are_measured_at_once_and_the_same(exported, joined, monkeypatch):
    expected = exported("alone", ComputeParams(threads=1))
    monkeypatch.setattr(profile_cluster, "connected", lambda _: nullcontext(joined))
    monkeypatch.delattr(context, "compile_context")  # of this process
    assert exported("over both", AUTO) == expected


def test_what_is_called_off_leaves_its_workers_to_others(joined):
    called_off = [joined.schedule(mishaps.never_ends) for _ in range(2 * joined.workers)]
    with pytest.raises(TimeoutError):
        called_off[0].result(2)
    for future in called_off:
        future.cancel()
    done = [joined.schedule(abs, (-1,), cpus=joined.largest) for _ in range(2 * joined.workers)]
    assert [future.result(60) for future in done] == [1] * len(done)


def test_a_cluster_without_a_gpu_is_refused_where_one_is_asked_for(joined):
    with pytest.raises(
        UserError, match=r"^compute\.device: cuda, and the cluster has no GPU; set compute\.cluster: null"
    ):
        SharedFolder(joined, (), 1, "cuda")


POINT = """
import os
import signal
from pathlib import Path

import psutil

values = Path("params.yaml").read_text()
seed = next(line for line in values.splitlines() if line.startswith("seed"))
happened = Path(os.environ["MISHAPS"], "happened")
if seed == "seed: 1" and not happened.exists():
    happened.touch()
    (worker,) = (one for one in psutil.Process().parents() if one.name().startswith("ray::"))
    worker.kill()
if seed == "seed: 2":
    raise SystemExit("this one fails")
Path("seed.txt").write_text(seed)
"""

STAGES = "stages: {point: {cmd: python point.py, params: [seed], metrics: [{seed.txt: {cache: false}}]}}"


@pytest.fixture
def repository(params_with, tmp_path, environment, monkeypatch, joined):
    """Be in a repository of a stage that fails for one seed, and for another kills the worker that runs it, once."""
    monkeypatch.chdir(tmp_path)
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "a")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "a@b")
    params_with({"compute.cluster": "auto"})
    for name, text in {"point.py": POINT, "dvc.yaml": STAGES, ".gitignore": "build/"}.items():
        Path(name).write_text(text)
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], ["git", "add", "-A"], ["git", "commit", "-qm", "a"]):
        subprocess.run(command, check=True)
    monkeypatch.setattr(sweep_cluster, "connected", lambda _: nullcontext(joined))
    Path(os.environ["MISHAPS"], "happened").unlink(missing_ok=True)


def test_a_sweep_runs_its_experiments_on_workers_though_one_is_killed(repository, capfd):
    # as one that was killed leaves them
    subprocess.run(["dvc", "exp", "run", "--queue", "--set-param", "seed=4"], check=True)
    done = sweep(["seed=1,2,3"], jobs=3)
    assert sorted(one.values for one in done) == [("1",), ("3",), ("4",)]
    assert re.search(r"\S+ failed on \S+; \S+\.out says why", capfd.readouterr().err)
    assert Path(os.environ["MISHAPS"], "happened").exists()
    assert subprocess.run(["dvc", "queue", "status"], capture_output=True, text=True).stdout.startswith("No experiment")


def test_a_sweep_is_refused_where_workers_see_another_folder(repository, monkeypatch):
    monkeypatch.setattr(cluster_folder, "fingerprint", lambda files: "of other files than the workers see")
    with pytest.raises(UserError, match=r"auto: \S+ has other files in .*; a sweep wants this folder on each machine"):
        sweep(["seed=3"], jobs=1)


def test_a_worker_that_is_killed_in_the_middle_costs_nothing(pool, compiled, expected, mishap, tmp_path):
    mishap(mishaps.loses_the_worker_once)
    assert torch.equal(run(compiled, tmp_path, pool), expected)
    assert Path(os.environ["MISHAPS"], "happened").exists()


def test_an_emulator_that_is_killed_in_a_worker_costs_nothing(pool, compiled, expected, mishap, tmp_path):
    mishap(mishaps.dies_once_of_the_marked)
    assert torch.equal(run(compiled, tmp_path, pool), expected)
    assert Path(os.environ["MISHAPS"], "happened").exists()


def test_a_sample_that_kills_every_emulator_is_named(pool, compiled, mishap, tmp_path):
    mishap(mishaps.dies_of_the_marked)
    with pytest.raises(UserError, match=r"sample 70 on .*: its process died") as error:
        run(compiled, tmp_path, pool)
    assert "\n" not in str(error.value)
    assert len(StoredOutputs(tmp_path / "outputs")) == 70


def test_a_sample_that_never_ends_names_the_limit(pool, compiled, mishap, tmp_path):
    mishap(mishaps.never_answers_the_marked)
    limit = settings(sample_limit_s=2.0)
    with pytest.raises(UserError, match=r"sample 70 .* than target\.sample_limit_s = 2 s"):
        run_stored(compiled, SOC, False, marked(), limit, tmp_path, pool)


def test_a_node_that_is_lost_in_the_middle_costs_nothing(
    pool, nodes, compiled, expected, mishap, tmp_path, monkeypatch
):
    """What follows does with one node."""
    mishap(mishaps.takes_a_while)
    monkeypatch.setattr(context, "SAVE_EVERY_S", 0.2)

    def cut_its_power():
        wait_until(lambda: len(StoredOutputs(tmp_path / "outputs")))
        nodes[1].kill()

    watch = threading.Thread(target=cut_its_power)
    watch.start()
    found = run(compiled, tmp_path, pool)
    watch.join()
    assert torch.equal(found, expected)
    wait_until(lambda: pool.workers == 1)


def test_a_worker_with_another_version_is_refused_by_name(joined, compiled, monkeypatch, tmp_path):
    own = cluster.versions()
    monkeypatch.setattr(cluster, "versions", lambda: own | {"onnxruntime-qnn": "9.9"})
    says = (
        rf"auto: the worker \S+ \(\S+\) has onnxruntime-qnn {own['onnxruntime-qnn']}, and this machine has 9\.9; inst"
    )
    with pytest.raises(ClusterError, match=says):
        run(compiled, tmp_path, ClusterPool(Cluster(joined._ray, AUTO)))


def test_work_that_no_machine_is_left_for_is_told_of_and_given_up(joined, monkeypatch, capsys):
    for name, seconds in (("WATCH_EVERY_S", 0.1), ("TELL_S", 0.3), ("STUCK_S", 1.0)):
        monkeypatch.setattr(cluster, name, seconds)
    with Cluster(joined._ray, AUTO) as own, pytest.raises(ClusterError, match=r"no machine of so many left; run"):
        own.schedule(abs, (-1,), cpus=3).result(60)
    says = r"auto: no result for \d s of 1 tasks of 3 CPUs: they run, or wait for some of the cluster's [12] CPUs"
    assert re.search(says, capsys.readouterr()[1])


@pytest.fixture
def driver(compiled, tmp_path, environment):
    """Give a function that starts a run of its own over a cluster, of 60 samples, and waits until some are kept."""
    (tmp_path / "target").symlink_to(compiled.context.parent)
    (tmp_path / "work").mkdir()
    words = [sys.executable, str(ROOT / "tests/targets/cluster_driver.py"), str(tmp_path), "60"]
    started = []

    def start(address):
        out = {"stdout": subprocess.PIPE, "stderr": (tmp_path / "stderr").open("w"), "text": True}
        started.append(subprocess.Popen([*words, address], **out))
        kept = tmp_path / "work/outputs"
        wait_until(lambda: len(StoredOutputs(kept)) or started[-1].poll() is not None)
        assert len(StoredOutputs(kept)), started[-1].communicate()
        return started[-1], lambda: len(StoredOutputs(kept))

    yield start
    for one in started:
        one.kill()
        one.wait()


def test_a_run_that_is_killed_goes_on_from_what_was_kept(nodes, pool, compiled, driver, tmp_path):
    """From a machine that is no part of the cluster, too."""
    process, kept = driver(f"ray://127.0.0.1:{nodes[0].client_port}")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < kept() < 60
    assert torch.equal(run(compiled, tmp_path / "work", pool, 60), run(compiled, tmp_path, count=60))


def test_a_head_that_stops_is_one_line_and_what_was_done_is_kept(
    compiled, driver, short_folder, tmp_path, environment, monkeypatch
):
    node = Node(short_folder, 1)
    monkeypatch.setenv("RAY_ADDRESS", node.address)
    try:
        process, kept = driver("auto")
    finally:
        node.kill()
    said, _ = process.communicate(timeout=120)
    assert re.fullmatch(r"compute\.cluster: auto: lost \(.*\); run again: it goes on from what was kept\n", said)
    assert 0 < kept() < 60
    assert torch.equal(run(compiled, tmp_path / "work", count=60), run(compiled, tmp_path, count=60))


def test_no_cluster_is_one_line(environment, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    says = r"^compute\.cluster: auto: no cluster answers .*`ray start --head`"
    with pytest.raises(UserError, match=says) as error, connected(AUTO):
        pass
    assert "\n" not in str(error.value)
