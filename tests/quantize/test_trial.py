"""What quantizes a rung is chosen on samples, and by more than their noise."""

from types import SimpleNamespace

import numpy as np
import pytest

from bitladder.network.evaluate import Comparison
from bitladder.quantize.mixed import _as_good_as_any, _fewest
from bitladder.quantize.trial import Trial
from bitladder.statistics.scores import Scores


def trial(wrong, sqnr_db=20.0, samples=500):
    """Give a trial that is wrong on these samples, beside an FP32 that is right on all."""
    values = np.ones(samples)
    values[list(wrong)] = 0
    found = Comparison(float(values.mean()), 1 - float(values.mean()), sqnr_db, None, samples)
    scores = Scores(samples, float(values.mean()), values)
    return Trial(SimpleNamespace(comparison=found, reference_value=1.0, scores=scores), True)


def test_a_costlier_technique_displaces_by_more_than_a_standard_error():
    cheaper = trial(range(10))
    assert not trial(range(9)).displaces(cheaper)  # one sample of one that differs
    assert trial(range(8)).displaces(cheaper)  # two of two
    assert not trial([*range(6), *range(20, 22)]).displaces(cheaper)  # four won, two lost: 2 of 6, whose error is 2.4
    assert not cheaper.displaces(trial(range(8)))


def test_sqnr_decides_where_the_metric_is_the_same_on_every_sample():
    assert trial(range(5), 30.0).displaces(trial(range(5), 20.0))
    assert not trial(range(5), 10.0).displaces(trial(range(5), 20.0))
    assert not trial(range(1, 6), 30.0).displaces(trial(range(5), 20.0))  # it is not: one lost, one won


@pytest.mark.parametrize(
    ("max_drop", "relative", "enough"),
    [(0.02, None, True), (0.0199, None, False), (None, 0.02, True), (0.5, 0.01, False), (None, None, False)],
)
def test_enough_is_within_both_limits(max_drop, relative, enough):
    assert trial(range(10)).is_enough(max_drop, relative) is enough


@pytest.mark.parametrize(
    ("enough", "most", "expected"),
    [
        ({1, 2, 4, 8}, 8, 1),
        ({4, 5, 8}, 8, 4),  # 8 layers are enough, too, and 6 would not be
        ({7, 8}, 8, 7),
        ({3, 20}, 20, 20),  # 3 lies between 2 and 4, neither of which is enough: it is not tried
        (set(), 6, None),
        ({1}, 1, 1),
    ],
)
def test_fewest_is_one_that_was_tried_itself(enough, most, expected):
    tried = []

    def is_enough(count):
        tried.append(count)
        return count in enough

    found = _fewest(is_enough, most)
    if found is not None:
        assert found in enough and found in tried
    assert found == expected
    assert len(tried) <= 2 * most.bit_length()


def test_where_nothing_is_enough_it_is_the_fewest_that_do_as_well_as_any():
    trials = {0: trial(range(100)), 1: trial(range(60)), 2: trial(range(41)), 4: trial(range(40)), 6: trial(range(45))}
    assert _as_good_as_any(trials) == 2
    assert _as_good_as_any({0: trial(range(5)), 3: trial(range(5, 10))}) == 0
