"""Zeros behind the rows of an input image: where the NPU is wrong, and the repair where no convolution follows."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from bitladder.htp.registry import RULES
from bitladder.htp.rule import Example
from bitladder.socs import find_soc
from bitladder.targets.rule_figures import measure_rule
from bitladder.targets.workers import worker_pool

RULE = RULES["end-pad"]


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    with worker_pool(1, tmp_path_factory.mktemp("pool")) as workers:
        yield workers


def measured(pool, side: int, pads: tuple[int, ...], *layers: nn.Module):
    def build():
        return nn.Sequential(nn.ZeroPad2d(pads), *layers), (torch.randn(8, 3, side, side),)

    rule = replace(RULE, example=Example(build, ("W8A8",), writer="plain"))
    return measure_rule(rule, "W8A8", find_soc("SM8650"), pool)


def test_ahead_of_what_cannot_pad_by_itself_a_convolution_copies_the_image(pool):
    found = measured(pool, 24, (0, 1, 0, 1), nn.Sigmoid())
    assert found.before.sqnr_db < 20 and found.after.sqnr_db > 40
    assert found.same_db > 60


@pytest.mark.parametrize(
    ("side", "pads"), [(32, (0, 1, 0, 1)), (24, (1, 1, 1, 1)), (24, (0, 0, 0, 1))], ids=["32 px", "both ends", "below"]
)
def test_what_is_right_is_left_alone(side, pads, pool):
    assert measured(pool, side, pads, nn.Conv2d(3, 4, 3)) is None
