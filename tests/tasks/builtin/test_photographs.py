"""Crops of packaged photographs."""

import pytest
import torch

from bitladder.errors import UserError
from bitladder.tasks.builtin import photographs
from bitladder.tasks.builtin.photographs import DEVIATION, MEAN, PHOTOGRAPHS, SIDE, crops


def test_no_network_is_judged_on_photographs_that_it_was_fitted_to():
    assert not set(PHOTOGRAPHS["evaluation"]) & {*PHOTOGRAPHS["train"], *PHOTOGRAPHS["calibration"]}
    assert all(len(names) == len(set(names)) for names in PHOTOGRAPHS.values())


def test_every_photograph_is_in_the_packages_and_has_something_on_it():
    for name in {*PHOTOGRAPHS["calibration"], *PHOTOGRAPHS["evaluation"]}:
        image = photographs._load(name)
        assert image.shape[0] == 3 and min(image.shape[1:]) >= 150 and image.std() > 0.01, name
        assert image.min() >= 0 and image.max() <= 1, name


def test_crops_are_of_all_photographs_alike_and_the_same_each_time():
    count = len(PHOTOGRAPHS["evaluation"])
    images = crops("evaluation", count + 1, 0)
    assert images.shape == (count + 1, 3, SIDE, SIDE)
    assert images.min() >= -MEAN / DEVIATION - 1e-5 and images.max() <= (1 - MEAN) / DEVIATION + 1e-5
    assert torch.equal(images, crops("evaluation", count + 1, 0)) and not torch.equal(images[0], images[count])


def test_a_missing_package_is_named_with_how_to_install_it(monkeypatch):
    monkeypatch.setattr(photographs, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pyvision-toolkit is not .* pip install 'bitladder\[eff"):
        crops("evaluation", 20, 0)
