"""A metric sample by sample: where it is a mean, where it is not, and where a sample alone has none."""

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC
from torchmetrics.regression import MeanSquaredError, PearsonCorrCoef

from bitladder.network.per_sample import scores_of
from bitladder.statistics.jackknife import standard_error
from bitladder.tasks.metric import Metric
from bitladder.tasks.metric_groups import SIZE

LOGITS, CLASSES = torch.randn(90, 5, generator=torch.Generator().manual_seed(0)), torch.arange(90) % 5


def right(logits, targets):
    return (logits.argmax(1) == targets).double()


def rmse(logits, targets):
    return (logits[:, 0] - targets).square().mean().sqrt().item()


def correlation(logits, targets):
    return torch.corrcoef(torch.stack([logits[:, 0], targets.float()]))[0, 1].item()


def balanced(logits, targets):
    """A number only where every class is there."""
    return torch.stack([right(logits, targets)[targets == one].mean() for one in range(5)]).mean().item()


def scored(compute, count=90, first=LOGITS, targets=CLASSES, size=20):
    """Give what a state that took up samples in batches tells."""
    state = Metric("it", compute).state()
    for start in range(0, count, size):
        stop = min(start + size, count)
        state.update({"output": first[start:stop]}, targets[start:stop])
    return scores_of(state)


@pytest.mark.parametrize("compute", [right, lambda *pair: right(*pair).mean().item()])
def test_accuracy_is_right_or_wrong_on_each_sample(compute):
    """Whether it gives a value for each sample, or their mean."""
    found = scored(compute)
    assert np.array_equal(found.values, right(LOGITS, CLASSES).numpy())
    assert found.total == pytest.approx(found.values.mean()) and found.left_out is None


@pytest.mark.parametrize("compute", [rmse, correlation])
def test_a_metric_that_is_no_mean_is_kept_without_each_group(compute, recwarn):
    found = scored(compute)
    assert found.values is None and found.samples == 90
    assert abs(found.left_out.mean() - found.total) < 0.1 and 0 < standard_error(found.left_out) < 0.5
    assert not recwarn.list


def test_a_metric_that_a_missing_group_breaks_has_a_total_alone():
    found = scored(balanced, 6)
    assert found.samples == 6 and found.values is None and found.left_out is None


def test_states_of_torchmetrics_are_put_together_anew():
    """Macro accuracy, whose states are sums, is as noisy by groups of 8 as by single samples."""
    found = scored(MulticlassAccuracy(5))
    by_rows = scored(balanced)
    assert found.total == pytest.approx(by_rows.total) and found.samples == 90
    assert standard_error(found.left_out) == pytest.approx(standard_error(by_rows.left_out), rel=0.5)
    assert len(found.left_out) == -(-90 // SIZE)


@pytest.mark.parametrize("size", [1, 4, 7, 90])
@pytest.mark.parametrize("compute", [MulticlassAccuracy(5), MulticlassAUROC(5)])  # sums; lists
def test_groups_are_of_the_same_samples_however_they_are_batched(compute, size):
    """The target's outputs come in other batches than those that they are compared with."""
    one, other = (scored(compute, first=LOGITS.softmax(1), size=batch) for batch in (20, size))
    assert np.allclose(one.left_out, other.left_out)


def test_a_metric_of_torchmetrics_with_states_of_no_sum_has_no_noise_that_is_known():
    values = LOGITS[:, 0].clone()
    found = scored(PearsonCorrCoef(), first=values, targets=values + LOGITS[:, 1])
    assert found.values is None and found.left_out is None and found.total > 0.5
    squares = scored(MeanSquaredError(), first=values, targets=values + LOGITS[:, 1])
    assert squares.left_out.mean() == pytest.approx(squares.total, abs=0.2)
