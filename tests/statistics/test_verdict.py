"""Verdicts at a confidence, and the number of samples that settles an open one."""

import numpy as np
import pytest

from bitladder.statistics.limits import allowed, is_within
from bitladder.statistics.paired import BOOTSTRAP, SCORE, Paired
from bitladder.statistics.score_interval import score_interval
from bitladder.statistics.verdict import judged, samples_for, samples_to_settle

Z = 1.959964


def paired(lost, won, samples):
    return Paired(samples, lost, won, (lost - won) / samples, *score_interval(lost, won, samples, Z), SCORE)


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        ((-0.01, 0.005), "holds"),
        ((0.004, 0.006), "undecided"),
        ((0.0051, 0.02), "fails"),
        ((None, None), "undecided"),
    ],
)
def test_a_goal_holds_or_fails_only_as_a_whole_interval(ends, verdict):
    assert judged(*ends, 0.005) == verdict


@pytest.mark.parametrize(
    ("disagree", "drop", "limit"),
    [(0.01, 0.0, 0.005), (0.014, 0.002, 0.005), (0.05, 0.0, 0.01), (0.05, 0.03, 0.01), (0.002, 0.0, 0.005)],
)
def test_so_many_samples_settle_it_in_four_of_five_cases(disagree, drop, limit):
    count = samples_for(limit, disagree, drop, 0.95)
    shares = [(disagree + drop) / 2, (disagree - drop) / 2, 1 - disagree]
    drawn = np.random.default_rng(0).multinomial(count, shares, size=1000)
    intervals = [score_interval(lost, won, count, Z) for lost, won, _ in drawn]
    settled = [high <= limit if drop < limit else low > limit for low, high in intervals]
    assert 0.76 <= np.mean(settled) <= 0.87


def test_half_a_point_wants_thousands_of_samples():
    """By (z_a + z_b) sqrt(share / n), 1 % of samples that disagree want 3,140 for half a point."""
    assert samples_for(0.005, 0.01, 0.0, 0.95) == pytest.approx(3140, rel=0.12)
    assert samples_for(0.05, 0.01, 0.0, 0.95) < 120


def test_a_drop_of_the_limit_itself_is_settled_by_no_number():
    assert samples_for(0.005, 0.01, 0.005, 0.95) is None
    assert samples_to_settle(paired(5, 0, 1000), 0.005, 0.95) is None


def test_what_was_measured_says_how_many_samples_would_settle_it():
    found = samples_to_settle(paired(9, 5, 1000), 0.005, 0.95)
    assert found == samples_for(0.005, 0.014, 0.004, 0.95) > 100_000
    assert samples_to_settle(paired(0, 0, 100), 0.005, 0.95) == pytest.approx(765, abs=2)


def test_a_gap_is_settled_on_both_sides():
    down, up = paired(2, 8, 1000), paired(8, 2, 1000)
    settled = [samples_to_settle(one, 0.01, 0.95, of_distance=True) for one in (down, up)]
    assert settled[0] == settled[1] > 1000
    assert down.distance().difference == up.distance().difference == pytest.approx(0.006)
    assert down.distance().low == 0 < down.distance().high
    assert paired(30, 0, 1000).distance().low > 0


def test_a_bootstrapped_interval_shrinks_with_the_root_of_the_samples():
    found = Paired(100, 40, 30, 0.02, -0.02, 0.05, BOOTSTRAP)
    few, many = (samples_to_settle(found, limit, 0.95) for limit in (0.04, 0.03))
    assert many == pytest.approx(4 * few, rel=0.01) and few > 100
    assert samples_to_settle(Paired(1, 1, 0, 1.0, None, None, "no interval"), 0.1, 0.95) is None


def test_a_limit_is_in_the_metrics_own_unit_or_a_share_of_the_reference():
    assert allowed(30.0, 0.5, 0.1) == 0.5 and allowed(-30.0, None, 0.1) == 3.0 and allowed(1.0, None, None) is None
    assert allowed(0.0, None, 0.1) == 0.0
    assert is_within(1e-9, 1e-9) and not is_within(1.1e-9, 1e-9) and is_within(5.0, None)
