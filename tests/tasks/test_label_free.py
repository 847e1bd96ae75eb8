import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from bitladder.errors import UserError
from bitladder.network.smoke_test import try_task
from bitladder.tasks.label_free import label_free
from bitladder.tasks.splits import make_splits
from bitladder.tasks.task import SPLITS, name_outputs


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(8, 3))


def samples(seed):
    return {name: {"x": torch.randn(20, 2, 2, 2)} for name in SPLITS}


@pytest.mark.parametrize("compare", ["top-1", "cosine"])
def test_fp32_agrees_with_itself_and_noise_does_not(compare):
    task = label_free(network, samples, compare)
    splits = make_splits(task, 0)
    model = try_task(task, splits)
    split = splits["evaluation"]
    with torch.no_grad():
        own = model(split.inputs["x"])
        assert task.metric({"output": own}, split.targets) == pytest.approx(1)
        assert task.metric({"output": torch.randn(20, 3)}, split.targets) < 0.9
        assert task.loss(own, split.targets) == pytest.approx(0, abs=1e-5)
        assert task.loss(-own, split.targets) > 0.1


def test_training_on_its_loss_brings_a_damaged_network_back_to_fp32():
    task = label_free(network, samples)
    split = make_splits(task, 0)["train"]
    damaged = network()
    with torch.no_grad():
        damaged[1].weight += 0.5 * torch.randn_like(damaged[1].weight)
    before = task.metric({"output": damaged(split.inputs["x"])}, split.targets)
    optimizer = torch.optim.Adam(damaged.parameters(), lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        task.loss(damaged(split.inputs["x"]), split.targets).backward()
        optimizer.step()
    assert before < 1 == task.metric({"output": damaged(split.inputs["x"])}, split.targets)


def test_weights_that_differ_each_time_are_refused():
    task = label_free(lambda: nn.Linear(2, 2), samples)
    with pytest.raises(UserError, match=r"model\(\) must give trained weights; 'weight' differs each time"):
        make_splits(task, 0)


class Two(nn.Linear):
    def forward(self, x):
        scores = super().forward(x.flatten(1))
        return {"scores": scores, "class": scores.argmax(1)}


def two():
    torch.manual_seed(0)
    return Two(8, 3)


@pytest.mark.parametrize("compare", ["top-1", "cosine"])
def test_several_outputs_are_compared_one_by_one_and_integers_by_equality(compare):
    task = label_free(two, samples, compare)
    splits = make_splits(task, 0)
    split, model = splits["evaluation"], try_task(task, splits)
    with torch.no_grad():
        own = model(split.inputs["x"])
        assert task.metric(own, split.targets) == pytest.approx(1)
        assert task.loss(own, split.targets) == pytest.approx(0, abs=1e-5)
        assert task.metric({**own, "class": own["class"] + 1}, split.targets) == pytest.approx(0.5)
        other = task.metric({**own, "scores": torch.randn(20, 3)}, split.targets)
        assert 0.3 < other < 0.95


class Inputs(Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, index):
        return {"x": torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(index))}


@pytest.mark.parametrize("model", [network, two])
def test_a_data_set_of_inputs_streams_and_fp32_labels_each_batch(model):
    task = label_free(model, lambda seed: dict.fromkeys(SPLITS, Inputs()))
    splits = make_splits(task, 0, 2)
    tried = try_task(task, splits)
    whole = torch.stack([Inputs()[index]["x"] for index in range(20)])
    in_memory = make_splits(label_free(model, lambda seed: {name: {"x": whole} for name in SPLITS}), 0)
    state = task.metric.state()
    for samples in (splits["evaluation"], splits["evaluation"].held()):
        parts = list(samples.batches(8))
        assert torch.equal(torch.cat([inputs["x"] for inputs, _ in parts]), in_memory["evaluation"].inputs["x"])
        assert torch.allclose(torch.cat([targets for _, targets in parts]), in_memory["evaluation"].targets, atol=1e-6)
    for inputs, targets in splits["evaluation"].batches(8):
        with torch.no_grad():
            state.update(name_outputs(tried(inputs["x"])), targets)
    assert state.value() == pytest.approx(1) and len(state.values) == 20


def test_unknown_comparisons_are_refused():
    with pytest.raises(UserError, match="by top-1 or cosine, not by 'rank'"):
        label_free(network, samples, "rank")
