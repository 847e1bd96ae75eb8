"""Files of scores: what is written is read, and every network's samples are grouped alike."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from bitladder.errors import UserError
from bitladder.statistics.scores import GROUPS, Scores, leave_out, read_scores, save_scores


def test_what_is_written_is_read_and_the_same_values_give_the_same_bytes(tmp_path):
    left_out = leave_out(lambda rows: float(max(rows)), 30)
    scores = {"fp32": Scores(3, 2 / 3, np.array([1.0, 0.0, 1.0])), "network": Scores(30, 29.0, None, left_out)}
    for name in ("a", "b"):
        save_scores(tmp_path / name, scores)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found = read_scores(tmp_path / "a")
    assert found.keys() == scores.keys()
    for name, one in found.items():
        assert (one.samples, one.total) == (scores[name].samples, scores[name].total)
        for part in ("values", "left_out"):
            assert np.array_equal(getattr(one, part), getattr(scores[name], part))


def test_every_network_is_grouped_alike_and_each_sample_is_left_out_once():
    left = []
    first, second = (leave_out(lambda rows, k=k: left.append(rows) or float(k * sum(rows)), 50) for k in (1, 2))
    assert np.array_equal(2 * first, second) and len(first) == GROUPS
    assert sorted(row for rows in left[:GROUPS] for row in set(range(50)).difference(rows)) == list(range(50))


def test_what_an_older_version_kept_of_resamples_is_passed_over(tmp_path):
    older = {"network.total": np.array([0.5, 60.0]), "network.resampled": np.ones(299), "network.left_out": np.ones(50)}
    save_file(older, tmp_path / "it")
    assert read_scores(tmp_path / "it")["network"].left_out.size == 50


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
