"""Files of scores: what is written is read, and resamples are the same for every network."""

import numpy as np
import pytest

from bitladder.errors import UserError
from bitladder.statistics.scores import RESAMPLES, Scores, read_scores, resample, save_scores


def test_what_is_written_is_read_and_the_same_values_give_the_same_bytes(tmp_path):
    drawn, left_out = resample(lambda rows: float(max(rows)), 30)
    scores = {"fp32": Scores(3, 2 / 3, np.array([1.0, 0.0, 1.0])), "network": Scores(30, 29.0, None, drawn, left_out)}
    for name in ("a", "b"):
        save_scores(tmp_path / name, scores)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found = read_scores(tmp_path / "a")
    assert found.keys() == scores.keys()
    for name, one in found.items():
        assert (one.samples, one.total) == (scores[name].samples, scores[name].total)
        for part in ("values", "resampled", "left_out"):
            assert np.array_equal(getattr(one, part), getattr(scores[name], part))


def test_every_network_is_resampled_alike():
    first, second = (resample(lambda rows, k=k: float(k * sum(rows)), 50) for k in (1, 2))
    assert np.array_equal(2 * first[0], second[0]) and np.array_equal(2 * first[1], second[1])
    assert len(first[0]) == RESAMPLES and len(first[1]) == 50


def test_what_was_not_measured_has_no_scores(tmp_path):
    (tmp_path / "skipped").touch()
    save_scores(tmp_path / "refused", {})
    assert read_scores(tmp_path / "skipped") == read_scores(tmp_path / "refused") == {}


@pytest.mark.parametrize(("content", "says"), [(None, "no such file"), (b"\xff" * 20, "damaged")])
def test_a_missing_or_damaged_file_is_one_line(tmp_path, content, says):
    if content:
        (tmp_path / "it").write_bytes(content)
    with pytest.raises(UserError, match=rf"it: {says}.*`dvc repro`"):
        read_scores(tmp_path / "it")
