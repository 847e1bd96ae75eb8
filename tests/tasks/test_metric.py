"""Metrics: of each sample, of all of them, and torchmetrics'; batch by batch they are what they are on the whole."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from bitladder.errors import UserError
from bitladder.tasks import metric as module
from bitladder.tasks.metric import Metric
from bitladder.tasks.task import Task

OUTPUTS, TARGETS = torch.randn(50, 5, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 5


def each(outputs, targets):
    return (outputs.argmax(1) == targets).double()


def of_all(outputs, targets):
    return each(outputs, targets).mean().item()


def in_batches(metric, size=8):
    state = metric.state()
    for start in range(0, len(TARGETS), size):
        state.update({"output": OUTPUTS[start : start + size]}, TARGETS[start : start + size])
    return state


@pytest.mark.parametrize("compute", [each, of_all, MulticlassAccuracy(5, average="micro")])
def test_batches_add_up_to_the_whole(compute):
    metric = Metric("accuracy", compute)
    expected = of_all(OUTPUTS, TARGETS)
    assert in_batches(metric).value() == pytest.approx(expected)
    assert metric({"output": OUTPUTS}, TARGETS) == pytest.approx(expected)
    assert in_batches(metric).value() == pytest.approx(expected)  # nothing is left in a torchmetrics Metric


def test_values_of_samples_are_known_where_the_metric_gives_them():
    assert torch.equal(in_batches(Metric("accuracy", each)).values, each(OUTPUTS, TARGETS))
    assert in_batches(Metric("accuracy", of_all)).values is None
    assert in_batches(Metric("accuracy", MulticlassAccuracy(5))).values is None


def test_a_killed_pass_goes_on_where_it_was():
    for compute in (each, of_all, MulticlassJaccardIndex(5)):
        metric = Metric("m", compute)
        whole, first, second = in_batches(metric).value(), metric.state(), metric.state()
        first.update({"output": OUTPUTS[:24]}, TARGETS[:24])
        second.load_state_dict(first.state_dict())
        second.update({"output": OUTPUTS[24:]}, TARGETS[24:])
        assert second.value() == pytest.approx(whole)


def test_a_dict_of_values_has_one_that_counts():
    class Both(MulticlassAccuracy):
        def compute(self):
            return {"map": super().compute(), "map_50": torch.tensor(1.0)}

    assert in_batches(Metric("map", Both(5, average="micro"))).value() == pytest.approx(of_all(OUTPUTS, TARGETS))
    with pytest.raises(UserError, match=r"'mAP' gives map, map_50; name it after the one that counts: Metric\('map'"):
        in_batches(Metric("mAP", Both(5))).value()


def test_a_torchmetrics_metric_stands_for_itself_in_a_task():
    made = Task(lambda: nn.Linear(2, 2), dict, functional.cross_entropy, MulticlassAccuracy(5))
    assert (made.metric.name, made.metric.higher_is_better) == ("MulticlassAccuracy", True)
    with pytest.raises(UserError, match="MeanMetric does not say whether higher is better"):
        Task(lambda: nn.Linear(2, 2), dict, functional.cross_entropy, MeanMetric())


def test_outputs_of_a_whole_split_are_held_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(module, "HELD_BYTES", 900)
    with pytest.raises(UserError, match="have it give a tensor with a number for each sample, or give a torchmetrics"):
        in_batches(Metric("accuracy", of_all))
    assert in_batches(Metric("accuracy", each)).value() > 0
