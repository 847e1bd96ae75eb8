"""A metric sample by sample: where it is a mean, where it is not, and where a sample alone has none."""

import numpy as np
import pytest
import torch

from bitladder.network.per_sample import scores_of
from bitladder.tasks.task import Metric

LOGITS, CLASSES = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 5


def accuracy(logits, targets):
    return (logits.argmax(1) == targets).double().mean().item()


def rmse(logits, targets):
    return (logits[:, 0] - targets).square().mean().sqrt().item()


def correlation(logits, targets):
    return torch.corrcoef(torch.stack([logits[:, 0], targets.float()]))[0, 1].item()


def needs_all_classes(logits, targets):
    recalls = [(logits[targets == one].argmax(1) == one).double().mean() for one in range(5)]
    return torch.stack(recalls).mean().item()


def test_accuracy_is_right_or_wrong_on_each_sample():
    found = scores_of(Metric("accuracy", accuracy), {"output": LOGITS}, CLASSES)
    assert np.array_equal(found.values, (LOGITS.argmax(1) == CLASSES).numpy())
    assert found.total == pytest.approx(found.values.mean()) and found.resampled is None


@pytest.mark.parametrize(("name", "compute"), [("rmse", rmse), ("correlation", correlation)])
def test_a_metric_that_is_no_mean_is_resampled(name, compute, recwarn):
    found = scores_of(Metric(name, compute, False), {"output": LOGITS}, CLASSES)
    assert found.values is None and found.resampled.mean() == pytest.approx(found.total, abs=0.5)
    assert 0 < found.resampled.std() < 1 and len(found.left_out) == 40
    assert not recwarn.list


def test_a_metric_that_resamples_break_has_a_total_alone():
    few = slice(0, 6)
    found = scores_of(Metric("balanced", needs_all_classes), {"output": LOGITS[few]}, CLASSES[few])
    assert found.samples == 6 and found.values is None and found.resampled is None
