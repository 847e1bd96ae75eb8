import math

import pytest
import torch

from bitladder.errors import UserError
from bitladder.network.evaluate import EQUAL_DB, agreement, compare, predict, sqnr_db
from bitladder.tasks.task import Metric, Split


def accuracy(logits, targets):
    return (logits.argmax(1) == targets).double().mean().item()


def test_sqnr_of_a_tenth_of_noise_is_20_db():
    signal = torch.tensor([[3.0, 4.0]])
    assert sqnr_db({"y": signal}, {"y": signal * 1.1}) == pytest.approx(20, abs=1e-4)


def test_sqnr_of_several_outputs_is_that_of_the_worst():
    signal = torch.tensor([[3.0, 4.0]])
    outputs = {"good": signal * 1.001, "bad": signal * 2}
    assert sqnr_db({"good": signal, "bad": signal}, outputs) == pytest.approx(0, abs=1e-4)


def test_sqnr_of_equal_and_of_empty_signals_is_a_number():
    zeros = torch.zeros(2, 2)
    assert sqnr_db({"y": zeros}, {"y": zeros}) == EQUAL_DB
    assert sqnr_db({"y": zeros}, {"y": zeros + 1}) == -EQUAL_DB


@pytest.mark.parametrize("kind", [torch.long, torch.uint8, torch.bool])
def test_integers_are_equal_or_not(kind):
    reference = torch.zeros(100, 10, dtype=kind)
    outputs = reference.clone()
    assert sqnr_db({"y": reference}, {"y": outputs}) == EQUAL_DB
    outputs[:10, 0] = 1
    assert sqnr_db({"y": reference}, {"y": outputs}) == pytest.approx(40)  # 1 of 100
    if kind != torch.bool:  # how far off a class is, means nothing
        assert sqnr_db({"y": reference}, {"y": outputs * 9}) == pytest.approx(40)
    assert sqnr_db({"y": reference}, {"y": torch.ones_like(reference)}) == pytest.approx(0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_sqnr_of_an_answer_that_is_no_number_is_as_bad_as_can_be(value):
    """What FP16 overflows to, or a broken graph answers, must not pass as equal."""
    outputs = torch.ones(4, 3)
    outputs[2, 1] = value
    assert sqnr_db({"y": torch.ones(4, 3)}, {"y": outputs}) == -EQUAL_DB


def test_agreement_counts_equal_top_1():
    reference = {"y": torch.eye(4)}
    outputs = {"y": torch.eye(4)[[0, 1, 2, 2]]}
    assert agreement(reference, outputs, torch.arange(4)) == 0.75


@pytest.mark.parametrize("shape", [(4, 1), (4, 3, 8, 8)])
def test_agreement_is_not_made_up_where_there_is_no_top_1(shape):
    assert agreement({"y": torch.rand(shape)}, {"y": torch.rand(shape)}, torch.zeros(4, dtype=torch.int64)) is None


@pytest.mark.parametrize(
    "targets",
    [
        torch.rand(4, 8),  # an embedding, or regressed values
        torch.rand(4),
        torch.tensor([0, 1, 2, 8]),  # of another thing than the 8 values
        torch.tensor([0, 1, 2, -100]),
        torch.zeros(4, 1, dtype=torch.int64),
        torch.zeros(4, dtype=torch.bool),
    ],
)
def test_agreement_is_of_classes_and_of_nothing_else(targets):
    same = {"y": torch.rand(4, 8)}
    assert agreement(same, same, targets) is None
    assert agreement(same, same, torch.tensor([0, 7, 3, 1], dtype=torch.uint8)) == 1


@pytest.mark.parametrize(("higher_is_better", "drop"), [(True, 0.25), (False, -0.25)])
def test_drop_has_the_metrics_direction(higher_is_better, drop):
    metric = Metric("accuracy", accuracy, higher_is_better)
    found = compare(metric, {"y": torch.eye(4)[[0, 1, 2, 2]]}, {"y": torch.eye(4)}, torch.arange(4))
    assert (found.value, found.drop, found.samples) == (0.75, drop, 4)


@pytest.mark.parametrize("value", ["0.9", None, math.nan, math.inf, True])
def test_a_metric_that_gives_no_number_is_refused(value):
    with pytest.raises(UserError, match="metric 'odd' must return a finite float"):
        Metric("odd", lambda outputs, targets: value)({"y": torch.eye(2)}, torch.arange(2))


def test_predict_gives_all_samples_whatever_the_batch():
    split = Split({"x": torch.arange(10.0)[:, None]}, torch.arange(10))
    for batch_size in (1, 3, 10, 99):
        outputs = predict(lambda x: {"double": x * 2, "same": x}, split, batch_size, "")
        assert torch.equal(outputs["double"], split.inputs["x"] * 2)
        assert torch.equal(outputs["same"], split.inputs["x"])
