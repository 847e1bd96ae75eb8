import pytest
import torch
from torch import nn

from bitladder.errors import UserError
from bitladder.resume import fingerprint, workspace
from bitladder.tasks.mnist import task as make_task
from bitladder.tasks.task import make_splits
from bitladder.training import Recipe, fit

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


def test_a_network_without_weights_to_train_stays_as_it_is(digits, tmp_path):
    task, train = digits
    assert fit(nn.Flatten(), task, train, RECIPE, tmp_path) == []
