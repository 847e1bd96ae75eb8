import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from bitladder.errors import UserError
from bitladder.network.training import Recipe, fit
from bitladder.running.resume import fingerprint, load_state, workspace
from bitladder.tasks.builtin.mnist import task as make_task
from bitladder.tasks.splits import make_splits

RECIPE = Recipe(epochs=4, batch_size=32, learning_rate=1e-2, weight_decay=1e-2, seed=0)


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def digits():
    task = make_task(train=200, calibration=50, evaluation=50)
    return task, make_splits(task, 0)["train"]


def untrained(task) -> nn.Module:
    torch.manual_seed(0)
    return task.model()


def test_training_learns(digits, tmp_path):
    task, train = digits
    history = fit(untrained(task), task, train, RECIPE, tmp_path)
    assert [epoch.epoch for epoch in history] == [1, 2, 3, 4]
    assert history[-1].train_loss < history[0].train_loss / 1.2


@pytest.mark.parametrize("epochs", range(1, 8))
def test_a_training_of_few_batches_ends(digits, tmp_path, epochs):
    """Five in all, one an epoch, are what qat.epochs: 5 makes of a small train split."""
    task, train = digits
    recipe = replace(RECIPE, epochs=epochs, batch_size=8)
    assert len(fit(untrained(task), task, train.first(8), recipe, tmp_path)) == epochs


def test_a_killed_training_goes_on_to_the_same_bits(digits, tmp_path):
    task, train = digits
    undisturbed = untrained(task)
    whole = fit(undisturbed, task, train, RECIPE, tmp_path / "whole")

    def kill(epoch):
        if epoch.epoch == 3:
            raise Killed

    with pytest.raises(Killed):
        fit(untrained(task), task, train, RECIPE, tmp_path / "killed", on_epoch=kill)
    seen = []
    resumed = untrained(task)
    assert fit(resumed, task, train, RECIPE, tmp_path / "killed", on_epoch=seen.append) == whole
    assert [epoch.epoch for epoch in seen] == [3, 4]
    for name, values in undisturbed.state_dict().items():
        assert torch.equal(values, resumed.state_dict()[name]), name


def test_a_loss_that_is_lost_names_what_to_lower(digits, tmp_path):
    task, train = digits
    recipe = Recipe(epochs=2, batch_size=32, learning_rate=1e20, weight_decay=0.0, seed=0)
    with pytest.raises(UserError, match=r"the loss became (nan|inf) in epoch \d; lower the learning_rate"):
        fit(untrained(task), task, train, recipe, tmp_path)


def test_a_workspace_is_found_again_by_the_same_inputs_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    data.write_text("a")
    with pytest.raises(Killed), workspace("train", fingerprint(1, files=(data,))) as folder:
        (folder / "state").write_text("epoch 1")
        raise Killed
    with workspace("train", fingerprint(1, files=(data,))) as folder:
        assert (folder / "state").read_text() == "epoch 1"
        kept = folder
    assert not kept.exists()
    with pytest.raises(Killed), workspace("train", fingerprint(1, files=(data,))) as folder:
        (folder / "state").write_text("epoch 1")
        raise Killed
    data.write_text("b")
    with workspace("train", fingerprint(1, files=(data,))) as folder:
        assert list(folder.iterdir()) == []
        assert list(folder.parent.iterdir()) == [folder]


def test_the_checkpointed_state_in_the_middle_of_an_epoch_is_enough(digits, tmp_path, python):
    """The process is killed for good (signal 9) between two batches, as the machine's end would."""
    task, train = digits
    recipe = replace(RECIPE, checkpoint_steps=2)
    undisturbed = untrained(task)
    whole = fit(undisturbed, task, train, recipe, tmp_path / "whole")
    code = f"""
from bitladder.running import determinism
determinism.pin({torch.get_num_threads()})
import os, signal, torch
from pathlib import Path
from bitladder.network import training
from bitladder.tasks.builtin.mnist import task as make_task
from bitladder.tasks.splits import make_splits

task = make_task(train=200, calibration=50, evaluation=50)
steps = []
step = training._Loop._step

def killed(self, *inputs):
    steps.append(1)
    if len(steps) == 12:  # the fifth of the second epoch's seven batches
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *inputs)

training._Loop._step = killed
torch.manual_seed(0)
training.fit(task.model(), task, make_splits(task, 0)["train"], training.{recipe!r}, Path({str(tmp_path / "killed")!r}))
"""
    assert python(code).returncode == -signal.SIGKILL
    state = load_state(tmp_path / "killed/state.pt")
    assert state is not None and len(state["done"]) == 1 and state["part"]["step"] == 4
    resumed = untrained(task)
    assert fit(resumed, task, train, recipe, tmp_path / "killed") == whole
    for name, values in undisturbed.state_dict().items():
        assert torch.equal(values, resumed.state_dict()[name]), name


def test_patience_ends_a_training_that_gets_no_better(digits, tmp_path):
    task, train = digits
    values = iter([0.5, 0.6, 0.6, 0.6, 0.9])
    score = lambda model: {"value": next(values), "loss": 1.0}  # noqa: E731
    history = fit(untrained(task), task, train, replace(RECIPE, epochs=5, patience=2), tmp_path, score)
    assert [epoch.value for epoch in history] == [0.5, 0.6, 0.6, 0.6]


def test_two_processes_train_the_model_that_one_does(digits, tmp_path):
    """Through torchrun and accelerate, on two shares of the CPU, with a batch that does not divide by two."""
    task, train = digits
    alone = untrained(task)
    history = fit(alone, task, train, RECIPE, tmp_path / "alone")
    script = tmp_path / "script.py"
    script.write_text(f"""
from bitladder.running import determinism
determinism.pin(1)
import os, torch
from pathlib import Path
from bitladder.tasks.builtin.mnist import task as make_task
from bitladder.tasks.splits import make_splits
from bitladder.network.training import Recipe, fit

task = make_task(train=200, calibration=50, evaluation=50)
torch.manual_seed(int(os.environ["RANK"]))  # the first one's weights must reach the other
model = task.model()
history = fit(model, task, make_splits(task, 0)["train"], {RECIPE!r}, Path({str(tmp_path / "two")!r}))
torch.save((model.state_dict(), [vars(epoch) for epoch in history]), f"{tmp_path}/rank" + os.environ["RANK"])
""")
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    (first, found), (second, same) = (torch.load(tmp_path / f"rank{rank}") for rank in (0, 1))
    assert found == same
    for name, values in first.items():
        assert torch.equal(values, second[name]), name
    assert found[0]["train_loss"] == pytest.approx(history[0].train_loss, rel=0.1)  # batch norm sees half a batch
    assert found[-1]["train_loss"] < found[0]["train_loss"] / 1.2


def test_a_network_without_weights_to_train_stays_as_it_is(digits, tmp_path):
    task, train = digits
    assert fit(nn.Flatten(), task, train, RECIPE, tmp_path) == []
